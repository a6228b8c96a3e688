"""Write docs/licences.md, the licences of what an install of sapwood brings: ``python docs/licences.py``.

The installed packages' own metadata say them. The page is written where the pinned versions are installed:
after `make install`. `tests/test_licences.py` keeps the page complete.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

HERE = Path(__file__).resolve().parent
# Extras that a user installs; the others are for work on sapwood.
USERS = ("data", "modelscope", "cuda", "export", "serve", "sentencepiece", "swanlab", "tensorboard", "wandb",
         "trackio", "mlflow", "ui", "notebook")  # fmt: skip
# Of packages that `make install` leaves out, or whose metadata say nothing: as their projects say it.
ELSEWHERE = {"liger-kernel": "BSD-2-Clause", "triton": "MIT", "sentencepiece": "Apache-2.0", "peewee": "MIT"}
HEAD = """# Licences of others

sapwood is under Apache-2.0. This page lists what an install brings besides, by the packages' own metadata. It
is written by `docs/licences.py`.

| package | licence |
|---|---|
"""
EXTRA = """
## What extras add

| extra | package | licence |
|---|---|---|
"""
REST = """
On Linux the Python package index gives a torch for CUDA. It brings NVIDIA's libraries, which are under
NVIDIA's own terms. A torch for CPUs brings none of them.

## Models

| name | model | licence |
|---|---|---|
"""


def brought(name: str, seen: dict[str, str], extras: Iterable[str] = ()) -> dict[str, str]:
    """``name``, and all that it requires here, with their licences."""
    try:
        about = metadata(name)
    except PackageNotFoundError:  # for another system
        return seen
    key = canonical(about["Name"])
    if key in seen and not extras:
        return seen
    seen[key] = licence(about)
    for text in requires(name) or ():
        wanted = Requirement(text)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": one}) for one in ("", *extras)):
            brought(wanted.name, seen, wanted.extras)
    return seen


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(about: Any) -> str:
    classifiers = (line.split(" :: ") for line in about.get_all("Classifier") or ())
    classes = [parts[-1] for parts in classifiers if parts[0] == "License"]
    text = next(iter((about["License"] or "").strip().splitlines()), "")
    said = about["License-Expression"] or ", ".join(classes) or text
    return said or ELSEWHERE.get(canonical(about["Name"]), "not said")


def added(extra: str, base: dict[str, str]) -> dict[str, str]:
    """What ``extra`` brings that the base install doesn't."""
    found = dict(base)
    for text in requires("sapwood") or ():
        wanted = Requirement(text)
        if (
            wanted.marker is not None
            and "extra" in str(wanted.marker)
            and wanted.marker.evaluate({"extra": extra})
        ):
            brought(wanted.name, found, wanted.extras)
            key = canonical(wanted.name)
            found.setdefault(key, ELSEWHERE.get(key, "not said"))
    return {name: found[name] for name in sorted(found) if name not in base}


def page() -> str:
    from sapwood.base.builtin import BUILTINS

    found = brought("sapwood", {})
    out = (
        HEAD + "".join(f"| {name} | {found[name]} |\n" for name in sorted(found) if name != "sapwood") + EXTRA
    )
    for extra in USERS:
        out += "".join(f"| {extra} | {name} | {text} |\n" for name, text in added(extra, found).items())
    out += REST
    for name, model in BUILTINS.items():
        terms = f" ({model.terms})" if model.terms else ""
        out += f"| `builtin:{name}` | {model.title} | {model.licence}{terms} |\n"
    return out


if __name__ == "__main__":
    (HERE / "licences.md").write_text(page(), encoding="utf-8")
