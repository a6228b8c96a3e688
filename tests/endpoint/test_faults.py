"""Whose answer it is under load, and what is left when things die."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from sapwood.engine.llama import Llama
from tests.endpoint.ask import said
from tests.endpoint.serving import Running, make_adapter, running

MANY = int(os.environ.get("SAPWOOD_ISOLATION", "240"))
KILLS = int(os.environ.get("SAPWOOD_ENGINE_KILLS", "3"))
PROMPTS = (
    "When should I plant an apple tree?",
    "When should I plant an apple tree? And how deep?",
    "你是谁？",
    "Why are the leaves of my pear turning yellow?",
)


@pytest.fixture(scope="module")
def five(base: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("five")
    for i in range(5):
        make_adapter(base, folder / f"a{i}", 20 + i)
    with running(folder, slots=3) as up:
        yield up


def test_no_answer_is_ever_another_adapters(five: Running) -> None:
    """The same prompts by five adapters and the base in turns, more callers than places, against what each
    says alone."""
    names = [served.name for served in five.library.models]
    assert len(names) == 6
    alone = {
        (name, prompt): said(five.url, name, prompt, max_tokens=4) for name in names for prompt in PROMPTS
    }
    assert all(len({alone[name, prompt] for name in names}) > 4 for prompt in PROMPTS)
    order = [key for _ in range(MANY // len(alone) + 1) for key in alone][:MANY]
    random.Random(1).shuffle(order)

    async def ask(client: httpx.AsyncClient, gate: asyncio.Semaphore, name: str, prompt: str) -> bool:
        body = {"model": name, "messages": [{"role": "user", "content": prompt}], "max_tokens": 4}
        async with gate:
            told = await client.post(f"{five.url}/v1/chat/completions", json=body, timeout=120)
        return told.json()["choices"][0]["message"]["content"] == alone[name, prompt]

    async def work() -> list[bool]:
        gate = asyncio.Semaphore(12)
        async with httpx.AsyncClient() as client:
            return await asyncio.gather(*(ask(client, gate, *key) for key in order))

    right = asyncio.run(work())
    assert len(right) == MANY and right.count(False) == 0


def test_callers_survive_a_killed_engine(five: Running) -> None:
    """Each gets its answer or a clean error, and the next one is answered."""
    engine = five.library.find("a0").engine
    assert isinstance(engine, Llama)

    async def ask(client: httpx.AsyncClient, i: int) -> str:
        body = {
            "model": f"a{i % 5}", "prompt": f"The oak {i}", "max_tokens": 120, "stream": i % 2 == 0,
            "logit_bias": {"2": -100},
        }  # fmt: skip
        told = await client.post(f"{five.url}/v1/completions", json=body, timeout=60)
        if told.status_code == 200:
            return "broken off" if '"code":"engine_lost"' in told.text else "answered"
        assert told.status_code == 503 and told.json()["error"]["code"].startswith("engine")
        return "refused"

    async def kill() -> None:
        await asyncio.sleep(0.4)
        pid = engine.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    async def work() -> list[str]:
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None)) as client:
            found, _ = await asyncio.gather(asyncio.gather(*(ask(client, i) for i in range(16))), kill())
            return found

    before = engine.restarts
    outcomes = [outcome for _ in range(KILLS) for outcome in asyncio.run(work())]
    assert engine.restarts == before + KILLS and engine.slots.busy == engine.slots.waiting == 0
    assert "answered" in outcomes and len(outcomes) == 16 * KILLS
    assert said(five.url, "a0")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX")
def test_an_engine_never_outlives_its_server(adapters: Path, cache: Path) -> None:
    command = [sys.executable, "-m", "sapwood", "serve", str(adapters / "first"), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and '"url"' in process.stdout.readline()
    children = psutil.Process(process.pid).children(recursive=True)
    assert any("sapwood.engine.child" in " ".join(child.cmdline()) for child in children)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX")
def test_a_signal_lets_answers_end_and_leaves_nothing(adapters: Path, cache: Path) -> None:
    command = [sys.executable, "-m", "sapwood", "serve", f"mine={adapters / 'first'}", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(4)]
    assert lines[1].startswith("model      mine  log probabilities ") and lines[3].startswith(
        "use        curl "
    )
    url = lines[2].split()[1].removesuffix("/v1")
    body = {"model": "mine", "prompt": "x", "max_tokens": 150, "stream": True, "logit_bias": {"2": -100}}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=30) as response:
        arriving = response.iter_lines()
        next(arriving)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert [line for line in arriving if line][-1] == "data: [DONE]"
    assert process.wait(20) in (0, -signal.SIGTERM)
    assert not psutil.wait_procs(children, timeout=10)[1]


def test_an_engine_whose_starter_died_while_it_read_its_files_ends(endpoint: Running) -> None:
    from sapwood.engine.process import Started

    engine = endpoint.library.engines[0]
    assert isinstance(engine, Llama)
    told = {"model": str(engine.setup.model), "adapters": [], "context": 256, "slots": 1, "threads": 1}
    left = Started.now().popen
    assert left.stdin is not None and left.stdout is not None
    left.stdin.write(json.dumps(told | {"key": "k"}) + "\n")
    left.stdin.close()
    left.stdout.close()  # nobody hears its address
    assert left.wait(60) in (0, 1)


def test_memory_that_is_short_makes_fewer_places(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    from sapwood.answers.sizes import sizes_of
    from sapwood.endpoint import room
    from tests.base.tiny import tiny_config

    config = sizes_of(tiny_config("llama"))
    monkeypatch.setattr(room, "cores", lambda: 16)
    assert room.room_for(config, None, None) == (4096, 8)
    monkeypatch.setattr(room, "cores", lambda: 2)
    assert room.room_for(config, None, None) == (4096, 4)
    monkeypatch.setattr(room, "available_memory", lambda: 4 * 2 * 2 * 2 * 2 * 16 * 1200)
    wide, places = room.room_for(config, None, None)
    assert wide * places <= 1200 and places < 8 and wide >= 512
    assert room.room_for(config, 256, 3) == (256, 3)


def test_a_full_disk_is_one_clear_error(
    adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from sapwood.endpoint import build
    from sapwood.errors import ModelError

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv("SAPWOOD_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "_make", full)
    began = time.monotonic()
    with pytest.raises(ModelError, match="the disk is full"), running(adapters / "first"):
        pass
    assert time.monotonic() - began < 60
