"""Marks of turns and rows that say what is learnt, as other tools write them; none is ever ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sapwood.data.problems import excerpt
from sapwood.data.shapes.record import DROP, Record

# key of a turn -> does a true value mean that the turn is learnt?
TURN_MARKS = {
    "train": True,  # sapwood
    "training": True,  # Axolotl
    "loss": True,  # ms-swift, LLaMA-Factory
    "loss_mask": True,  # slime
    "weight": True,  # OpenAI
    "mask": False,  # those who hide what is masked
}
OWN = ("train", "training")  # true here makes any turn learnt; the others speak of the assistant's only
GOOD = {"true": True, "false": False}
LEAST, MOST = 1e-4, 1e4  # weights: sums of them stay exact enough
WEIGHED = "have a weight: each learnt token counts so much in the loss, which is divided by the sum of them"


def marked(record: Record, turn: Mapping[str, Any], path: str, role: str) -> tuple[bool | None, float | None]:
    """Whether the marks of a turn ask for it to be learnt, None where it has none; and what its tokens count
    in the loss, None for 1."""
    found: dict[str, float] = {}  # key -> what it says that the turn counts
    for key, means in TURN_MARKS.items():
        value = turn.get(key)
        if value is None or key in record.options.ignore:
            continue
        counts = _counts(record, value, f"{path}.{key}", key, fractions=means)
        if counts is None:
            return None, None
        counts = counts if means else 1 - counts
        if counts and role != "assistant" and key not in OWN:
            continue  # says that it isn't hidden, and is learnt no more than any other turn of the role
        found[key] = counts
    said = {*found.values()}
    weights = said - {0, 1}
    if len(weights) > 1 or (0 in said and len(said) > 1):
        told = " and ".join(f"'{key}'" for key in found)
        record.fault(f"the marks of '{path}' contradict each other: {told}", mend="keep one of them")
        return None, None
    learnt = max(said) > 0 if said else None
    if learnt and role != "assistant":
        key = next(iter(found))
        why = "only the assistant's turns are learnt"
        record.fault(f"'{path}.{key}' is true on a turn of the {role}", why, f"data.ignore={key}")
    if weights:
        record.count(WEIGHED)
    return learnt, next(iter(weights), None)


def row_weight(record: Record) -> float | None:
    """What the marks of a whole row say that its tokens count in the loss, None for 1. A row that is marked
    as bad is a problem, so that it is left out by name."""
    label, weight = (
        None if key in record.options.ignore else record.value.get(key) for key in ("label", "weight")
    )
    if isinstance(label, str):
        label = GOOD.get(label.strip().casefold())
    if isinstance(label, bool):
        record.optional("label")
        if not label:
            why = "'label' is false: this answer is an example of a bad one"
            record.fault("the row is labelled as bad", why, f"{DROP}; data.ignore=label learns them as good")
    elif label in (0, 1):
        record.optional("label")
        why = "it may say which answers are bad, or be a class of the text"
        record.fault("'label' is 0 or 1, which can mean two things", why, "data.ignore=label, or rename it")
    if weight is None:
        return None
    record.optional("weight")
    counts = _counts(record, weight, "weight", "weight", fractions=True)
    if counts == 0:
        why = "it is not to be learnt"
        record.fault("the row has weight 0", why, f"{DROP}; data.ignore=weight learns it")
    if not counts or counts == 1:
        return None
    record.count(WEIGHED)
    return counts


def _counts(record: Record, value: Any, path: str, key: str, *, fractions: bool) -> float | None:
    """What a mark says that a turn counts: 0 or 1, also in words, or a number between `LEAST` and `MOST` if
    ``fractions`` mean something; None behind a fault."""
    number = _number(value)
    if number in (0, 1):
        return number
    if number is None or not fractions:
        record.fault(f"'{path}' is not true or false", f"found {excerpt(value)}", f"data.ignore={key}")
        return None
    if not LEAST <= number <= MOST:
        why = f"found {excerpt(value)}; weights go from {LEAST:g} to {MOST:,.0f}, and 0 is not learnt"
        record.fault(f"'{path}' is no weight", why, f"data.ignore={key} lets each count 1; {DROP}")
        return None
    return number


def _number(value: Any) -> float | None:
    if isinstance(value, str):  # a table's cell
        word = value.strip().casefold()
        try:
            return float(GOOD[word]) if word in GOOD else float(word)
        except ValueError:
            return None
    return float(value) if isinstance(value, bool | int | float) else None
