"""Every file operation as the instant of a crash, and as the one that finds the disk full."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sapwood.adapter.model import LoraModel
from sapwood.errors import StorageError
from sapwood.run.files import MANIFEST, STAGING, sweep_staging, verify_dir
from sapwood.run.query import list_runs
from sapwood.train import saving
from sapwood.train.checkpoint import checkpoints, load_checkpoint, newest_good, save_checkpoint
from sapwood.train.loop import train
from sapwood.train.optim import TrainState, moments
from sapwood.types import Stepped
from tests.crash.faults import Killed, files_no_larger_than, full_disk_at, killed_at, watch
from tests.crash.work import die_at_operation, folder_hash, only_run, tiny_config, train_or_resume
from tests.forks import exit_code
from tests.train.runs import adapter, data, same_bits, six_steps, start

ALL = bool(os.environ.get("SAPWOOD_CRASH_ALL"))  # `make crash` takes every operation of a whole run
SETTINGS = six_steps()
Saved = tuple[Path, LoraModel, TrainState, dict[int, Any]]


# --- one save with its rotation, every operation --------------------------------------------------------


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """(folder with the checkpoint of step 1, model and state at step 2, bits of both steps)."""
    folder = tmp_path_factory.mktemp("before")
    model, state = start(SETTINGS)
    bits: dict[int, Any] = {}
    for event in train(model, data(held_out=0), state, SETTINGS):
        assert isinstance(event, Stepped)
        bits[event.step] = adapter(model) | {k: v.clone() for k, v in moments(state).items()}
        if event.step == 2:
            return folder, model, state, bits
        save_checkpoint(folder, model, state, keep=1, events_length=0)
    raise AssertionError("two steps were meant")


def save_second(folder: Path, before: Saved) -> None:
    save_checkpoint(folder, before[1], before[2], keep=1, events_length=0)


def recover(folder: Path, bits: dict[int, Any]) -> int:
    """What a resume does on that disk: the step that it finds, loaded and compared to the last bit."""
    sweep_staging(folder / "checkpoints")
    path, notes = newest_good(folder)
    assert path is not None and notes == []
    model, state = start(SETTINGS)
    load_checkpoint(path, model, state)
    assert same_bits(adapter(model) | moments(state), bits[state.step])
    assert not list((folder / "checkpoints").glob(f"{STAGING}*"))
    return state.step


def operations_of_a_save(before: Saved, folder: Path) -> int:
    shutil.copytree(before[0], folder)
    with watch() as operations:
        save_second(folder, before)
    return len(operations.seen)


def test_a_kill_at_every_operation_of_a_save_leaves_the_old_or_the_new(before: Saved, tmp_path: Path) -> None:
    total = operations_of_a_save(before, tmp_path / "whole")
    found: list[int] = []
    for number in range(1, total + 1):
        folder = Path(shutil.copytree(before[0], tmp_path / str(number)))
        with pytest.raises(Killed), killed_at(number):
            save_second(folder, before)
        found.append(recover(folder, before[3]))
        save_second(folder, before)
        assert [path.name for path in checkpoints(folder)] == ["step-000002"]
    assert found == sorted(found) and set(found) == {1, 2}, "it turns from old to new once"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT], ids=errno.errorcode.get)
@pytest.mark.parametrize("times", [1, 999], ids=["once", "from then on"])
def test_a_refusal_at_every_operation_of_a_save_is_one_error_and_loses_nothing(
    code: int, times: int, before: Saved, tmp_path: Path
) -> None:
    total = operations_of_a_save(before, tmp_path / "whole")
    refused = 0
    for number in range(1, total + 1):
        folder = Path(shutil.copytree(before[0], tmp_path / str(number)))
        try:
            with full_disk_at(number, times, code):
                save_second(folder, before)
        except StorageError as error:
            refused += 1
            assert str(folder) in error.problems[0].where
            assert error.problems[0].mend
        recover(folder, before[3])
        save_second(folder, before)
        assert [path.name for path in checkpoints(folder)] == ["step-000002"]
    assert refused >= total - 3, "only removing what was rotated out may fail in silence"


def test_a_kill_inside_the_recovery_loses_nothing(before: Saved, tmp_path: Path) -> None:
    """The newest is damaged; setting it aside is killed at each of its operations."""
    both = Path(shutil.copytree(before[0], tmp_path / "both"))
    save_checkpoint(both, before[1], before[2], keep=2, events_length=0)
    (both / "checkpoints/step-000002/state.json").write_text("{}")
    for number in itertools.count(1):
        folder = Path(shutil.copytree(both, tmp_path / str(number)))
        try:
            with killed_at(number):
                newest_good(folder)
        except Killed:
            path, _ = newest_good(folder)
            assert path is not None and path.name == "step-000001"
            continue
        assert number > 2
        break


def test_a_write_that_the_kernel_tears_at_any_byte_publishes_nothing(before: Saved, tmp_path: Path) -> None:
    """safetensors writes by itself: no hook of ours can see it, but the kernel can refuse it."""
    save_second(Path(shutil.copytree(before[0], tmp_path / "whole")), before)
    sizes = sorted(path.stat().st_size for path in (tmp_path / "whole/checkpoints/step-000002").iterdir())
    limits = [0, 1, sizes[0] - 1, *[size // 2 for size in sizes], *[size - 1 for size in sizes[1:]]]
    for limit in limits:
        folder = Path(shutil.copytree(before[0], tmp_path / f"limit-{limit}", dirs_exist_ok=True))
        with pytest.raises(StorageError), files_no_larger_than(limit):
            save_second(folder, before)
        assert recover(folder, before[3]) == 1
    with files_no_larger_than(sizes[-1]):
        save_second(folder, before)
    assert recover(folder, before[3]) == 2


# --- a whole run ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """(folder, operations of a run of two steps, hash of its adapter)."""
    folder = tmp_path_factory.mktemp("whole")
    train_or_resume(short(folder, folder / "first"))  # afterwards the prepared data are in the cache
    with watch() as operations:
        train_or_resume(short(folder, folder / "runs"))
    return folder, len(operations.seen), folder_hash(only_run(folder / "runs") / "adapter")


def short(folder: Path, runs: Path) -> dict[str, Any]:
    """Two steps, both saved, one checkpoint kept, nothing held out."""
    config = tiny_config(folder, runs, train={"max_steps": 2}, save={"keep": 1}, data={"eval": 0})
    return config.model_dump(mode="json")


def some(total: int, every: int) -> Iterator[int]:
    return iter(range(1, total + 1) if ALL else range(1 + total % every, total + 1, every))


@pytest.mark.timeout(600)
def test_a_kill_at_any_operation_of_a_run_is_mended_by_resume(
    whole: tuple[Path, int, str], tmp_path: Path
) -> None:
    folder, total, expected = whole
    for number in some(total, 16):
        runs = tmp_path / str(number)
        with pytest.raises(Killed), killed_at(number):
            train_or_resume(short(folder, runs))
        train_or_resume(short(folder, runs))
        assert folder_hash(only_run(runs) / "adapter") == expected, number
        assert list_runs(runs)[0].status == "finished"


@pytest.mark.timeout(600)
def test_a_kill_at_any_operation_of_a_resume_is_mended_by_the_next(
    whole: tuple[Path, int, str], tmp_path: Path
) -> None:
    folder, total, expected = whole
    half = tmp_path / "half"
    with pytest.raises(Killed), killed_at(total - 30):
        train_or_resume(short(folder, half))
    for number in some(40, 8):
        runs = Path(shutil.copytree(half, tmp_path / str(number)))
        try:
            with killed_at(number):
                train_or_resume(short(folder, runs))
        except Killed:
            train_or_resume(short(folder, runs))
        assert folder_hash(only_run(runs) / "adapter") == expected, number


@pytest.mark.timeout(600)
def test_a_full_disk_at_any_operation_of_a_run_stops_it_only_before_the_start(
    whole: tuple[Path, int, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "FIRST_WAIT", 0.01)
    folder, total, expected = whole
    refused: list[int] = []
    for number in some(total, 16):
        runs = tmp_path / str(number)
        try:
            with full_disk_at(number):
                train_or_resume(short(folder, runs))
        except StorageError:
            refused.append(number)
            train_or_resume(short(folder, runs))
        assert folder_hash(only_run(runs) / "adapter") == expected, number
    assert max(refused) < total / 2, "the run had been prepared: from then on a full disk stops nothing"


def test_real_kills_agree_with_the_simulated_ones(whole: tuple[Path, int, str], tmp_path: Path) -> None:
    folder, total, expected = whole
    for number in [total // 2, total - 12] if not ALL else range(1, total + 1, 2):
        runs = tmp_path / str(number)
        assert exit_code(die_at_operation, short(folder, runs), number) == -signal.SIGKILL
        assert exit_code(train_or_resume, short(folder, runs)) == 0
        assert folder_hash(only_run(runs) / "adapter") == expected, number


def test_the_final_adapter_is_whole_or_not_there(whole: tuple[Path, int, str], tmp_path: Path) -> None:
    folder, total, _ = whole
    for number in range(total - 19, total + 1, 1 if ALL else 6):
        runs = tmp_path / str(number)
        with pytest.raises(Killed), killed_at(number):
            train_or_resume(short(folder, runs))
        published = only_run(runs) / "adapter"
        if published.exists():
            assert (published / MANIFEST).is_file()
            verify_dir(published)
