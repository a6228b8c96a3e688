"""Which checkpoints go: never the newest, never the best, never what isn't ours, whatever clocks say."""

from __future__ import annotations

import os
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sapwood.run.files import staged_dir, verify_dir
from sapwood.train import checkpoint
from sapwood.train.checkpoint import checkpoint_path, checkpoints, save_checkpoint

HISTORIES = 10_000 if "SAPWOOD_CRASH_ALL" in os.environ else 300
FOREIGN = ("best-keep", "step-keep", "step-12a", "checkpoint-900", "step-000900", "notes")


def small(final: Path, model: Any, state: Any, events_length: int) -> None:
    with staged_dir(final) as folder:
        (folder / "state.json").write_text(str(state.step))


def live(run: Path, rng: random.Random) -> None:
    """A run's life: saves, better evaluations, clocks that jump, folders that a person puts there."""
    keep, state, mine = rng.randint(1, 3), SimpleNamespace(step=0, best=None), set[Path]()
    for _ in range(rng.randint(3, 8)):
        state.step += rng.randint(1, 40)
        if rng.random() < 0.3:
            state.best = (state.step, 1.0)
        if rng.random() < 0.3:
            folder = run / "checkpoints" / rng.choice(FOREIGN)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "mine.txt").write_text("mine")
            mine.add(folder / "mine.txt")
        for path in run.glob("checkpoints/*"):
            moment = rng.uniform(0, 4e9)
            os.utime(path, (moment, moment))
        saved = save_checkpoint(run, state, state, keep=keep, events_length=0)  # type: ignore[arg-type]
        verify_dir(saved)
        assert state.best is None or checkpoint_path(run, state.best[0]).is_dir()
        assert all(path.read_text() == "mine" for path in mine)
        ours = [path for path in checkpoints(run) if path / "mine.txt" not in mine]
        assert saved in ours and min(keep, len(ours)) <= len(ours) <= keep + 1


def test_random_lives_lose_nothing_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "write_checkpoint", small)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # not what this is about
    rng = random.Random(12)
    for number in range(HISTORIES):
        live(tmp_path / str(number), rng)
