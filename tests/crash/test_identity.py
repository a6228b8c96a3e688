"""A resumed run is the run that began: what differs is refused with a diff, or named and recorded."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from pathlib import Path

import pytest

from sapwood import finetune, resume
from sapwood.config.file import dump_config, load_config
from sapwood.errors import SapwoodError, Stopped, StorageError
from sapwood.run.identity import FREE, Change, changes, identity_of
from sapwood.run.query import read_events
from sapwood.types import Event, Stepped
from tests.base.tiny import tiny_llama
from tests.crash.work import folder_hash, only_run, tiny_config


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(a run stopped after two of its steps, the adapter's hash that it will have)."""
    folder = tmp_path_factory.mktemp("begun")

    def stop(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    expected = folder_hash(finetune(tiny_config(folder, folder / "whole")).path)
    with pytest.raises(Stopped):
        finetune(tiny_config(folder), stop)
    return only_run(folder / "runs"), expected


@pytest.fixture
def run(begun: tuple[Path, str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun[0], tmp_path / begun[0].name))


def edit(run: Path, *overrides: str) -> None:
    (run / "config.yaml").write_text(dump_config(load_config(run / "config.yaml", overrides)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.train", "other.jsonl"),
        ("data.system", "You sell fruit."),
        ("template.name", "gemma"),
        ("train.seed", "4"),
        ("train.batch_size", "5"),
        ("train.lr", "0.5"),
        ("train.epochs", "9.0"),
        ("lora.rank", "4"),
        ("lora.targets", "[q_proj]"),
        ("pack.length", "64"),
        ("base.storage", "bf16"),
    ],
)
def test_an_edited_key_is_refused_by_name(key: str, value: str, run: Path) -> None:
    before = folder_hash(run / "checkpoints")
    edit(run, f"{key}={value}")
    with pytest.raises(StorageError, match=rf"{key} changed since the run began: .* then, .* now") as caught:
        resume(run)
    assert f"--allow {key}" in caught.value.problems[0].mend
    assert folder_hash(run / "checkpoints") == before


def test_all_differences_are_told_at_once(run: Path) -> None:
    edit(run, "train.seed=4", "lora.alpha=3", "train.batch_size=2")
    with pytest.raises(StorageError) as caught:
        resume(run, allow=["train.seed"])
    assert [problem.what.split()[0] for problem in caught.value.problems] == [
        "lora.alpha",
        "train.batch_size",
    ]


def test_keys_that_no_weight_depends_on_are_free(run: Path, begun: tuple[Path, str]) -> None:
    edit(run, "save.every=2", "eval.every=3", "name=other", "save.keep=5")
    resume(run)
    assert folder_hash(run / "adapter") == begun[1]


def test_an_allowed_change_is_made_and_recorded_once(run: Path, begun: tuple[Path, str]) -> None:
    edit(run, "train.lr=0.5")

    def stop(event: Event) -> None:
        if isinstance(event, Stepped):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        resume(run, stop, allow=["train.lr"])
    resume(run)  # once allowed it is part of the run
    assert folder_hash(run / "adapter") != begun[1]
    about = json.loads((run / "run.json").read_text())
    assert about["allowed"] == [{"key": "train.lr", "then": 0.01, "now": 0.5}]
    notes = [e["data"]["text"] for e in read_events(run)[0] if e["kind"] == "note"]
    assert notes == ["resumed with a change that --allow named: train.lr: 0.01 then, 0.5 now"]


def test_another_base_of_the_same_name_is_refused_until_it_is_allowed(tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Stepped):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        finetune(tiny_config(tmp_path), stop)
    tiny_llama(tmp_path, seed=9)
    path = only_run(tmp_path / "runs")
    with pytest.raises(StorageError, match="base_fingerprint changed since the run began"):
        resume(path)
    assert resume(path, allow=["base_fingerprint"]).path.is_dir()


def test_another_machine_is_said_and_no_hindrance(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    about = json.loads((run / "run.json").read_text())
    assert about["facts"]["kernels"].keys() == {"device", "capability", "threads", "compiled", "processes"}
    assert {"torch", "transformers", "peft", "python"} <= about["versions"].keys()
    about["facts"]["kernels"]["capability"] = "AVX1024"
    about["versions"]["torch"] = "1.0"
    (run / "run.json").write_text(json.dumps(about))
    with caplog.at_level(logging.WARNING):
        resume(run)
    (text,) = (m for m in caplog.messages if "last bits may differ" in m)
    assert "capability: AVX1024 then" in text and "torch: 1.0 then" in text
    assert any(text == e["data"].get("text") for e in read_events(run)[0])


def test_a_run_killed_before_it_had_its_data_reads_it_again(run: Path, begun: tuple[Path, str]) -> None:
    shutil.rmtree(run / "data")
    shutil.rmtree(run / "checkpoints")
    resume(run)
    assert folder_hash(run / "adapter") == begun[1]


def test_a_run_whose_data_vanished_later_is_refused(run: Path) -> None:
    shutil.rmtree(run / "data")
    with pytest.raises(SapwoodError, match="manifest is missing"):
        resume(run)


def test_the_keys_that_count_are_all_but_the_free_ones(tmp_path: Path) -> None:
    keys = identity_of(tiny_config(tmp_path))
    assert {
        "base.model",
        "data.train",
        "template.name",
        "pack.length",
        "lora.rank",
        "train.seed",
    } <= keys.keys()
    assert not any(key.startswith(FREE) for key in keys)


def test_a_key_that_one_side_does_not_know_is_no_change() -> None:
    assert changes({"a": 1, "b": 2}, {"b": 3, "c": 4}) == [Change("b", 2, 3)]
    assert str(Change("x", "0" * 64, "f" * 64)) == f"x: {'0' * 12} then, {'f' * 12} now"
