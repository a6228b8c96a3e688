"""What public scripts do, put to use in scripts of our own: the facts, and what must be said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sapwood.migrate.read import Migration, bring
from sapwood.migrate.write import validated

CASES: list[dict[str, Any]] = YAML(typ="safe", pure=True).load(
    (Path(__file__).parent / "public.yaml").read_text("utf-8")
)


def brought(case: dict[str, Any], folder: Path) -> Migration:
    cells = [{"cell_type": "code", "source": cell} for cell in case.get("cells", ())]
    path = folder / ("train.ipynb" if cells else "train.py")
    path.write_text(json.dumps({"cells": cells}) if cells else case["script"], encoding="utf-8")
    found = bring(path)
    validated(found.draft)
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["link"].rpartition("/")[2])
def test_every_fact_is_right_or_said_to_be_unknown(case: dict[str, Any], tmp_path: Path) -> None:
    found = brought(case, tmp_path)
    settings = found.draft.settings
    wrong = {
        key: (settings.get(key), wanted)
        for key, wanted in case["facts"].items()
        if settings.get(key) != wanted
    }
    assert not wrong
    told = {entry.theirs for entry in found.draft.entries if entry.state == "unread"}
    assert set(case.get("said", ())) <= told
    assert set(case.get("faults", ())) <= {fault.name for fault in found.faults}
    assert case.get("template", "") in (found.draft.template or "")
    assert "resists" not in case or any(case["resists"] in one.text for one in found.unfollowed)


def test_there_are_at_least_forty_of_them_and_notebooks_among_them() -> None:
    links = [case["link"] for case in CASES]
    assert len(set(links)) == len(links) >= 40
    assert sum("cells" in case for case in CASES) >= 6


def test_a_function_that_cannot_be_followed_is_said_with_its_line(tmp_path: Path) -> None:
    found = brought(CASES[0], tmp_path)
    assert any("Wording().full" in one.text and one.line for one in found.unfollowed)
