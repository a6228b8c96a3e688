"""Two processes, one run: exactly one of them works on it."""

from __future__ import annotations

import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from sapwood.errors import LockedError
from sapwood.run.store import open_run, reopen_run

RACES = 100


def race(run: Path, gate: Barrier, results: Any) -> None:
    """Try for the run again and again; all racers start each try and give up each prize together."""
    from sapwood.run import lock

    lock.PATIENCE = 0.0  # a loser of a race would wait for half a second, in case the winner only looked
    for _ in range(RACES):
        gate.wait(30)
        try:
            held = reopen_run(run)
        except LockedError as error:
            held = None
            results.put(f"lost to {error.problems[0].why.split()[1]}")
        else:
            results.put("won")
        gate.wait(30)
        if held is not None:
            held.note("note", 0, text="mine")
            held.close()


@pytest.mark.parametrize("racers", [2, 3])
def test_of_all_that_start_at_once_exactly_one_wins(racers: int, tmp_path: Path) -> None:
    open_run(tmp_path, name="one", config_yaml="", facts={}).close()
    (run,) = tmp_path.iterdir()
    context = multiprocessing.get_context("forkserver")
    gate, results = context.Barrier(racers), context.Queue()
    processes = [context.Process(target=race, args=(run, gate, results)) for _ in range(racers)]
    for process in processes:
        process.start()
    told = [results.get(timeout=60) for _ in range(racers * RACES)]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert told.count("won") == RACES
    assert len((run / "events.jsonl").read_text().splitlines()) == RACES
