"""docs/faults.md lists what can be wrong; each row names a test that is there."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| ([^|]+?) \| ([^|]+?) \| `([\w/]+\.py)::(\w+)` \|$", re.MULTILINE)


@cache
def faults() -> dict[str, tuple[str, str]]:
    """What can be wrong -> (file, function) of a test that shows sapwood's answer."""
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    return {what: (file, name) for what, _, file, name in ROW.findall(page)}


def test_the_page_is_long() -> None:
    assert len(faults()) >= 120


@pytest.mark.parametrize("what", faults())
def test_each_fault_has_its_test(what: str) -> None:
    file, name = faults()[what]
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
