"""Write docs/licences.md, the licences of what sapwood's base install brings: ``python docs/licences.py``.

The installed packages' own metadata say them. The page is written where the pinned versions are installed.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

HERE = Path(__file__).resolve().parent
HEAD = """# Licences of others

What `pip install` brings with sapwood, without extras, by the packages' own metadata. This page is written by
`docs/licences.py`.

| package | licence |
|---|---|
"""


def brought(name: str, seen: dict[str, str]) -> dict[str, str]:
    """``name``, and all that it requires here, with their licences."""
    try:
        about = metadata(name)
    except PackageNotFoundError:  # for another system
        return seen
    key = re.sub(r"[-_.]+", "-", about["Name"]).lower()
    if key in seen:
        return seen
    seen[key] = licence(about)
    for text in requires(name) or ():
        wanted = Requirement(text)
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            brought(wanted.name, seen)
    return seen


def licence(about: Any) -> str:
    classifiers = (line.split(" :: ") for line in about.get_all("Classifier") or ())
    classes = [parts[-1] for parts in classifiers if parts[0] == "License"]
    text = next(iter((about["License"] or "").strip().splitlines()), "")
    return about["License-Expression"] or ", ".join(classes) or text or "not said"


def page() -> str:
    found = brought("sapwood", {})
    del found["sapwood"]
    return HEAD + "".join(f"| {name} | {found[name]} |\n" for name in sorted(found))


if __name__ == "__main__":
    (HERE / "licences.md").write_text(page(), encoding="utf-8")
