"""A number of threads that was measured on a busy machine is measured again after three steps, and a resumed
run computes every step with as many as the undisturbed one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from sapwood.config.file import load_config
from sapwood.errors import Stopped
from sapwood.machine import measure
from sapwood.machine.load import LoadMeter
from sapwood.pipeline import finetune
from sapwood.restart import resume
from sapwood.run.query import find_run
from sapwood.train import threads as threads_module
from sapwood.types import Event, Stepped, Stop
from tests.base.tiny import tiny_llama


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A busy machine that is idle once three steps are done; there, two threads are fastest."""
    tiny_llama(tmp_path)
    rows = [{"prompt": f"Tree {i}?", "completion": f"Water tree {i} well."} for i in range(12)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    before, real = torch.get_num_threads(), measure.machine_facts
    monkeypatch.setattr(LoadMeter, "share", lambda self: 0.7)
    real.cache_clear()
    monkeypatch.setattr("sapwood.pipeline.measure_when_idle", lambda device: False)
    monkeypatch.setattr(threads_module, "measure_when_idle", lambda device: True)
    monkeypatch.setattr(threads_module, "machine_facts", lambda device: {**real(device), "threads": 2})
    yield tmp_path
    torch.set_num_threads(before)
    real.cache_clear()


def started(home: Path, runs: str, stop_at: int | None, seen: list[tuple[int, int]]) -> Path:
    """The folder of a run of six steps that is stopped behind a step; what was seen: (step, threads)."""
    config = load_config(
        None,
        [
            f"base.model={home / 'tiny-llama'}", "base.storage=fp32", f"data.train={home / 'rows.jsonl'}",
            "data.eval=0", "lora.rank=2", "train.batch_size=4", "train.max_steps=6",
            f"save.dir={home / runs}",
        ],
    )  # fmt: skip

    def watch(event: Event) -> Stop | None:
        if isinstance(event, Stepped):
            seen.append((event.step, torch.get_num_threads()))
            return Stop() if event.step == stop_at else None
        return None

    if stop_at is None:
        return finetune(config, watch).path.parent
    with pytest.raises(Stopped):
        finetune(config, watch)
    return find_run(home / runs, "last")


def bits(run: Path) -> str:
    return sha256((run / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


def test_a_resumed_run_changes_its_threads_where_the_undisturbed_one_did(home: Path) -> None:
    seen: list[tuple[int, int]] = []
    whole = started(home, "whole", None, seen)
    assert [count for _, count in seen] == [1, 1, 1, 2, 2, 2]
    assert json.loads((whole / "run.json").read_text())["threads"] == {"3": 2}
    torch.set_num_threads(1)
    stopped = started(home, "stopped", 4, [])
    torch.set_num_threads(1)
    resumed: list[int] = []
    resume(
        stopped, lambda event: resumed.append(torch.get_num_threads()) if isinstance(event, Stepped) else None
    )
    assert resumed == [2, 2]
    assert bits(stopped) == bits(whole)


def test_a_run_that_was_stopped_before_it_decided_stays_as_it_began(home: Path) -> None:
    stopped = started(home, "early", 2, [])
    torch.set_num_threads(2)  # what another process would have by itself
    resumed: list[int] = []
    resume(
        stopped, lambda event: resumed.append(torch.get_num_threads()) if isinstance(event, Stepped) else None
    )
    assert resumed == [1, 1, 1, 1]
    assert "threads" not in json.loads((stopped / "run.json").read_text())
