"""docs/licences.md names all that pyproject.toml asks for, so that nothing comes without its licence."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "docs" / "licences.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
FOR_WORK = {"bench", "docs", "dev", "trackers"}  # on sapwood itself; trackers names other extras


def packages(texts: list[str]) -> set[str]:
    return {SCRIPT["canonical"](Requirement(text).name) for text in texts}


def rows() -> set[tuple[str, ...]]:
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    return {
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in page.splitlines()
        if line[:1] == "|"
    }


def test_every_dependency_has_its_licence() -> None:
    told = {row[0]: row[1] for row in rows() if len(row) == 2}
    missing = packages(PROJECT["dependencies"]) - set(told)
    assert not missing, f"run: python docs/licences.py ({missing})"
    assert not [name for name, licence in told.items() if licence in ("", "not said")]


@pytest.mark.parametrize("extra", sorted(set(EXTRAS) - FOR_WORK))
def test_every_extra_has_its_licences(extra: str) -> None:
    assert extra in SCRIPT["USERS"]
    told = {row[1]: row[2] for row in rows() if len(row) == 3 and row[0] == extra}
    base = {row[0] for row in rows() if len(row) == 2}
    assert packages(EXTRAS[extra]) <= {*told, *base}
    assert "not said" not in told.values()


def test_the_models_that_sapwood_fetches_have_theirs() -> None:
    told = {row[0]: row[2] for row in rows() if len(row) == 3 and row[0].startswith("`builtin:")}
    assert len(told) >= 2 and all(re.search(r"\w", licence) for licence in told.values())
