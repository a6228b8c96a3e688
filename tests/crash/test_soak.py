"""The promise, in its short form; `make crash` has the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.soak import soak

KILLS = 16


@pytest.mark.timeout(600)
def test_killed_at_random_instants_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    tally = soak(KILLS, seed=KILLS, folder=tmp_path)
    assert tally.equal == tally.runs, str(tally)
    assert tally.total == KILLS
    assert {"in a first run", "in a resumed run"} <= tally.kills.keys(), str(tally)
