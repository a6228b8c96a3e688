"""The promise, in its short form; `make crash` has the long one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.crash.soak import real_soak, soak

KILLS = int(os.environ.get("SAPWOOD_KILLS", "60"))


@pytest.mark.timeout(240 + 4 * KILLS)
def test_killed_at_random_instants_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    tally = soak(KILLS, seed=KILLS, folder=tmp_path)
    assert tally.equal == tally.runs, str(tally)
    assert tally.total == KILLS
    if KILLS >= 60:
        assert {"inside a save", "in a resumed run"} <= tally.kills.keys(), str(tally)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif("SAPWOOD_KILLS" not in os.environ, reason="`make crash` runs it: minutes")
def test_the_real_model_killed_from_cold(tmp_path: Path, smollm2_spec: object) -> None:
    tally = real_soak(2, seed=1, folder=tmp_path)
    assert tally.equal == tally.runs, str(tally)
