"""Our endpoint against llama.cpp's own, of the same library, on the same files: tokens a second, and the time
to the first token, for 1, 4, 16 and 64 callers at once. Both run from the beginning and are asked in turns.
And the time from a command line to its first answer's last byte, with everything in the cache.

    python bench/serve.py RUN_OR_ADAPTER_OR_BASE --callers 1,4,16,64
    python bench/serve.py RUN_OR_ADAPTER_OR_BASE --only start
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp

from common import ROOT, Result, arguments, machine, report, table

WORDS = [
    "tree",
    "leaf",
    "root",
    "soil",
    "rain",
    "pear",
    "oak",
    "frost",
    "graft",
    "water",
    "prune",
    "plant",
    "bark",
    "seed",
    "moss",
    "stone",
    "wind",
    "light",
]


HEADER = [
    *("", "ours tok/s", "llama.cpp", "ratio"),
    *("first p50 s", "p99", "llama.cpp p50", "p99", "p99 ratio", "turns", "answers"),
]


@dataclass
class Side:
    """An endpoint: where it is, what each request carries beside the prompt, and what was measured."""

    name: str
    url: str
    headers: dict[str, str]
    more: dict[str, Any]
    seconds: float = 0.0
    tokens: int = 0
    first: list[float] = field(default_factory=list[float])


async def ask(
    session: aiohttp.ClientSession, side: Side, ids: Sequence[int], tokens: int
) -> tuple[float, int]:
    """(seconds to the first token, tokens) of one streamed answer."""
    body = {"prompt": list(ids), "max_tokens": tokens, "temperature": 0, "stream": True, **side.more}
    body["stream_options"] = {"include_usage": True}
    began, first, written = time.perf_counter(), 0.0, 0
    async with session.post(f"{side.url}/v1/completions", json=body, headers=side.headers) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            first = first or time.perf_counter() - began
            told = json.loads(line[6:])
            written = (told.get("usage") or {}).get("completion_tokens", written)
    assert written == tokens, f"{side.name}: {written} of {tokens} tokens"
    return first, written


async def load(side: Side, prompts: Sequence[Sequence[int]], callers: int, tokens: int) -> None:
    """All prompts, so many at a time."""
    gate = asyncio.Semaphore(callers)

    async def one(session: aiohttp.ClientSession, ids: Sequence[int]) -> tuple[float, int]:
        async with gate:
            return await ask(session, side, ids, tokens)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as session:
        began = time.perf_counter()
        found = await asyncio.gather(*(one(session, ids) for ids in prompts))
        side.seconds += time.perf_counter() - began
    side.tokens += sum(written for _, written in found)
    side.first += [first for first, _ in found]


@dataclass
class Row:
    """So many callers at once: what was measured of both sides, turn by turn. The ratio is the median of the
    turns' ratios, since a machine that is disturbed for a moment meets one side of one turn."""

    callers: int
    draw: random.Random
    turns: int = 0
    found: dict[str, Side] = field(default_factory=dict[str, Side])
    ratios: list[float] = field(default_factory=list[float])

    def turn(self, sides: Sequence[Side], given: argparse.Namespace, vocabulary: Sequence[int]) -> None:
        """Both sides, with the same prompts, which neither has seen."""
        count = max(self.callers, 4) if given.requests is None else given.requests
        prompts = [self.draw.choices(vocabulary, k=given.prompt) for _ in range(count)]
        took: dict[str, float] = {}
        for side in sides if self.turns % 2 == 0 else sides[::-1]:
            mine = self.found.setdefault(side.name, replace(side, first=[]))
            before = mine.seconds
            asyncio.run(load(mine, prompts, self.callers, given.tokens))
            took[side.name] = mine.seconds - before
        self.turns += 1
        self.ratios.append(took[sides[1].name] / took[sides[0].name])

    def result(self) -> Result:
        both = list(self.found.values())
        ours, theirs = ([_quantile(side.first, q) for q in (0.5, 0.99)] for side in both)
        rates = [side.tokens / side.seconds for side in both]
        return {
            "name": f"{self.callers} callers",
            "ours": rates[0],
            "llama": rates[1],
            "ratio": statistics.median(self.ratios),
            "first_p50": ours[0],
            "first_p99": ours[1],
            "llama_first_p50": theirs[0],
            "llama_first_p99": theirs[1],
            "first_p99_ratio": ours[1] / theirs[1],
            "turns": self.turns,
            "answers": len(both[0].first),
        }


def measure(
    sides: Sequence[Side], callers: Sequence[int], given: argparse.Namespace, vocabulary: Sequence[int]
) -> list[Result]:
    """One turn of each number of callers after the other, as many as fit the time and two at least: what the
    machine does meanwhile meets all of them alike."""
    rows = [Row(count, random.Random(count)) for count in callers]
    began, longest = time.perf_counter(), 0.0
    for turn in range(given.turns):
        before = time.perf_counter()
        if turn >= 2 and before - began + longest > given.seconds:
            break
        for row in rows:
            row.turn(sides, given, vocabulary)
        longest = max(longest, time.perf_counter() - before)
    return [row.result() for row in rows]


def _quantile(values: Sequence[float], q: float) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[round(q * 100) - 1]


@contextmanager
def ours(target: str, runs: str, slots: int | None = None, context: int | None = None) -> Any:
    """`sapwood serve` in a process of its own; gives what it tells when it is ready."""
    command = [sys.executable, "-m", "sapwood", "serve", target, "--runs", runs, "--port", "0", "--json"]
    command += [] if slots is None else ["--parallel", str(slots)]
    command += [] if context is None else ["--context", str(context)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


def start_times(given: argparse.Namespace, target: str) -> list[Result]:
    """Each in a new process, from its start; the first fills the cache."""
    rows: list[Result] = []
    for turn in range(given.starts + 1):
        began = time.perf_counter()
        with ours(target, given.runs) as told:
            ready = time.perf_counter() - began
            body = {"model": told["models"][-1]["id"], "max_tokens": 16}
            body["messages"] = [{"role": "user", "content": "When should I plant an apple tree?"}]
            address, headers = f"{told['url']}/chat/completions", {"Content-Type": "application/json"}
            with urllib.request.urlopen(
                urllib.request.Request(address, json.dumps(body).encode(), headers)
            ) as answer:
                json.loads(answer.read())
            answered = time.perf_counter() - began
        rows.append(
            {
                "name": f"start {turn}" if turn else "to fill the cache",
                "ready_s": ready,
                "answered_s": answered,
            }
        )
    return rows


def speeds(given: argparse.Namespace, target: str) -> list[Result]:
    """Both endpoints on the same files, in turns."""
    from sapwood.endpoint.build import kept
    from sapwood.engine.process import Process, Setup, scales
    from sapwood.serve.found import find_place

    callers = [1, 2] if given.smoke else [int(n) for n in given.callers.split(",")]
    with ours(target, given.runs, given.slots, 512) as told:
        opened = kept(find_place(target, Path(given.runs)))
        assert opened is not None and opened.files is not None, "it isn't served by llama.cpp"
        files, found = opened.files, opened.find()
        adapters = (files.adapter,) if files.adapter is not None else ()
        peer = Process(Setup(files.base, adapters, 512, given.slots))
        try:
            never = {str(id): -100 for id in {*found.renderer.stop_ids, *_ends(found)}}
            model = told["models"][-1]["id"]
            mine = Side("sapwood", told["url"].removesuffix("/v1"), {}, {"model": model, "logit_bias": never})
            lora = scales(adapters, files.adapter)
            own = Side(
                "llama.cpp", f"http://{peer.address}", peer.headers, {"lora": lora, "logit_bias": never}
            )
            ids = [found.spec.tokenizer.encode(f" {word}", add_special_tokens=False)[0] for word in WORDS]
            for side in (mine, own):
                asyncio.run(load(side, [ids] * 2, 2, 4))  # what happens once, happens before
            return measure((mine, own), callers, given, ids)
        finally:
            peer.stop()


def main() -> int:
    parser = arguments(__doc__, rows=0)
    parser.add_argument("target", nargs="?", help="a run, an adapter or a base (the model)")
    parser.add_argument("--runs", default="runs", help="folder of runs (%(default)s)")
    parser.add_argument("--only", choices=("start", "speed"), help="one of the two")
    parser.add_argument("--starts", type=int, default=3, help="with a warm cache (%(default)s)")
    parser.add_argument("--callers", default="1,4,16,64", help="at once (%(default)s)")
    parser.add_argument("--turns", type=int, default=14, help="of each side, at most (%(default)s)")
    parser.add_argument("--seconds", type=float, default=400, help="after which no turn begins (%(default)s)")
    parser.add_argument("--requests", type=int, help="of a turn; as many as there are callers, 4 at least")
    parser.add_argument("--tokens", type=int, default=32, help="of an answer (%(default)s)")
    parser.add_argument("--prompt", type=int, default=48, help="tokens of a prompt (%(default)s)")
    parser.add_argument("--slots", type=int, default=16, help="answers at once, of both (%(default)s)")
    given = parser.parse_args()
    from tests.base.tiny import tiny_llama

    facts, starts, rows = machine(), list[Result](), list[Result]()
    with tempfile.TemporaryDirectory(prefix="sapwood-serve-") as folder:
        target = str(tiny_llama(Path(folder))) if given.smoke else given.target or given.model
        if given.only != "speed":
            starts = start_times(given, target)
            print(table(["", "ready s", "answered s"], [list(row.values()) for row in starts]))
            warm = statistics.median(row["answered_s"] for row in starts[1:])
            print(
                f"start to first answer, warm cache, median of {given.starts}: {warm:.2f} s (3 are allowed)\n"
            )
        if given.only != "start":
            rows = speeds(given, target)
            print(table(HEADER, [list(row.values()) for row in rows]))
    report("serve", given, facts, {"starts": starts, "rows": rows, "xllamacpp": version("xllamacpp")})
    return 0


def _ends(found: Any) -> set[int]:
    """Tokens on which llama.cpp ends by itself, by their usual names."""
    tokenizer = found.spec.tokenizer
    names = ("<|endoftext|>", "<|im_end|>", "</s>", "<|eot_id|>", "<end_of_turn>")
    known = tokenizer.get_vocab()
    return {known[name] for name in names if name in known}


if __name__ == "__main__":
    raise SystemExit(main())
