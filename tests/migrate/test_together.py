"""A command and the script or config that it names, read as one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sapwood.errors import SapwoodError
from sapwood.migrate.options.trl import MODEL, SCRIPT
from sapwood.migrate.read import Migration, bring
from sapwood.migrate.write import validated

CASES: list[dict[str, Any]] = YAML(typ="safe", pure=True).load(
    (Path(__file__).parent / "together.yaml").read_text("utf-8")
)


def written(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def brought(case: dict[str, Any], folder: Path) -> Migration:
    written(folder, case.get("files", {}))
    if "cells" in case:
        cells = [{"cell_type": "code", "source": cell} for cell in case["cells"]]
        (folder / case["bring"]).write_text(json.dumps({"cells": cells}), encoding="utf-8")
    found = bring(folder / case["bring"])
    validated(found.draft)
    return found


def told(found: Migration) -> set[str]:
    return {e.theirs for e in found.draft.entries if e.state == "unread" or e.matters}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["link"].partition("github.com/")[2])
def test_a_command_and_its_script_are_one_run(case: dict[str, Any], tmp_path: Path) -> None:
    found = brought(case, tmp_path)
    got = found.draft.settings
    assert {k: (got.get(k), wanted) for k, wanted in case["facts"].items() if got.get(k) != wanted} == {}
    assert set(case.get("said", ())) <= told(found)
    places = {entry.theirs: found.source.place(entry.line) for entry in found.draft.entries}
    assert {name: places.get(name) for name in case.get("at", {})} == case.get("at", {})
    assert "resists" not in case or any(case["resists"] in one.text for one in found.unfollowed)
