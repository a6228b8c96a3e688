"""A run that gets worse again: it stops, keeps its best checkpoint and leaves its best weights."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from sapwood import finetune, resume
from sapwood.adapter.folder import load_adapter
from sapwood.config.sections import RunConfig
from sapwood.errors import Stopped
from sapwood.run.query import find_run, read_events
from sapwood.train.checkpoint import checkpoints
from sapwood.types import Event, Stepped
from tests.test_pipeline import adapter_hashes, make_config

PATIENCE = 2


def overfit(folder: Path, runs: Path | None = None, **save: object) -> RunConfig:
    """The rate is far too high: after a few steps the held-out loss only rises."""
    config = make_config(folder, runs)
    train = config.train.model_copy(update={"lr": 0.5, "epochs": 8.0, "schedule": "constant"})
    measure = config.eval.model_copy(update={"every": 1, "patience": PATIENCE, "samples": 0})
    kept = config.save.model_copy(update={"every": 100, "keep": 1, **save})
    return config.model_copy(update={"train": train, "eval": measure, "save": kept})


def losses(run: Path) -> dict[int, float]:
    events, _ = read_events(run)
    return {e["step"]: e["data"]["loss"] for e in events if e["kind"] == "evaluated"}


@pytest.fixture(scope="module")
def stopped_early(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("overfit")
    finetune(overfit(folder))
    return find_run(folder / "runs", "last")


def best_of(run: Path) -> int:
    measured = losses(run)
    return min((step for step in measured if step), key=lambda step: measured[step])


def test_it_stops_and_leaves_the_best_weights(stopped_early: Path) -> None:
    best = best_of(stopped_early)
    assert max(losses(stopped_early)) == best + PATIENCE
    (kept,) = [path for path in checkpoints(stopped_early) if path.name == f"step-{best:06d}"]
    ours, theirs = (
        load_file(folder / "adapter_model.safetensors") for folder in (stopped_early / "adapter", kept)
    )
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    adapter = load_adapter(stopped_early / "adapter")
    assert adapter.final_loss == losses(stopped_early)[best]
    reason = next(e["data"]["reason"] for e in read_events(stopped_early)[0] if e["kind"] == "finished")
    assert reason == "stopped early"


def test_stopped_and_resumed_it_is_the_same(stopped_early: Path, tmp_path: Path) -> None:
    folder = stopped_early.parents[1]
    last = max(losses(stopped_early))

    def interrupt(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == last - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        finetune(overfit(folder, tmp_path), interrupt)
    run = find_run(tmp_path, "last")
    resume(run)
    assert losses(run) == losses(stopped_early)
    assert adapter_hashes(run) == adapter_hashes(stopped_early)


def test_the_last_weights_where_they_are_wanted(stopped_early: Path, tmp_path: Path) -> None:
    finetune(overfit(stopped_early.parents[1], tmp_path, adapter="last"))
    run = find_run(tmp_path, "last")
    assert load_adapter(run / "adapter").final_loss == losses(run)[max(losses(run))]


def test_a_best_checkpoint_that_is_gone_costs_a_warning(
    stopped_early: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    best = best_of(stopped_early)

    def damage(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == best + 1:
            (find_run(tmp_path, "last") / "checkpoints" / f"step-{best:06d}" / "state.json").write_text("{}")

    finetune(overfit(stopped_early.parents[1], tmp_path), damage)
    assert f"not of the best, {best}" in caplog.text
    run = find_run(tmp_path, "last")
    assert load_adapter(run / "adapter").final_loss == losses(run)[max(losses(run))]
