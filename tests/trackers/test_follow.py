"""A tracker beside a training that works, that breaks at the start, in the middle and at the end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from sapwood import finetune
from sapwood.errors import SapwoodError
from sapwood.run.query import find_run, list_runs, read_events
from sapwood.trackers import follow
from sapwood.trackers.send import send_run
from sapwood.types import Event, Stepped
from tests.run.conftest import Make
from tests.test_pipeline import make_config
from tests.trackers.test_trackers import read_tensorboard, read_trackio, sapwood_track


def train_beside(folder: Path, mischief: Callable[[Event], None] | None = None) -> Path:
    """A tiny training that TensorBoard follows; ``mischief`` sees every event. Returns the finished run."""
    config = make_config(folder)
    finetune(
        config.model_copy(update={"track": config.track.model_copy(update={"to": ("tensorboard",)})}),
        mischief,
    )
    run = find_run(folder / "runs", "last")
    assert list_runs(folder / "runs")[0].status == "finished"
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    return run


def followers() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "--follow" in p.cmdline()]


def the_follower() -> psutil.Process:
    (child,) = followers()
    return child


def warnings_of(run: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    events, _ = read_events(run)
    notes = [e["data"]["text"] for e in events if e["kind"] == "note" and "tensorboard" in e["data"]["text"]]
    told = [r.getMessage() for r in caplog.records if r.name == "sapwood.trackers"]
    assert notes == told, "what is said is also kept"
    return told


def test_a_followed_run_is_told_as_it_is_and_nobody_is_left_behind(tmp_path: Path) -> None:
    run = train_beside(tmp_path)
    kept = read_tensorboard(run)
    events, _ = read_events(run)
    losses = [(e["step"], e["data"]["loss"]) for e in events if e["kind"] == "stepped"]
    assert kept.curves["train/loss"] == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in losses]
    assert kept.text.count("prompt:") == 2 * sum(e["kind"] == "evaluated" for e in events)
    assert not followers()
    assert send_run(run, "tensorboard", project="p", cloud=False) == (None, 0)


def test_a_tracker_that_fails_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def occupy(event: Event) -> None:
        if event.step == 0:  # the tracker is still importing its library
            (find_run(tmp_path / "runs", "last") / "tensorboard").write_text("a file where a folder belongs")

    (told,) = warnings_of(train_beside(tmp_path, occupy), caplog)
    assert "tensorboard stopped, training didn't: tensorboard failed" in told
    assert "sapwood track" in told


def test_a_tracker_that_dies_in_the_middle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def kill(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 3:
            child = the_follower()
            child.kill()
            while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
                pass

    run = train_beside(tmp_path, kill)
    (told,) = warnings_of(run, caplog)
    assert "exit code -9" in told
    place, events = send_run(run, "tensorboard", project="p", cloud=False)
    assert place is not None, "sent later, all of it"
    assert events == sum(e["kind"] in ("stepped", "evaluated") for e in read_events(run)[0])
    assert len(read_tensorboard(run).curves["train/loss"]) == 6


def test_a_tracker_that_hangs_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "GRACE", 0.5)

    def freeze(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 6:
            the_follower().suspend()

    (told,) = warnings_of(train_beside(tmp_path, freeze), caplog)
    assert "didn't come to an end in time" in told
    assert not followers()


def test_a_follower_ends_by_itself_when_the_training_is_killed(make_run: Make) -> None:
    run = make_run(name="keeper", status="running")
    command = [sys.executable, "-m", "sapwood", "track", str(run), "--to", "tensorboard", "--follow"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as follower:
        assert follower.stdin is not None
        follower.stdin.close()  # what a SIGKILL of the training does
        assert follower.wait(30) == 0
    assert len(read_tensorboard(run).curves["train/loss"]) == 8


@pytest.mark.parametrize(("name", "key"), [("swanlab", "SWANLAB_API_KEY"), ("wandb", "WANDB_API_KEY")])
def test_the_cloud_without_a_key_is_an_error_and_no_question(name: str, key: str, make_run: Make) -> None:
    done = sapwood_track(make_run(name="keeper"), "--to", name, "--cloud")
    assert done.returncode == 2
    assert key in done.stderr.splitlines()[-1]


def test_a_tracker_that_is_not_installed_says_how_to_get_it(
    make_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as on a machine without it
    with pytest.raises(SapwoodError, match=r"pip install 'wandb"):
        send_run(make_run(name="keeper"), "wandb", project="p", cloud=False)


def test_one_tracker_that_fails_keeps_no_other_from_it(make_run: Make) -> None:
    run = make_run(name="keeper")
    (run / "tensorboard").write_text("a file where a folder belongs")
    done = sapwood_track(run, "--to", "tensorboard", "--to", "trackio")
    assert done.returncode == 1
    assert "tensorboard failed" in done.stderr
    assert len(read_trackio(run, "sapwood").curves["train/loss"]) == 8


def test_a_tracker_gets_as_many_points_as_are_wanted(make_run: Make) -> None:
    run = make_run(name="keeper", steps=8)
    send_run(run, "tensorboard", project="p", cloud=False, every=3)
    curves = read_tensorboard(run).curves
    assert [step for step, _ in curves["train/loss"]] == [3, 6]
    assert [step for step, _ in curves["eval/loss"]] == [0, 4, 8]


def test_a_tracker_must_be_named(make_run: Make) -> None:
    done = sapwood_track(make_run(name="keeper"))
    assert (done.returncode, "no tracker is named" in done.stderr) == (2, True)


def test_disabled_starts_nothing(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    track = config.track.model_copy(update={"to": ("wandb",), "mode": "disabled"})
    finetune(config.model_copy(update={"track": track}))
    assert not (find_run(tmp_path / "runs", "last") / "trackers").exists()
