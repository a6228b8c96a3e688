"""Faults of configs and of run time, each with the answer that it deserves; docs/faults.md lists them."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sapwood import finetune, resume
from sapwood.commands.data import check_config
from sapwood.config.file import load_config
from sapwood.config.sections import SaveConfig
from sapwood.errors import (
    ConfigError,
    LockedError,
    NumericsError,
    SapwoodError,
    Stopped,
    StorageError,
)
from sapwood.machine.signals import STOP_SIGNALS
from sapwood.prepare.study import study_config
from sapwood.run import files
from sapwood.run.query import list_runs, read_events
from sapwood.run.store import reopen_run
from sapwood.train import loop
from sapwood.train.checkpoint import checkpoints, newest_good
from sapwood.train.saving import SaveClock
from sapwood.types import Event, Stepped
from tests.crash.work import folder_hash, only_run, tiny_config
from tests.forks import exit_code, train_and_kill
from tests.run.shared import stepped
from tests.test_faults import faults
from tests.train.runs import six_steps, start

# --- configs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wrong:
    """Overrides that are refused, by what, and a pattern of the message; ``text`` is YAML instead."""

    says: str
    overrides: tuple[str, ...] = ()
    text: str = ""
    error: type[SapwoodError] = ConfigError


WRONG: dict[str, list[Wrong]] = {
    "a rank of zero or less": [Wrong(r"lora\.rank", (f"lora.rank={rank}",)) for rank in (0, -1, 2.5)],
    "a rank above a layer's size": [Wrong(r"lora\.rank=4096 is larger than the layers", ("lora.rank=4096",))],
    "a `lora.alpha` that is no number, or zero": [
        Wrong(r"lora\.alpha", (f"lora.alpha={value}",)) for value in (".nan", ".inf", 0, -1)
    ],
    "a dropout outside 0 to 1": [
        Wrong(r"lora\.dropout", (f"lora.dropout={value}",)) for value in (1.5, -0.1, 1, ".nan")
    ],
    "targets that match nothing": [
        Wrong(r"no linear layer is called 'query'.*names here: .*q_proj", ("lora.targets=[query]",))
    ],
    "one of two targets matches nothing": [
        Wrong(r"no linear layer is called 'q_prj'.*q_proj", ("lora.targets=[v_proj, q_prj]",))
    ],
    "a pattern that is invalid or matches the head": [
        Wrong(r"no regular expression", ("lora.targets='[('",)),
        Wrong(r"matches more than linear layers", ("lora.targets='.*'",)),
        Wrong(r"matches no linear layer", ("lora.targets=lm_head",)),
    ],
    "a learning rate that is no positive number": [
        Wrong(r"train\.lr", (f"train.lr={value}",)) for value in (0, -1e-4, ".nan", "'1e-4'", "fast")
    ],
    "a learning rate far above the usual": [Wrong(r"train\.lr", ("train.lr=10.5",))],
    "an unknown key": [Wrong(r"did you mean .*batch_size", ("train.batchsize=4",))],
    "one key twice in the file": [Wrong(r"(?i)duplicate", text="train:\n  seed: 1\n  seed: 2\n")],
    "words that older YAML turns into other values (`no`, `12:30`)": [
        Wrong(r"share_prefixes", ("pack.share_prefixes=no",)),
        Wrong("seed", ("train.seed=12:30",)),
    ],
    "two keys that contradict each other": [
        Wrong(r"base\.storage", ("base.storage=fp16+bf16",)),
        Wrong(r"train\.epochs and train\.max_steps", ("train.epochs=2", "train.max_steps=9")),
        Wrong(r"train\.epochs and train\.max_steps", text="train: {epochs: 2, max_steps: 9}\n"),
        Wrong(r"eval\.patience needs held-out rows, and data\.eval is 0", ("eval.patience=2", "data.eval=0")),
        Wrong(r"save\.adapter: best needs held-out.*data\.eval is 0", ("save.adapter=best", "data.eval=0")),
    ],
    "a batch, length or interval below its bounds": [
        Wrong(rf"{key.split('.')[1]}", (f"{key}={value}",))
        for key, value in [
            ("train.batch_size", 0),
            ("train.batch_size", -2),
            ("train.warmup", -1),
            ("pack.length", 0),
            ("train.epochs", 0),
            ("train.max_steps", 0),
            ("save.every", 0),
            ("save.keep", 0),
        ]
    ],
    "a config for a newer sapwood": [
        Wrong(r"unknown key future", text="future: {speed: 9}\n"),
        Wrong(r"for a newer sapwood · .*case\.yaml:2 · it is of format 99", text="version: 99\nnew: 1\n"),
    ],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and a config file, its path with a blank and an é."""
    folder = tmp_path_factory.mktemp("ein Garten, été $HOME ~")
    config = tiny_config(folder)
    tree = {"base": {"model": config.base.model, "storage": "fp32"}, "data": {"train": config.data.train[0]}}
    (folder / "base.yaml").write_text(json.dumps(tree, ensure_ascii=False))
    return folder


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=f"{k}-{i}") for k in WRONG for i, c in enumerate(WRONG[k])]
)
def test_a_wrong_config_is_refused_with_its_key_before_any_weight(
    case: Wrong, home: Path, tmp_path: Path
) -> None:
    path = home / "base.yaml"
    if case.text:
        path = tmp_path / "case.yaml"
        path.write_text("data: {train: rows.jsonl}\n" + case.text)
    with pytest.raises(case.error, match=case.says) as caught:
        study_config(load_config(path, case.overrides))
    assert caught.value.exit_code == 2
    assert caught.value.problems[0].where


def test_an_exponent_is_a_number(home: Path) -> None:
    assert load_config(home / "base.yaml", ["train.lr=1e-4"]).train.lr == 1e-4


def test_an_absurd_rate_is_warned_about(home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny_config(home, tmp_path, train={"lr": 0.5, "max_steps": 1}, data={"eval": 0})
    finetune(config)
    assert any("train.lr=0.5 is far above" in message for message in caplog.messages)


def test_the_last_step_is_saved_whatever_the_interval(home: Path, tmp_path: Path) -> None:
    finetune(tiny_config(home, tmp_path, train={"max_steps": 2}, save={"every": 100}, data={"eval": 0}))
    assert [path.name for path in checkpoints(only_run(tmp_path))] == ["step-000002"]


def test_a_slow_run_is_saved_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, (_, state) = [0.0], start(six_steps())
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock, due = SaveClock(SaveConfig(every=100, minutes=10), last_step=130), list[int]()
    for step in range(1, 131):
        now[0] += 45.0  # seconds a step: 13 of them are less than ten minutes, 14 are more
        due += [step] * clock.due(stepped(step), state)
    assert due == [14, 28, 42, 56, 70, 84, 98, 100, 114, 128, 130]
    by_steps = SaveClock(SaveConfig(every=100, minutes=0), last_step=130)
    assert [step for step in range(1, 131) if by_steps.due(stepped(step), state)] == [100, 130]


def test_a_loss_that_explodes_is_told_and_recorded(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = loop.optimizer_step

    def explode(model: Any, packs: Any, state: Any, *rest: Any) -> tuple[float, float]:
        loss, norm = whole(model, packs, state, *rest)
        return (loss * (9 if state.step == 6 else 1), norm)

    monkeypatch.setattr(loop, "optimizer_step", explode)
    run = finetune(tiny_config(home, tmp_path, train={"max_steps": 8}, data={"eval": 0})).path.parent
    (text,) = [e["data"]["text"] for e in read_events(run)[0] if e["kind"] == "note"]
    assert text in caplog.messages
    assert "at step 7 is" in text and "times the median of the 6 steps before it" in text


def test_a_folder_that_is_not_ours_is_left_as_it_is(home: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-000900").mkdir(parents=True)
    (tmp_path / "thesis.txt").write_text("mine")
    before = folder_hash(tmp_path)
    path = finetune(tiny_config(home, tmp_path, train={"max_steps": 1}, data={"eval": 0})).path.parent
    assert path.parent == tmp_path and path.name != "checkpoints"
    for item in sorted(path.rglob("*"), reverse=True):
        item.rmdir() if item.is_dir() else item.unlink()
    path.rmdir()
    assert folder_hash(tmp_path) == before


@pytest.mark.parametrize("place", ["file", "file/below", "x" * 300], ids=["file", "below a file", "too long"])
def test_a_place_that_cannot_hold_runs_is_an_error_of_the_disk(
    place: str, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as caught:
        finetune(tiny_config(home, tmp_path / place, train={"max_steps": 1}))
    assert caught.value.exit_code == 5 and str(tmp_path) in caught.value.problems[0].where


def test_runs_are_not_kept_in_the_model_s_folder(home: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(home / "tiny-llama")
    for place in (home / "tiny-llama", home / "tiny-llama" / "runs", tmp_path / "link" / "runs"):
        with pytest.raises(ConfigError, match=r"save\.dir lies in the base model's folder"):
            finetune(tiny_config(home, place))


def test_each_value_says_where_it_comes_from(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_config(home / "base.yaml", ["data.eval=2", "train.lr=1e-3"], as_json=False)
    text = capsys.readouterr().out
    assert "train.lr: 0.001  (command line train.lr=1e-3)" in text
    assert f"({home / 'base.yaml'}:1)" in text
    assert "train.seed" not in text and "more, as they are by default" not in text
    check_config(home / "base.yaml", ["data.eval=2", "train.seed=0"], as_json=False)
    assert "set        1 more, as they are by default" in capsys.readouterr().out
    check_config(home / "base.yaml", ["data.eval=2"], as_json=True)
    config = json.loads(capsys.readouterr().out)["config"]
    assert config["data.eval"] == {"value": 2.0, "from": "command line data.eval=2"}
    assert config["train.lr"]["from"] == "default"


def test_the_resolved_config_is_in_the_run(home: Path, tmp_path: Path) -> None:
    config = tiny_config(home, tmp_path, train={"max_steps": 1}, data={"eval": 0})
    kept = load_config(finetune(config).path.parent / "config.yaml")
    # what `auto` means here
    settled = {"base": {"products"}, "pack": {"rows"}, "train": {"gradient_checkpointing", "threads"}}
    assert kept.model_dump(exclude=settled) == config.model_dump(exclude=settled)
    assert kept.base.products != "auto" and kept.pack.rows == "together"


def test_no_path_is_expanded(home: Path) -> None:
    assert "$HOME ~" in load_config(home / "base.yaml").base.model
    assert study_config(load_config(home / "base.yaml", ["data.eval=2"])).data.train


# --- run time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
def test_every_stop_signal_saves_at_the_boundary(number: signal.Signals, home: Path, tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 1:
            os.kill(os.getpid(), number)

    with pytest.raises(Stopped, match=r"stopped after step 1, saved .* sapwood resume") as caught:
        finetune(tiny_config(home, tmp_path, train={"max_steps": 3}, data={"eval": 0}), interrupt)
    assert caught.value.exit_code == 75
    assert checkpoints(only_run(tmp_path))[-1].name == "step-000001"


def test_a_process_that_vanished_left_no_lock_and_a_run_that_says_crashed(home: Path, tmp_path: Path) -> None:
    config = tiny_config(home, tmp_path, train={"max_steps": 3}, data={"eval": 0})
    assert exit_code(train_and_kill, config.model_dump(mode="json"), 2) == -signal.SIGKILL
    (crashed,) = list_runs(tmp_path)
    assert crashed.status == "crashed"
    assert (crashed.path / "LOCK").is_file()
    assert resume(crashed.path).path.is_dir()


def test_a_log_that_cannot_be_written_stops_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(home, tmp_path / "a", train={"max_steps": 2})
    expected = folder_hash(finetune(config).path)

    def refuse(name: str, path: Path) -> None:
        if path.suffix == ".jsonl" and name in ("write", "fsync"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(files, "on_operation", refuse)
    adapter = finetune(tiny_config(home, tmp_path / "b", train={"max_steps": 2}))
    assert folder_hash(adapter.path) == expected, "no figure of the adapter comes from the log"


def test_a_clock_that_goes_back_costs_no_checkpoint(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [2_000_000_000.0]

    def backwards() -> float:
        clock[0] -= 3600
        return clock[0]

    monkeypatch.setattr(time, "time", backwards)

    def age(event: Event) -> None:
        for index, path in enumerate(checkpoints(only_run(tmp_path))):
            os.utime(path, (2e9 - index * 1e6, 2e9 - index * 1e6))  # the newest looks oldest

    finetune(tiny_config(home, tmp_path, train={"max_steps": 4}, data={"eval": 0}), age)
    run = only_run(tmp_path)
    assert [path.name for path in checkpoints(run)] == ["step-000003", "step-000004"]
    assert newest_good(run)[0] == run / "checkpoints/step-000004"


def test_a_second_process_is_refused_by_name(home: Path, tmp_path: Path) -> None:
    run = finetune(tiny_config(home, tmp_path, train={"max_steps": 1}, data={"eval": 0})).path.parent
    with reopen_run(run), pytest.raises(LockedError, match=rf"process {os.getpid()} on .*, since ") as caught:
        resume(run)
    assert caught.value.exit_code == 7


def test_a_reader_who_leaves_stops_no_training(home: Path, tmp_path: Path) -> None:
    """``sapwood train … | head -1``"""
    overrides = [f"save.dir={tmp_path}", "train.max_steps=3", "data.eval=0", "name=piped"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sapwood", "train", str(home / "base.yaml"), *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(120) == 0, process.stderr.read()
    process.stderr.close()
    assert [run.status for run in list_runs(tmp_path)] == ["finished"]


def test_the_page_names_each_case() -> None:
    assert not set(WRONG) - set(faults())


def test_exit_codes_are_those_that_are_documented() -> None:
    codes: dict[Callable[..., SapwoodError], int] = {
        ConfigError: 2,
        StorageError: 5,
        NumericsError: 6,
        LockedError: 7,
        Stopped: 75,
    }
    for error, code in codes.items():
        assert error("what").exit_code == code
