"""Marks of turns and rows that say what is learnt, as other tools write them; none is ever ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sapwood.data.problems import excerpt
from sapwood.data.shapes.names import MARKS, VERDICTS
from sapwood.data.shapes.nested import NOTHING
from sapwood.data.shapes.record import DROP, Record

OWN = ("train", "training")  # true makes any turn learnt; other marks speak of the assistant's turns only
WEIGHTS = (
    "weight",
    "loss_weight",
    "loss_scale",
    "sample_weight",
)  # of a row; its ``loss`` may be one measured
PARTS = ("train_detail", "training_detail")  # Axolotl: which characters of a turn are learnt
_TRUTH = {"true": True, "false": False}
_SAID = {
    **_TRUTH,
    **dict.fromkeys(
        ("good", "desirable", "accepted", "approved", "chosen", "preferred", "liked", "thumbs_up"), True
    ),
    **dict.fromkeys(
        (
            "bad", "undesirable", "rejected", "dispreferred", "disliked", "thumbs_down", "incorrect", "wrong",
        ),
        False,
    ),
}  # fmt: skip
COMPARED = ("chosen", "rejected")  # texts under these keys are two answers
GRADES = ("rating", "preference")  # numbers under these keys are no verdict
LEAST, MOST = 1e-4, 1e4  # weights: sums of them stay exact enough
WEIGHED = "have a weight: each learnt token counts so much in the loss, which is divided by the sum of them"


def marked(record: Record, turn: Mapping[str, Any], path: str, role: str) -> tuple[bool | None, float | None]:
    """Whether the marks of a turn ask for it to be learnt, None if it has none; and what its tokens count
    in the loss, None for 1."""
    found: dict[str, float] = {}  # key -> what it says that the turn counts
    for key in _asked(turn, MARKS, record):
        if _is_blank(turn[key]):
            continue
        means = MARKS[key]
        counts = _counts(record, turn[key], f"{path}.{key}", key, fractions=means)
        if counts is None:
            return None, None
        counts = counts if means else 1 - counts
        if counts and role != "assistant" and key not in OWN:
            continue  # says that it isn't hidden, and is learnt no more than any other turn of the role
        found[key] = counts
    for key in _asked(turn, VERDICTS, record):
        good = verdict(record, key, turn[key], f"{path}.{key}")
        if good is False:
            found[key] = 0
        elif good is None and turn[key] is not None:
            record.note_unread(f"{path.partition('[')[0]}[].{key}")
    for key in PARTS:
        if turn.get(key) and key not in record.options.ignore:
            why = "it says which characters of the turn are learnt, and a turn is learnt as a whole here"
            record.fault(f"'{path}.{key}' is not read", why, f"data.ignore={key} learns the turn as a whole")
    return _agreed(record, found, path, role)


def _agreed(
    record: Record, found: Mapping[str, float], path: str, role: str
) -> tuple[bool | None, float | None]:
    """What several marks of one turn say together."""
    said = {*found.values()}
    weights = said - {0, 1}
    if len(weights) > 1 or (0 in said and len(said) > 1):
        told = " and ".join(f"'{key}'" for key in sorted(found))
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
    as bad, or as not to be learnt, is a problem, so that it is left out by name."""
    value = record.value
    for key in _asked(value, VERDICTS, record):
        good = verdict(record, key, value[key], key)
        if good is not None:
            record.optional(key)
        if good is False:
            why = f"'{key}' is {excerpt(value[key])}: this answer is an example of a bad one"
            mend = f"{DROP}; data.ignore={key} learns them as good"
            record.fault("the row is labelled as bad", why, mend)
    weight = 1.0
    for key in _asked(value, MARKS, record):
        record.optional(key)
        if _is_blank(value[key]):
            continue
        counts = _counts(record, value[key], key, key, fractions=key in WEIGHTS)
        if counts is None:
            continue
        counts = counts if MARKS[key] else 1 - counts
        if counts == 0:
            what = f"the row has {key} 0" if key in WEIGHTS else f"'{key}' says that the row is not learnt"
            record.fault(what, "it is not to be learnt", f"{DROP}; data.ignore={key} learns it")
        weight *= counts
    if weight in (0, 1):
        return None
    record.count(WEIGHED)
    return weight


def _asked(values: Mapping[str, Any], known: Mapping[str, bool], record: Record) -> list[str]:
    return [key for key in values if key in known and key not in record.options.ignore]


def verdict(record: Record, key: str, value: Any, path: str) -> bool | None:
    """Whether a key of `VERDICTS` calls an answer good; None if it says nothing of the kind. What may mean
    that and something else is a fault."""
    if isinstance(value, str):
        if key in COMPARED:
            return None
        word = value.strip().casefold().replace(" ", "_")
        value = _SAID[word] if word in _SAID else _number(word)
        if word in ("positive", "negative") and key != "label":
            value = word == "positive"
    if isinstance(value, bool):
        return value == VERDICTS[key]
    is_doubtful = value in (0, 1, -1) or (isinstance(value, float) and 0 < value < 1)
    if is_doubtful and key not in GRADES:
        why = "it may say which answers are bad, or be a class of the text"
        record.fault(
            f"'{path}' is {value:g}, which can mean two things", why, f"data.ignore={key}, or rename it"
        )
    return None


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.strip() in NOTHING)


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
            return float(_TRUTH[word]) if word in _TRUTH else float(word)
        except ValueError:
            return None
    return float(value) if isinstance(value, bool | int | float) else None
