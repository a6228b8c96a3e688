"""`make gpu` does what this machine can, says what it can't, and fails only if something failed."""

from __future__ import annotations

import pytest

from tests.machine import card
from tests.machine.card import Part, main

GOOD = Part("a good part", ("-c", "pass"))
BAD = Part("a bad part", ("-c", "raise SystemExit(3)"))
ONLY = Part("a part for cards", ("-c", "raise SystemExit(4)"), card=True)


def test_without_a_card_the_rest_is_done_and_the_card_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(card, "has_card", lambda: False)
    assert main((GOOD, ONLY)) == 0
    done, left = capsys.readouterr().out.split("Not done")
    assert "a good part: done" in done and "a part for cards" not in done
    assert "a part for cards" in left
    assert "tests/compute/test_flex.py::test_values_and_gradients_on_a_gpu (4)" in left


def test_a_part_that_fails_fails_the_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(card, "has_card", lambda: True)
    assert main((BAD, GOOD)) == 1
    assert main((GOOD, ONLY)) == 1
    told = capsys.readouterr().out
    assert "a bad part: FAILED, exit code 3" in told and "a good part: done" in told
    assert "a part for cards: FAILED, exit code 4" in told and "Not done" not in told
