"""Following a run bit by bit gives what reading it whole gives; the pulse of a run is true."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from sapwood.run.following import Following
from sapwood.run.lock import RunLock
from sapwood.run.pulse import Pulses
from sapwood.run.query import read_events, summarise
from sapwood.run.store import EVENTS, STATUS, reopen_run
from tests.run.conftest import Make
from tests.run.shared import stepped


def test_looks_at_a_growing_log_add_up_to_reading_it_whole(make_run: Make) -> None:
    run = make_run("a", steps=12)
    whole = (run / EVENTS).read_bytes()
    (run / EVENTS).write_bytes(b"")
    following, seen = Following(run), []
    for end in range(0, len(whole) + 97, 97):  # most of these end inside a line
        (run / EVENTS).write_bytes(whole[:end])
        seen += following.look()
    assert seen == read_events(run)[0] and following.turned == 0
    assert following.summary() == summarise(run)


def test_a_log_that_a_resume_cuts_back_is_read_anew(make_run: Make) -> None:
    run = make_run("a", steps=12)
    following = Following(run)
    following.look()
    half = len((run / EVENTS).read_bytes()) // 2
    with reopen_run(run) as store:
        store.truncate_events(half)
        for step in range(6, 40):  # longer than before, so that no size tells of it
            store.record(stepped(step, 1.0))
    following.look()
    assert following.turned == 1 and following.summary() == summarise(run)


def running(run: Path) -> None:
    told = json.loads((run / STATUS).read_bytes())
    (run / STATUS).write_text(json.dumps({**told, "status": "running"}), encoding="utf-8")


def test_a_run_that_says_running_while_nobody_holds_it_has_died(make_run: Make) -> None:
    run = make_run("a")
    running(run)
    following = Following(run)
    assert Pulses(following).feel().condition == "died"


def test_a_held_run_is_running_and_hung_once_it_is_silent_and_does_nothing(
    make_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("a")
    running(run)
    lock = RunLock(run / "LOCK")
    try:
        following = Following(run)
        following.look()
        pulses = Pulses(following)
        assert pulses.feel().condition == "running"
        monkeypatch.setattr(time, "time", lambda: following.tally.last_time + 3600)
        assert pulses.feel().condition == "running"  # nothing is known yet of what it computes
        later = time.monotonic() + 60
        monkeypatch.setattr(time, "monotonic", lambda: later)
        monkeypatch.setattr("sapwood.run.pulse.IDLE", 10.0)  # this process does compute
        found = pulses.feel()
        assert (found.condition, found.why) == ("hung", "silent")
    finally:
        lock.release()


@pytest.mark.parametrize("status", ["finished", "stopped", "failed"])
def test_what_a_run_ended_as_is_what_it_says(make_run: Make, status: str) -> None:
    assert Pulses(Following(make_run("a", status=status))).feel().condition == status
