"""Two processes find what one finds, to the last byte; and what is wrong is told as one tells it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sapwood.config.file import parse_config
from sapwood.config.sections import RunConfig
from sapwood.data.files import share
from sapwood.errors import DataError
from sapwood.machine import beside as beside_module
from sapwood.machine.beside import beside
from sapwood.prepare import gather as module
from sapwood.prepare.gather import Gathered, gather
from sapwood.template.render import Renderer
from tests.base.tiny import CHATML, tiny_tokenizer
from tests.forks import exit_code
from tests.template.cases import CLOCK


def row(i: int, **more: Any) -> dict[str, Any]:
    return {"instruction": f"What about tree {i % 61}?", "output": "Water it. " * (i % 5 + 1), **more}


def write(folder: Path, rows: Sequence[dict[str, Any]], name: str = "rows.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(one) + "\n" for one in rows))
    return str(folder / name)


def config_of(train: Sequence[str], **sections: Any) -> RunConfig:
    data = {"train": [*train], "system": "Be brief.", **sections.pop("data", {})}
    return parse_config({"data": data, **sections})


def found(config: RunConfig, length: int = 64) -> Gathered:
    return gather(config, Renderer(tiny_tokenizer(CHATML), clock=CLOCK), 99_999, length)


def told(one: Gathered) -> list[Any]:
    sides = [side for side in (one.train, one.measured) if side is not None]
    # Which rows are the sample that goes the long way too, each process counts for itself.
    proofs = [{**side.proof.to_json(), "alike": None} for side in sides]
    facts = [
        (side.examples.digest(), side.report.to_json(), p) for side, p in zip(sides, proofs, strict=True)
    ]
    said = one.said.duplicates(one.learnt), one.said.contradictions(one.learnt)
    return [facts, said, [dataclasses.asdict(each) for each in one.asked], one.notes.notes()]


def in_two(config: RunConfig, length: int = 64) -> Gathered:
    """`found` where two processes must have done it. Only for processes without other threads."""
    whole, module.LARGE, share.BLOCK = module._alone, 0, 7
    module.can_fork, module._alone = lambda: True, None  # nobody falls back
    try:
        return found(config, length)
    finally:
        module.LARGE, module._alone = 1 << 60, whole


def same_in_two(folder: str) -> None:
    here = Path(folder)
    rows = [row(i, id=i) for i in range(200)]
    rows[150] = row(1, output="Another answer, with \u0007 and <|im_end|> in it.")
    rows[3], rows[190] = row(3, output="word " * 90), row(4, output="word " * 99)
    first, second = write(here, rows), write(here, [row(i) for i in range(40)], "more.jsonl")
    (here / "some.csv").write_text("instruction,output\n" + "".join(f"q{i},a{i}\n" for i in range(30)))
    table = str(here / "some.csv")
    for data in ({"eval": 0}, {"eval": 0.2}, {"eval": second, "overlap": "allow"}, {"eval": 0.3, "weights": [1, 2, 1]}):
        for overlong in ("drop", "cut"):
            config = config_of([first, second, table], data=data, template={"overlong": overlong})
            assert told(in_two(config)) == told(found(config)), (data, overlong)


def falls_back(folder: str) -> None:
    here = Path(folder)
    rows = [row(i) for i in range(60)]
    rows[10], rows[20] = {"instruction": "q", "output": None}, {"instruction": "q"}
    config = config_of([write(here, rows)], data={"eval": 0.1})
    module.LARGE, share.BLOCK, module.can_fork = 0, 7, lambda: True
    with pytest.raises(DataError) as caught:
        found(config)
    assert [problem.where[-3:] for problem in caught.value.problems] == [":11", ":21"]


def a_mixture_is_seen(folder: str) -> None:
    rows = [row(i) if i // 7 % 2 == 0 else {"prompt": "q", "completion": "a"} for i in range(28)]
    config = config_of([write(Path(folder), rows)], data={"eval": 0})
    module.LARGE, share.BLOCK, module.can_fork = 0, 7, lambda: True
    with pytest.raises(DataError, match="rows of 2 formats in one file"):
        found(config)


def a_killed_one_is_made_up_for() -> None:
    def dies() -> list[bytes]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []

    assert beside(dies, lambda: 5) == (5, None)


def a_hung_one_is_made_up_for() -> None:
    def hangs() -> list[bytes]:
        time.sleep(600)
        return []

    beside_module.PATIENCE = 0.2
    assert beside(hangs, lambda: 5) == (5, None)


def forks_only_where_that_is_safe() -> None:
    beside_module.cores = lambda: 2
    assert beside_module.can_fork()
    ends = threading.Event()
    thread = threading.Thread(target=ends.wait)
    thread.start()
    assert not beside_module.can_fork()
    ends.set()
    thread.join()


def a_fault_here_ends_the_other(folder: str) -> None:
    def slow() -> list[bytes]:
        (Path(folder) / "pid").write_text(str(os.getpid()))
        time.sleep(60)
        return []

    def fails() -> None:
        while not (Path(folder) / "pid").exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        beside(slow, fails)
    with pytest.raises(ProcessLookupError):
        os.kill(int((Path(folder) / "pid").read_text() or 0), 0)


@pytest.mark.parametrize("work", [same_in_two, falls_back, a_mixture_is_seen, a_fault_here_ends_the_other])
def test_in_a_process_of_its_own(work: Any, tmp_path: Path) -> None:
    assert exit_code(work, str(tmp_path)) == 0


@pytest.mark.parametrize("work", [a_killed_one_is_made_up_for, a_hung_one_is_made_up_for])
def test_a_second_process_that_is_killed_or_hangs_costs_only_time(work: Any) -> None:
    assert exit_code(work) == 0


def test_there_is_a_second_process_only_where_a_fork_is_safe() -> None:
    assert exit_code(forks_only_where_that_is_safe) == 0


def test_small_data_are_read_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "can_fork", lambda: True)
    monkeypatch.setattr(module, "_in_two", None)
    assert len(found(config_of([write(tmp_path, [row(1), row(2)])], data={"eval": 0})).train.examples) == 2


@pytest.mark.parametrize("later", [19, 21])
def test_data_that_change_between_the_two_readings_are_refused(
    later: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(i) for i in range(20)]
    config = config_of([write(tmp_path, rows)], data={"eval": 0.2})
    hold_out = module.hold_out

    def changing(*arguments: Any) -> Any:
        write(tmp_path, [row(i) for i in range(later)])
        return hold_out(*arguments)

    monkeypatch.setattr(module, "hold_out", changing)
    with pytest.raises(DataError, match="the data changed while they were read"):
        found(config)
