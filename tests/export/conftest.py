"""Fixtures of the tests of exports."""

from __future__ import annotations

import pytest

from sapwood.export import traces

SHORT = ("test_facts", "test_families", "test_wrappers")  # hundreds of right exports, one for each fact


@pytest.fixture(autouse=True)
def few_positions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of many tiny models compare 24 positions of each instead of 136: what a fact does to a model, it
    does at every position. Faults are looked for at all of them, by mutants and by whole models."""
    if request.module.__name__.rpartition(".")[2] in SHORT:
        monkeypatch.setattr(traces, "PROMPTS", traces.PROMPTS[::3])
        monkeypatch.setattr(traces, "ANSWER_TOKENS", 7)
