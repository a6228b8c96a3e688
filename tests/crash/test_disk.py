"""A disk that fills up: before the start, in the middle, at the end."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
from pathlib import Path

import pytest

from sapwood import finetune, resume
from sapwood.errors import Stopped, StorageError
from sapwood.run import files
from sapwood.run.disk import free_bytes
from sapwood.run.query import list_runs, read_events
from sapwood.train import saving
from sapwood.train.checkpoint import checkpoint_bytes, checkpoints, save_checkpoint
from sapwood.types import Event, Stepped
from tests.crash.work import folder_hash, only_run, tiny_config
from tests.train.runs import six_steps, start


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, folder_hash(finetune(tiny_config(folder)).path)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "FIRST_WAIT", 0.01)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """``full``: whether the disk refuses what is written below a folder of that name."""
    state: dict[str, bool] = {}

    def refuse(name: str, path: Path) -> None:
        full = [part for part, is_full in state.items() if is_full and part in path.as_posix()]
        if full and name in ("mkdir", "open", "write", "fsync"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(files, "on_operation", refuse)
    return state


def test_a_full_disk_at_a_periodic_save_is_told_and_retried(
    undisturbed: tuple[Path, str],
    disk: dict[str, bool],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, expected = undisturbed
    held: dict[int, list[str]] = {}

    def fill(event: Event) -> None:
        if isinstance(event, Stepped):
            held[event.step] = [path.name for path in checkpoints(only_run(tmp_path))]
            disk["checkpoints/"] = event.step in (2, 3, 4)

    with caplog.at_level(logging.WARNING):
        adapter = finetune(tiny_config(folder, tmp_path), fill)
    assert folder_hash(adapter.path) == expected
    assert held[5] == ["step-000001"], "three saves were refused"
    assert [p.name for p in checkpoints(only_run(tmp_path))] == ["step-000005", "step-000006"]
    told = {m for m in caplog.messages if "training goes on: the disk is full" in m}
    assert {m.split(" failed")[0] for m in told} == {f"checkpoint of step {step}" for step in (2, 3, 4)}
    notes = [e for e in read_events(only_run(tmp_path))[0] if e["kind"] == "note"]
    assert {note["step"] for note in notes} == {2, 3, 4}  # a step may be tried twice: as due, and as the best


def test_the_last_save_waits_for_room(
    undisturbed: tuple[Path, str],
    disk: dict[str, bool],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, expected = undisturbed
    disk[".tmp-adapter"] = True
    timer = threading.Timer(2.5, lambda: disk.update({".tmp-adapter": False}))

    def free_some(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 6:
            timer.start()

    with caplog.at_level(logging.WARNING):
        adapter = finetune(tiny_config(folder, tmp_path), free_some)
    timer.join()
    assert adapter.path == only_run(tmp_path) / "adapter"
    assert folder_hash(adapter.path) == expected
    assert any("the last save failed, next attempt in" in m for m in caplog.messages)


def test_the_last_save_can_go_elsewhere(
    undisturbed: tuple[Path, str], disk: dict[str, bool], tmp_path: Path
) -> None:
    folder, expected = undisturbed
    disk["runs/"] = False

    def fill(event: Event) -> None:
        disk["runs/"] |= isinstance(event, Stepped) and event.step >= 5

    adapter = finetune(tiny_config(folder, tmp_path / "runs"), fill, spill=tmp_path / "spill")
    (run,) = list_runs(tmp_path / "runs")
    assert adapter.path == tmp_path / "spill" / run.id / "adapter"
    assert folder_hash(adapter.path) == expected
    disk["runs/"] = False
    assert folder_hash(resume(run.path).path) == expected, "with room again, the run can have it too"


def test_patience_ends_with_the_disk_s_own_words(
    undisturbed: tuple[Path, str], disk: dict[str, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "PATIENCE", 0.05)
    folder, expected = undisturbed
    disk[".tmp-adapter"] = True
    with pytest.raises(StorageError, match=r"the disk is full · .* needed, .* free · ") as caught:
        finetune(tiny_config(folder, tmp_path))
    assert caught.value.exit_code == 5
    disk.clear()
    assert folder_hash(resume(only_run(tmp_path)).path) == expected


def test_a_stop_on_a_full_disk_says_that_it_is_not_saved(
    undisturbed: tuple[Path, str], disk: dict[str, bool], tmp_path: Path
) -> None:
    folder, expected = undisturbed

    def stop(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 3:
            disk["checkpoints/"] = True
            os.kill(os.getpid(), 15)

    with pytest.raises(Stopped, match="stopped after step 3, not saved: the disk refused"):
        finetune(tiny_config(folder, tmp_path), stop)
    disk.clear()
    assert folder_hash(resume(only_run(tmp_path)).path) == expected


def test_room_is_asked_for_before_the_first_step(
    undisturbed: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = undisturbed
    seen: list[Event] = []
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    assert free_bytes(tmp_path) == 100_000
    with pytest.raises(StorageError, match=r"the disk is full · .* bytes needed, 100,000 free"):
        finetune(tiny_config(folder, tmp_path), seen.append)
    assert seen == []


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_the_room_that_is_asked_for_is_what_a_checkpoint_takes(rank: int, tmp_path: Path) -> None:
    from sapwood.train.loop import train
    from tests.train.runs import data

    settings = six_steps(lora={"rank": rank})
    model, state = start(settings)
    next(train(model, data(held_out=0), state, settings))
    path = save_checkpoint(tmp_path, model, state, keep=1, events_length=0)
    size = sum(file.stat().st_size for file in path.iterdir())
    assert size <= checkpoint_bytes(model) <= size + 80_000
