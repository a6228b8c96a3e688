"""The strength of the tests: each safeguard, taken out, turns the check that stands for it red."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sapwood import finetune, restart, resume
from sapwood.adapter import files as adapter_files
from sapwood.adapter.model import LoraModel
from sapwood.compute.dropout import DropoutClock
from sapwood.config.file import dump_config, load_config
from sapwood.errors import LockedError, NumericsError, StorageError
from sapwood.machine import system
from sapwood.run import files
from sapwood.run.lock import LOCK, RunLock
from sapwood.run.query import read_events
from sapwood.run.store import RunStore
from sapwood.train import checkpoint, loop
from sapwood.train.optim import TrainState
from sapwood.types import Event, Stepped
from tests.crash.faults import Killed, killed_at
from tests.crash.work import only_run, tiny_config
from tests.train.runs import adapter, data, same_bits, six_steps, start

Check = Callable[[Path], None]
Remove = Callable[[pytest.MonkeyPatch], None]
SETTINGS = six_steps()


# --- the checks ------------------------------------------------------------------------------------------


def synced_by(folder: Path) -> tuple[set[int], list[int]]:
    """Publish a folder; the inodes that were fsynced, and those synced after the rename."""
    synced: list[int] = []
    moved: list[int] = []
    fsync, rename = os.fsync, Path.rename

    def record(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        fsync(handle)

    def move(path: Path, target: Path) -> Path:
        moved.append(len(synced))
        return rename(path, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", record)
        patch.setattr(Path, "rename", move)
        with files.staged_dir(folder) as stage:
            (stage / "a").write_text("one")
            (stage / "b").write_text("two")
    return set(synced), synced[moved[0] :]


def files_are_synced(folder: Path) -> None:
    synced, _ = synced_by(folder / "done")
    assert {path.stat().st_ino for path in (folder / "done").iterdir()} <= synced


def folders_are_synced(folder: Path) -> None:
    synced, after = synced_by(folder / "done")
    assert (folder / "done").stat().st_ino in synced
    assert folder.stat().st_ino in after


def publish(folder: Path) -> Path:
    with files.staged_dir(folder / "done") as stage:
        (stage / "a").write_text("some content")
    return folder / "done" / "a"


def another_content_is_noticed(folder: Path) -> None:
    file = publish(folder)
    file.write_text("some contenT")
    with pytest.raises(StorageError):
        files.verify_dir(file.parent)


def another_size_is_told_as_such(folder: Path) -> None:
    file = publish(folder)
    file.write_text("some")
    with pytest.raises(StorageError, match="size differs"):
        files.verify_dir(file.parent)


def a_file_is_old_or_new(folder: Path) -> None:
    path = folder / "status.json"
    for number in itertools.count(1):
        path.write_text("old")
        try:
            with killed_at(number):
                files.write_atomic(path, "new")
        except Killed:
            assert path.read_text() in ("old", "new")
        else:
            assert path.read_text() == "new"
            return


def two_cannot_hold_one_run(folder: Path) -> None:
    first = RunLock(folder / LOCK)
    try:
        with pytest.raises(LockedError):
            RunLock(folder / LOCK)
    finally:
        first.release()


def an_older_one_goes_only_when_the_new_one_reads_back(folder: Path) -> None:
    """The disk takes a checkpoint and gives back other bytes."""
    model, state = start(SETTINGS)
    write = checkpoint.write_checkpoint

    def on_a_bad_disk(final: Path, *arguments: Any) -> None:
        write(final, *arguments)
        content = bytearray((final / "optimizer.safetensors").read_bytes())
        content[-1] ^= 1
        (final / "optimizer.safetensors").write_bytes(content)

    for event in loop.train(model, data(held_out=0), state, SETTINGS):
        if event.step == 1:
            checkpoint.save_checkpoint(folder, model, state, keep=1, events_length=0)
            continue
        with pytest.MonkeyPatch.context() as patch, pytest.raises(StorageError):
            patch.setattr(checkpoint, "write_checkpoint", on_a_bad_disk)
            checkpoint.save_checkpoint(folder, model, state, keep=1, events_length=0)
        break
    found, _ = checkpoint.newest_good(folder)
    assert found is not None and found.name == "step-000001"


def a_resumed_run_ends_in_the_same_bits(folder: Path) -> None:
    def run(stop: int) -> dict[str, torch.Tensor]:
        """Train, save after ``stop``, throw everything away, go on from the disk."""
        model, state = start(SETTINGS)
        for event in loop.train(model, data(held_out=0), state, SETTINGS):
            if event.step == stop:
                path = checkpoint.save_checkpoint(folder / str(stop), model, state, keep=1, events_length=0)
                model, state = start(SETTINGS)
                checkpoint.load_checkpoint(path, model, state)
                break
        list(loop.train(model, data(held_out=0), state, SETTINGS))
        return adapter(model)

    assert same_bits(run(2), run(4))


def every_step_is_told_once(folder: Path) -> None:
    config = tiny_config(folder, train={"max_steps": 4}, data={"eval": 0}, save={"every": 2})

    def die(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 3:
            raise Killed("after step 3")

    with pytest.raises(Killed):
        finetune(config, die)
    run = only_run(folder / "runs")
    resume(run)
    assert [e["step"] for e in read_events(run)[0] if e["kind"] == "stepped"] == [1, 2, 3, 4]


def a_bad_number_is_never_saved(folder: Path) -> None:
    model, state = start(SETTINGS)
    with torch.no_grad():
        next(iter(model.parameters.values())).view(-1)[0] = torch.nan
    with pytest.raises(NumericsError):
        checkpoint.save_checkpoint(folder, model, state, keep=1, events_length=0)


def another_run_is_refused(folder: Path) -> None:
    def die(event: Event) -> None:
        raise Killed("at once")

    with pytest.raises(Killed):
        finetune(tiny_config(folder, train={"max_steps": 2}, data={"eval": 0}), die)
    run = only_run(folder / "runs")
    text = dump_config(load_config(run / "config.yaml", ["train.lr=0.5"]))
    (run / "config.yaml").write_text(text)
    with pytest.raises(StorageError, match=r"train\.lr changed"):
        resume(run)


# --- taking them out -------------------------------------------------------------------------------------


def no_fsync(skip: Callable[[int], bool]) -> Remove:
    def remove(patch: pytest.MonkeyPatch) -> None:
        def fsync(handle: int) -> None:
            if not skip(os.fstat(handle).st_mode):
                os.fsync(handle)

        for home in (files, system):
            patch.setattr(home, "os", SimpleNamespace(**{**vars(os), "fsync": fsync}))

    return remove


def no_hash(patch: pytest.MonkeyPatch) -> None:
    compare = files._compare

    def sizes_only(file: Path, entry: files.FileEntry, sha256: Any) -> Any:
        problem = compare(file, entry, sha256)
        return None if problem is not None and problem.what == "sha256 differs" else problem

    patch.setattr(files, "_compare", sizes_only)


def no_size(patch: pytest.MonkeyPatch) -> None:
    compare = files._compare

    def any_size(file: Path, entry: files.FileEntry, sha256: Any) -> Any:
        return compare(file, replace(entry, size=file.stat().st_size), sha256)

    patch.setattr(files, "_compare", any_size)


def no_rename(patch: pytest.MonkeyPatch) -> None:
    def in_place(path: Path, content: str) -> None:
        files.operation("open", path)
        with path.open("w") as handle:
            files.operation("write", path)
            handle.write(content)

    patch.setattr(files, "write_atomic", in_place)


def no_step_boundary(patch: pytest.MonkeyPatch) -> None:
    """The optimizer steps one event late: what is saved lies between two steps."""
    whole_step = loop.optimizer_step
    waiting: dict[int, Callable[[], Any]] = {}

    def late(model: LoraModel, packs: Any, state: TrainState, *settings: Any) -> tuple[float, float]:
        if id(state) in waiting:
            waiting.pop(id(state))()
        with pytest.MonkeyPatch.context() as inner:
            waiting[id(state)] = state.optimizer.step
            inner.setattr(state.optimizer, "step", lambda: None)
            return whole_step(model, packs, state, *settings)

    patch.setattr(loop, "optimizer_step", late)


def no_counter(patch: pytest.MonkeyPatch) -> None:
    """Masks from a generator that runs on, as torch's own does."""
    draws = itertools.count()
    patch.setattr(DropoutClock, "at", lambda clock, layer: next(draws))


def no_finite_check(patch: pytest.MonkeyPatch) -> None:
    for home in (adapter_files, checkpoint):
        patch.setattr(home, "finite", lambda tensors, folder: tensors)


def nothing(home: Any, name: str, result: Any = None) -> Remove:
    return lambda patch: patch.setattr(home, name, lambda *arguments, **named: result)


SAFEGUARDS: dict[str, tuple[Check, Remove]] = {
    "file fsync": (files_are_synced, no_fsync(stat.S_ISREG)),
    "folder fsync": (folders_are_synced, no_fsync(stat.S_ISDIR)),
    "hash check": (another_content_is_noticed, no_hash),
    "size check": (another_size_is_told_as_such, no_size),
    "rename": (a_file_is_old_or_new, no_rename),
    "lock": (two_cannot_hold_one_run, nothing(RunLock, "_take")),
    "delete after verify": (
        an_older_one_goes_only_when_the_new_one_reads_back,
        nothing(checkpoint, "verify_dir"),
    ),
    "step boundary": (a_resumed_run_ends_in_the_same_bits, no_step_boundary),
    "counter for dropout": (a_resumed_run_ends_in_the_same_bits, no_counter),
    "event truncation": (every_step_is_told_once, nothing(RunStore, "truncate_events")),
    "finite check": (a_bad_number_is_never_saved, no_finite_check),
    "identity check": (another_run_is_refused, nothing(restart, "accept_changes", [])),
}


@pytest.mark.parametrize("name", SAFEGUARDS)
def test_without_it_the_check_fails(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check, remove = SAFEGUARDS[name]
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    check(tmp_path / "with")
    remove(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(tmp_path / "without")
