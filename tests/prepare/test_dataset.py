"""Several processes find what one finds, to the last byte; and what is wrong is told as one tells it."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from sapwood.config.file import parse_config
from sapwood.config.sections import RunConfig
from sapwood.errors import DataError
from sapwood.prepare import dataset, pool
from sapwood.prepare.dataset import Dataset, prepare_dataset
from sapwood.prepare.rows import ProvenBatch, Rules
from sapwood.template.render import Renderer
from tests.base.tiny import CHATML, tiny_tokenizer
from tests.forks import WARM
from tests.template.cases import CLOCK

BATCH = 7


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "BATCH", BATCH)


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes with everything imported. How they begin in earnest is seen below, from outside."""
    multiprocessing.set_forkserver_preload(list(WARM))
    monkeypatch.setattr(pool, "START", "forkserver")


def row(i: int, **more: Any) -> dict[str, Any]:
    return {"instruction": f"What about tree {i % 61}?", "output": "Water it. " * (i % 5 + 1), **more}


def write(folder: Path, rows: Sequence[dict[str, Any]], name: str = "rows.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(one) + "\n" for one in rows))
    return str(folder / name)


def config_of(train: Sequence[str], **sections: Any) -> RunConfig:
    data = {"train": [*train], "system": "Be brief.", **sections.pop("data", {})}
    return parse_config({"data": data, **sections})


def found(config: RunConfig, processes: int = 1, template: str = CHATML) -> Dataset:
    renderer = Renderer(tiny_tokenizer(template), clock=CLOCK)
    return prepare_dataset(config, renderer, Rules(config.template, 64, 99_999), processes)


def told(one: Dataset) -> list[Any]:
    sides = [side for side in (one.train, one.eval) if side is not None]
    facts = [(side.examples.digest(), side.report.to_json(), side.proof.to_json()) for side in sides]
    alike = one.hashes.duplicates(one.learnt), one.hashes.contradictions(one.learnt)
    return [facts, alike, [dataclasses.asdict(each) for each in one.asked], one.notes.notes()]


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize(
    ("held", "overlong"), [("none", "cut"), ("a fraction", "drop"), ("a file", "drop"), ("weighted", "cut")]
)
def test_two_processes_give_the_same_bytes(
    held: str, overlong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(i, id=i) for i in range(90)]
    rows[50] = row(1, output="Another answer, with \u0007 and <|im_end|> in it.")
    rows[3], rows[70] = row(3, output="word " * 90), row(4, output="word " * 99)
    first, second = write(tmp_path, rows), write(tmp_path, [row(i) for i in range(20)], "more.jsonl")
    (tmp_path / "some.csv").write_text("instruction,output\n" + "".join(f"q{i},a{i}\n" for i in range(15)))
    data = {
        "none": {"eval": 0},
        "a fraction": {"eval": 0.2},
        "a file": {"eval": second, "overlap": "allow"},
        "weighted": {"eval": 0.3, "weights": [1, 2, 1]},
    }[held]
    config = config_of(
        [first, second, str(tmp_path / "some.csv")], data=data, template={"overlong": overlong}
    )
    alone = told(found(config))
    monkeypatch.setattr(pool, "prove_batch", None)  # the processes must have done it
    assert told(found(config, 2)) == alone


@pytest.mark.usefixtures("warm")
def test_what_is_wrong_is_told_in_the_order_of_the_rows(tmp_path: Path) -> None:
    refuses = CHATML + "{% if messages[1].content == 'bad' %}{{ raise_exception('bad row') }}{% endif %}"
    rows = [row(i) for i in range(40)]
    for i in (33, 2, 20):
        rows[i]["instruction"] = "bad"
    rows[21] = row(0, output="word " * 90)
    config = config_of([write(tmp_path, rows)], data={"eval": 0})
    problems: list[list[str]] = []
    for processes in (1, 2):
        with pytest.raises(DataError) as caught:
            found(config, processes, refuses)
        problems.append([str(problem) for problem in caught.value.problems])
    assert problems[0] == problems[1]
    assert [problem.where for problem in caught.value.problems[1:]] == [
        f"{tmp_path}/rows.jsonl:{i + 1}" for i in (2, 20, 33)
    ]
    assert "[overlong] 1 of 37" in problems[0][0]


def test_one_fault_of_many_rows_is_one_message_with_a_count(tmp_path: Path) -> None:
    refusing = (
        "{% if messages[0]['content'] != 'x' %}{{ raise_exception('no ' ~ messages | length) }}{% endif %}"
    )
    with pytest.raises(DataError) as caught:
        found(config_of([write(tmp_path, [row(i) for i in range(40)])]), template=refusing + CHATML)
    (problem,) = caught.value.problems
    assert problem.what == "[template] the chat template refuses this row (40 times)"
    assert problem.where.endswith("and 37 more")


def test_a_renderer_travels_to_another_process_with_all_that_it_was_told() -> None:
    renderer = Renderer(tiny_tokenizer(), clock=CLOCK, meant=("<think>",), close_thinking=True)
    again = pickle.loads(pickle.dumps(renderer))
    assert again.fingerprint == renderer.fingerprint
    assert again.meant == ("<think>",)
    assert again._close_thinking


@pytest.mark.usefixtures("warm")
def test_rows_that_can_not_be_read_are_told_by_two_processes_too(tmp_path: Path) -> None:
    rows = [row(i) for i in range(60)]
    rows[10], rows[20] = {"instruction": "q", "output": None}, {"instruction": "q"}
    with pytest.raises(DataError) as caught:
        found(config_of([write(tmp_path, rows)], data={"eval": 0.1}), 2)
    assert [problem.where[-3:] for problem in caught.value.problems] == [":11", ":21"]


@pytest.mark.usefixtures("warm")
def test_a_mixture_of_formats_is_seen(tmp_path: Path) -> None:
    rows = [row(i) if i // 7 % 2 == 0 else {"prompt": "q", "completion": "a"} for i in range(28)]
    with pytest.raises(DataError, match="rows of 2 formats in one file"):
        found(config_of([write(tmp_path, rows)], data={"eval": 0}), 2)


# --- processes that fail ------------------------------------------------------------------------------------

_WORK = pool._work


def dies(packed: Sequence[Any]) -> ProvenBatch:
    """Killed while it works on the third batch."""
    if packed[0][0][1] == 2 * BATCH:
        os.kill(os.getpid(), signal.SIGKILL)
    return _WORK(packed)


def hangs(packed: Sequence[Any]) -> ProvenBatch:
    if packed[0][0][1] == 2 * BATCH:
        time.sleep(600)
    return _WORK(packed)


def fails(packed: Sequence[Any]) -> ProvenBatch:
    raise MemoryError


@pytest.mark.parametrize("work", [dies, hangs, fails])
def test_a_process_that_dies_or_hangs_costs_time_and_not_the_run(
    work: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of([write(tmp_path, [row(i) for i in range(60)])], data={"eval": 0.1})
    alone = told(found(config))
    monkeypatch.setattr(pool, "_work", work)
    monkeypatch.setattr(pool, "PATIENCE", 5.0 if work is hangs else 120.0)
    assert told(found(config, 2)) == alone
    assert not [one for one in psutil.Process().children() if "spawn_main" in " ".join(one.cmdline())]


@pytest.mark.usefixtures("warm")
def test_what_can_not_travel_to_a_process_is_done_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of([write(tmp_path, [row(i) for i in range(30)])], data={"eval": 0})
    alone = told(found(config))
    monkeypatch.setattr(Renderer, "__reduce__", lambda self: (lambda: None, ()))
    assert told(found(config, 2)) == alone


def test_small_data_are_read_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_Pool", None)
    config = config_of([write(tmp_path, [row(1), row(2)])], data={"eval": 0})
    renderer = Renderer(tiny_tokenizer(CHATML), clock=CLOCK)
    assert len(prepare_dataset(config, renderer, Rules(config.template, 64, 99_999)).train.examples) == 2


# --- from outside -------------------------------------------------------------------------------------------

SCRIPT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
import sys
from pathlib import Path
from sapwood.prepare import dataset, pool
from tests.prepare.test_dataset import config_of, found, row, slow, told, write
dataset.BATCH = 7
print("once", flush=True)
if sys.argv[2] == "slow":
    pool._work = slow
config = config_of([write(Path(sys.argv[1]), [row(i) for i in range(60)])], data={"eval": 0})
found(config, 2)
print("done", flush=True)
"""


def slow(packed: Sequence[Any]) -> ProvenBatch:
    os.write(1, b"working\n")  # in one call: without buffers, print would write the end of the line by itself
    time.sleep(600)
    return _WORK(packed)


def script(folder: Path, how: str) -> subprocess.Popen[str]:
    """A script without a guard, as people write them; at the head of a process group, as in a terminal."""
    (folder / "script.py").write_text(SCRIPT)
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    command = [sys.executable, str(folder / "script.py"), str(folder), how]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=env, cwd=root, start_new_session=True, **pipes)


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    assert process.stdout is not None
    while process.stdout.readline() != "working\n":
        assert process.poll() is None
    return psutil.Process(process.pid).children(recursive=True)


def test_a_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    out, err = script(tmp_path, "honest").communicate(timeout=120)
    assert (out, err) == ("once\ndone\n", "")


def test_ctrl_c_ends_all_of_them_and_only_one_says_so(tmp_path: Path) -> None:
    process = script(tmp_path, "slow")
    children = family(process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert err.count("Traceback") == 1
    assert err.endswith("KeyboardInterrupt\n")
    assert not psutil.wait_procs(children, timeout=20)[1]


def test_processes_whose_parent_was_killed_end(tmp_path: Path) -> None:
    process = script(tmp_path, "slow")
    children = family(process)
    process.kill()
    process.communicate(timeout=60)
    assert not psutil.wait_procs(children, timeout=20)[1]


@pytest.mark.parametrize("later", [19, 21])
def test_data_that_change_between_the_two_readings_are_refused(
    later: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of([write(tmp_path, [row(i) for i in range(20)])], data={"eval": 0.2})
    hold_out = dataset.hold_out

    def changing(*arguments: Any) -> Any:
        write(tmp_path, [row(i) for i in range(later)])
        return hold_out(*arguments)

    monkeypatch.setattr(dataset, "hold_out", changing)
    with pytest.raises(DataError, match="the data changed while they were read"):
        found(config)
