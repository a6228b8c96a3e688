"""The shapes that rows come in: which keys make which format, and what is near to one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sapwood.data.problems import names, nearest

# format -> the (prompt, answer) keys that make it; the first pair is the one that messages propose
PAIRS: dict[str, tuple[tuple[str, str], ...]] = {
    "alpaca": (("instruction", "output"),),
    "input-output": (("input", "output"),),
    "prompt-completion": (("prompt", "completion"), ("prompt", "response"), ("question", "answer")),
}
TURNS = {"messages": "messages", "sharegpt": "conversations"}  # format -> the key that holds the turns
TEXT = "text"  # rendered already, or a document
FORMATS = (*PAIRS, *TURNS, TEXT)

_KNOWN = {key for pairs in PAIRS.values() for pair in pairs for key in pair} | {*TURNS.values()}


def detect_format(value: Any) -> str | None:
    """The one format that the keys of a row spell exactly; None where none or several do."""
    found = matching_formats(value) if isinstance(value, Mapping) else []
    return found[0] if len(found) == 1 else None


def matching_formats(row: Mapping[str, Any]) -> list[str]:
    """Every format whose keys the row has. An alpaca row's ``input`` doesn't make it input-output as well;
    where its instruction is null, its input is the prompt."""
    found = [name for name, pairs in PAIRS.items() if any(row.keys() >= {*pair} for pair in pairs)]
    if {"alpaca", "input-output"} <= {*found}:
        found.remove("alpaca" if row["instruction"] is None else "input-output")
    found += [name for name, key in TURNS.items() if key in row]
    return found or ([TEXT] if TEXT in row else [])


def pairs_in(row: Mapping[str, Any], format: str) -> list[tuple[str, str]]:
    """The (prompt, answer) keys of that format that the row has."""
    return [pair for pair in PAIRS[format] if row.keys() >= {*pair}]


def closest_pair(keys: Collection[str], format: str) -> tuple[str, str]:
    """The format's pair of keys that is nearest to what is there."""
    return max(PAIRS[format], key=lambda pair: _score(pair, keys))


def advice(keys: Collection[str]) -> str:
    """What to rename or add so that a row with these keys has a format."""
    wanted = [*(pair for pairs in PAIRS.values() for pair in pairs), *((key,) for key in TURNS.values())]
    best = max(wanted, key=lambda want: _score(want, keys))
    if _score(best, keys) == 0:
        return f"keys that make a row: {'; '.join(' and '.join(want) for want in wanted)}"
    return (
        f"{' and '.join(best)} make a row: {'; '.join(repair(key, keys) for key in best if key not in keys)}"
    )


def repair(missing: str, keys: Collection[str]) -> str:
    """How to get a missing key: rename the one that was probably meant, or add it."""
    others = [key for key in keys if key not in _KNOWN]
    near = nearest(missing, others)
    return f"rename {names([near])} to '{missing}'" if near is not None else f"add '{missing}'"


def _score(want: Collection[str], keys: Collection[str]) -> float:
    """Share of the wanted keys that are there; a misspelt one counts a little less."""
    found = [1.0 if key in keys else 0.9 if nearest(key, keys) else 0.0 for key in want]
    return sum(found) / len(found)
