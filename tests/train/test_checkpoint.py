"""Checkpoints: what is kept, what is set aside, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sapwood.adapter.model import LoraModel
from sapwood.errors import ModelError, StorageError
from sapwood.machine.doing import told_to
from sapwood.run.files import verify_dir
from sapwood.train.checkpoint import checkpoints, load_checkpoint, newest_good, save_checkpoint
from sapwood.train.loop import train
from sapwood.train.optim import TrainState, moments
from sapwood.train.schedule import Cursor
from sapwood.types import Stepped
from tests.train.runs import adapter, data, same_bits, six_steps, start

SETTINGS = six_steps()


def run_to(folder: Path, steps: int, *, keep: int = 10) -> tuple[LoraModel, TrainState]:
    """Train ``steps`` steps and save each."""
    model, state = start(SETTINGS)
    for event in train(model, data(held_out=0), state, SETTINGS):
        if isinstance(event, Stepped):
            save_checkpoint(folder, model, state, keep=keep, events_length=100 * event.step)
        if event.step == steps:
            break
    return model, state


def names(folder: Path) -> list[str]:
    return [path.name for path in checkpoints(folder)]


def spoil(path: Path, name: str = "optimizer.safetensors") -> None:
    content = bytearray((path / name).read_bytes())
    content[-1] ^= 1
    (path / name).write_bytes(content)


def test_everything_comes_back(tmp_path: Path) -> None:
    model, state = run_to(tmp_path, 3)
    state.evaluated = 2
    path = save_checkpoint(tmp_path / "again", model, state, keep=1, events_length=77)
    other, fresh = start(SETTINGS)
    assert load_checkpoint(path, other, fresh) == 77
    assert same_bits(adapter(other), adapter(model))
    assert same_bits(moments(fresh), moments(state))
    assert (fresh.step, fresh.cursor, fresh.evaluated) == (3, Cursor(1, 0), 2)


def test_saving_says_what_it_does(tmp_path: Path) -> None:
    said: list[str] = []
    with told_to(said.append):
        run_to(tmp_path, 1)
    assert [text for text in dict.fromkeys(said) if text] == [
        "saving step-000001", "saving step-000001 0/0 MB", "verifying step-000001",
        "verifying step-000001 0/0 MB",
    ]  # fmt: skip


def test_a_checkpoint_before_the_first_step_is_possible(tmp_path: Path) -> None:
    model, state = start(SETTINGS)
    path = save_checkpoint(tmp_path, model, state, keep=1, events_length=0)
    other, fresh = start(SETTINGS)
    assert load_checkpoint(path, other, fresh) == 0
    assert fresh.step == 0 and moments(fresh) == {}


def test_it_is_published_whole_and_without_pickle(tmp_path: Path) -> None:
    run_to(tmp_path, 1)
    (path,) = checkpoints(tmp_path)
    verify_dir(path)
    assert sorted(file.name for file in path.iterdir()) == [
        "MANIFEST.json",
        "adapter_config.json",
        "adapter_model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run_to(tmp_path / name, 2)
    for one, two in zip(checkpoints(tmp_path / "a"), checkpoints(tmp_path / "b"), strict=True):
        for file in one.iterdir():
            assert file.read_bytes() == (two / file.name).read_bytes(), file.name


@pytest.mark.parametrize(("keep", "left"), [(1, [4]), (2, [3, 4]), (9, [1, 2, 3, 4])])
def test_the_newest_stay(keep: int, left: list[int], tmp_path: Path) -> None:
    run_to(tmp_path, 4, keep=keep)
    assert names(tmp_path) == [f"step-{step:06d}" for step in left]


def test_order_is_by_step_and_other_names_are_left_alone(tmp_path: Path) -> None:
    assert checkpoints(tmp_path) == []
    folder = tmp_path / "checkpoints"
    for name in (
        "step-1000000",
        "step-999999",
        "step-000002",
        "step-000002 (copy)",
        "step-",
        "mine",
        ".bad-x",
    ):
        (folder / name).mkdir(parents=True)
    (folder / "step-000003").write_text("a file")
    assert names(tmp_path) == ["step-000002", "step-999999", "step-1000000"]


def test_saving_a_step_again_keeps_what_is_there(tmp_path: Path) -> None:
    model, state = run_to(tmp_path, 1)
    (path,) = checkpoints(tmp_path)
    inode = path.stat().st_ino
    assert save_checkpoint(tmp_path, model, state, keep=1, events_length=100) == path
    assert path.stat().st_ino == inode


def test_saving_over_a_damaged_one_sets_it_aside(tmp_path: Path) -> None:
    model, state = run_to(tmp_path, 1)
    (path,) = checkpoints(tmp_path)
    spoil(path)
    assert save_checkpoint(tmp_path, model, state, keep=1, events_length=100) == path
    verify_dir(path)
    assert sorted(p.name for p in path.parent.iterdir()) == [".bad-damaged-step-000001", "step-000001"]


def test_the_newest_that_verifies_is_used_and_damaged_ones_are_set_aside(tmp_path: Path) -> None:
    run_to(tmp_path, 4)
    assert newest_good(tmp_path) == (tmp_path / "checkpoints/step-000004", [])
    spoil(tmp_path / "checkpoints/step-000004")
    (tmp_path / "checkpoints/step-000003/state.json").unlink()
    path, notes = newest_good(tmp_path)
    assert path == tmp_path / "checkpoints/step-000002"
    assert notes == [
        "step-000004 is damaged (sha256 differs); set aside as .bad-damaged-step-000004",
        "step-000003 is damaged (file is missing); set aside as .bad-damaged-step-000003",
    ]
    assert names(tmp_path) == ["step-000001", "step-000002"]
    assert newest_good(tmp_path) == (path, [])


def test_going_on_from_the_one_before_a_damaged_one_ends_in_the_same_bits(tmp_path: Path) -> None:
    model, _ = run_to(tmp_path, 6)
    expected = adapter(model)
    spoil(tmp_path / "checkpoints/step-000006", "adapter_model.safetensors")
    path, _ = newest_good(tmp_path)
    assert path is not None
    model, state = start(SETTINGS)
    assert load_checkpoint(path, model, state) == 500
    list(train(model, data(held_out=0), state, SETTINGS))
    assert same_bits(adapter(model), expected)


def test_when_none_verifies_there_is_none(tmp_path: Path) -> None:
    assert newest_good(tmp_path) == (None, [])
    run_to(tmp_path, 1)
    spoil(tmp_path / "checkpoints/step-000001", "MANIFEST.json")
    path, notes = newest_good(tmp_path)
    assert path is None
    assert len(notes) == 1 and "manifest is damaged" in notes[0]


# --- loading what doesn't fit -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    run_to(folder, 1)
    return checkpoints(folder)[0]


def load(path: Path, **sections: Any) -> tuple[LoraModel, TrainState]:
    model, state = start(six_steps(**sections))
    load_checkpoint(path, model, state)
    return model, state


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "checkpoint can't be read"),
        ("{}", "checkpoint can't be read"),
        ('{"schema": 2}', "another version of sapwood wrote the checkpoint"),
        ('{"schema": 1}', "checkpoint can't be read"),
        (None, "checkpoint can't be read"),
    ],
)
def test_facts_that_cannot_be_read_are_refused(
    content: str | None, message: str, saved: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(saved, tmp_path / "step"))
    if content is None:
        (path / "state.json").unlink()
    else:
        (path / "state.json").write_text(content)
    with pytest.raises(StorageError, match=f"{message} · .*step"):
        load(path)


def test_an_adapter_of_another_shape_is_refused(saved: Path) -> None:
    with pytest.raises(ModelError, match=r"lora_A.weight is \[2, 64\]; the model has \[3, 64\]"):
        load(saved, lora={"rank": 3})


def test_moments_of_another_model_are_refused(saved: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(saved, tmp_path / "step"))
    tensors = load_file(path / "optimizer.safetensors")
    save_file({"exp_avg.other": torch.zeros(1), **tensors}, path / "optimizer.safetensors")
    with pytest.raises(StorageError, match=r"optimizer state doesn't fit: exp_avg\.other"):
        load(path)


def test_the_facts_are_integers(saved: Path) -> None:
    assert json.loads((saved / "state.json").read_text()) == {
        "schema": 1,
        "step": 1,
        "cursor": [0, 4],
        "evaluated": -1,
        "losses": None,
        "best": None,
        "stale": 0,
        "events_length": 100,
    }
