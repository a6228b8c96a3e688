"""What the tests of training share."""

from __future__ import annotations

import pytest

from sapwood.train import trial


@pytest.fixture(autouse=True)
def _tried_anew() -> None:
    """Tests put faults into what a trial computes: none may rest on a trial that went before."""
    trial.passed.clear()
