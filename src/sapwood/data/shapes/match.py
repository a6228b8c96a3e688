"""Which shape a row has, by its keys alone; and the question if that isn't clear."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass
from typing import Any

from sapwood.data.guess import Guess
from sapwood.data.problems import names, nearest, printable
from sapwood.data.shapes.names import (
    ANSWERS,
    PROMPTS,
    TEXT,
    TURNS,
    canonical,
    repair,
)
from sapwood.data.shapes.pairs import read_pair
from sapwood.data.shapes.shape import Shape
from sapwood.data.shapes.table import SHAPES
from sapwood.errors import Problem

LIKELY = 0.8  # share of a shape's keys, misspelt ones included, from which on a row has that shape
WEAK = (TEXT, "data", "turns")  # beside a shape's own keys these mean something else


@dataclass(frozen=True, slots=True)
class Match:
    """A shape, and which of its sets of keys the row has."""

    shape: Shape
    keys: tuple[str, ...]

    @property
    def columns(self) -> str:
        """What to put into a command so that the row is read like this."""
        if self.shape.read is not read_pair:
            return f"data.format={self.shape.name}"
        prompt, answer = self.keys
        to = ("instruction", "output") if self.shape.name in ("alpaca", "dolly") else ("prompt", "completion")
        return f"data.columns.{to[0]}={prompt} data.columns.{to[1]}={answer}"


_ALL = [Match(shape, keys) for shape in SHAPES.values() for keys in shape.keys]


def matches(keys: Set[str], *, no_instruction: bool = False, mapped: Set[str] = frozenset()) -> list[Match]:
    """Every reading of a row with these keys (in their canonical names).

    A set of keys hides those that it holds. An ``input`` beside another prompt is no prompt, unless the
    instruction is null. ``mapped``: what data.columns names; it hides other columns of its kind.
    """
    if keys & {"message_id", "parent_id"} == {"message_id", "parent_id"} and TEXT in keys:
        return []  # the messages of trees one by one: see `no_shape`
    found = [match for match in _ALL if keys >= {*match.keys}]
    found = [one for one in found if not any({*one.keys} < {*other.keys} for other in found)]
    if no_instruction:
        found = [one for one in found if one.keys[0] != "instruction"]
    elif any(one.shape.read is read_pair and one.keys[0] != "input" for one in found):
        found = [one for one in found if one.keys[0] != "input"]
    for kind in (PROMPTS, ANSWERS, TURNS):
        if named := mapped & {*kind}:
            found = [one for one in found if named & {*one.keys} or not {*one.keys} & {*kind}]
    if any(one.keys[0] not in WEAK for one in found):
        found = [one for one in found if one.keys[0] not in WEAK]
    return found


def detect_format(value: Any) -> str | None:
    """The one shape that the keys of a row spell; None if none or several do."""
    if not isinstance(value, Mapping):
        return None
    found = matches({canonical(key) for key in value})
    return found[0].shape.name if len(found) == 1 else None


def matching_shapes(value: Mapping[str, Any]) -> list[str]:
    """The names of all shapes that an object's keys spell."""
    return [*dict.fromkeys(match.shape.name for match in matches({canonical(key) for key in value}))]


def closest(keys: Collection[str], shape: Shape) -> tuple[str, ...]:
    """The shape's set of keys that is nearest to what is there."""
    return max(shape.keys, key=lambda wanted: _score(wanted, keys))


def no_shape(
    row: str, value: Mapping[str, Any], found: list[Match], guess: Callable[[], Guess | None] = lambda: None
) -> Problem:
    """The question, with each answer ready to copy; or what such a row would need. ``guess``: gives the
    columns that may be prompt and answer in its file."""
    where = printable(row)
    if found:
        columns = {"/".join(one.keys) for one in found}
        what = f"row can be read in {len(columns)} ways: {', '.join(sorted(columns))}"
        mend = f"say which: {printable(' or '.join(one.columns for one in found))}"
        return Problem(what, where, "it is not clear which is meant", mend)
    why = f"its keys: {names(value)}" if value else "it has no keys"
    if {"message_id", "parent_id"} <= value.keys():
        mend = "take the dataset's file that has one tree a row (…_trees.jsonl.gz)"
        return Problem("row is one message of a tree", where, "it answers another row", mend)
    if {"chosen", "rejected"} <= value.keys():
        prompt = next((key for key in PROMPTS if key in value), None)
        mend = (
            f"data.columns.prompt={prompt} data.columns.completion=chosen"
            if prompt
            else "data.columns.messages=chosen"
        )
        why = "one answer is better than the other; sapwood learns examples, and could learn the chosen one"
        return Problem("row is a pair of answers to compare", where, why, mend)
    return Problem("row has the keys of no known shape", where, why, _advice(value, guess))


def _advice(value: Mapping[str, Any], guess: Callable[[], Guess | None]) -> str:
    """What to map, rename or add so that such a row has a shape."""
    keys = [*value]
    wanted = [
        ("instruction", "output"), ("input", "output"), ("prompt", "completion"), ("prompt", "response"),
        ("question", "answer"), ("messages",), ("conversations",),
    ]  # fmt: skip
    best = max(wanted, key=lambda want: _score(want, keys))
    lists = [key for key, item in value.items() if isinstance(item, list) and item]
    missing = [key for key in best if key not in keys]
    if _score(best, keys) <= LIKELY and (columns := guess()) is not None:
        return f"say which: {columns.told()}"
    if missing and _score(best, keys) > 0:
        return f"{' and '.join(best)} make a row: {'; '.join(repair(key, keys) for key in missing)}"
    if len(lists) == 1:
        return f"if the turns are in it: data.columns.messages={printable(lists[0])}"
    return "say what they are: data.columns.prompt=… data.columns.completion=…, or data.columns.messages=…"


def _score(want: Collection[str], keys: Collection[str]) -> float:
    """Share of the wanted keys that are there; a misspelt one counts a little less."""
    found = [1.0 if key in keys else 0.9 if nearest(key, keys) else 0.0 for key in want]
    return sum(found) / len(found)
