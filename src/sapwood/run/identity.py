"""The identity of a run: all that its result depends on. It is recorded at the start, and compared at every
resume."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapwood.config.file import flatten
from sapwood.config.sections import RunConfig
from sapwood.errors import Problem, StorageError
from sapwood.run.store import RUN, RunStore

# keys that a resumed run may change: no step depends on them
FREE = ("version", "name", "base.offline", "eval.", "save.", "track.", "train.shard", "train.on_nan")


@dataclass(frozen=True, slots=True)
class Change:
    """One fact that differs: its key path or name, its value at the start and now."""

    key: str
    then: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {_short(self.then)} then, {_short(self.now)} now"


def read_about(run: Path) -> dict[str, Any]:
    """run.json. Raises StorageError if it can't be read."""
    try:
        about = json.loads((run / RUN).read_text(encoding="utf-8"))
        return dict(about) | {"facts": dict(about["facts"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"the file has no {error}" if isinstance(error, KeyError) else str(error)
        raise StorageError(f"{RUN} can't be read", str(run / RUN), what, "start a new run") from None


def identity_of(config: RunConfig) -> dict[str, Any]:
    """The keys of a config that decide weights, flat."""
    early: tuple[str, ...] = ("eval.patience", "eval.every") if config.eval.patience is not None else ()
    early += ("eval.best",) if config.keeps_best else ()
    return {
        key: value
        for key, value in flatten(config.model_dump(mode="json")).items()
        if key in early
        or (key not in FREE and not key.startswith(tuple(part for part in FREE if part.endswith("."))))
    }


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """The differences among the keys that both sides have. A key that a later version added isn't
    compared."""
    return [Change(key, then[key], now[key]) for key in then if key in now and then[key] != now[key]]


def accept_changes(
    run: RunStore, then: Mapping[str, Any], now: Mapping[str, Any], allow: Collection[str]
) -> list[Change]:
    """Compare a run with its start. Differences that ``allow`` names are recorded in run.json; others are
    refused.

    A change that was allowed at an earlier resume is part of the run. Raises StorageError with one line for
    each change that nobody allowed.
    """
    about = read_about(run.path)
    earlier = list(about.get("allowed", []))
    found = changes({**then, **{entry["key"]: entry["now"] for entry in earlier}}, now)
    refused = [change for change in found if change.key not in allow]
    if refused:
        raise StorageError([_problem(change, run.path) for change in refused])
    if found:
        entries = [{"key": c.key, "then": c.then, "now": c.now} for c in found]
        run.write_json(RUN, {**about, "allowed": [*earlier, *entries]})
    return found


def _problem(change: Change, run: Path) -> Problem:
    return Problem(
        f"{change.key} changed since the run began: {_short(change.then)} then, {_short(change.now)} now",
        str(run),
        "the result would not be the one that this run stands for",
        f"put it back, start a new run, or say that you mean it: --allow {change.key}",
    )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    hexadecimal = len(text) == 64 and not set(text) - set("0123456789abcdef")
    return text[:12] if hexadecimal else text if len(text) <= 80 else f"{text[:79]}…"
