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


def trained(record: Record, turn: Mapping[str, Any], path: str, role: str) -> bool | None:
    """Whether the marks of a turn ask for it to be learnt; None where it has none."""
    found: dict[str, bool] = {}
    for key, means in TURN_MARKS.items():
        value = turn.get(key)
        if value is None or key in record.options.ignore:
            continue
        learnt = _truth(record, value, f"{path}.{key}", key)
        if learnt is None:
            return None
        if learnt == means and role != "assistant" and key not in OWN:
            continue  # says that it isn't hidden, and is learnt no more than any other turn of the role
        found[key] = learnt == means
    if len({*found.values()}) > 1:
        told = " and ".join(f"'{key}'" for key in found)
        record.fault(f"the marks of '{path}' contradict each other: {told}", mend="keep one of them")
        return None
    if True in found.values() and role != "assistant":
        key = next(iter(found))
        why = "only the assistant's turns are learnt"
        record.fault(f"'{path}.{key}' is true on a turn of the {role}", why, f"data.ignore={key}")
    return next(iter(found.values()), None)


def check_row(record: Record) -> None:
    """The marks of a whole row. A row that is marked as bad is a problem, so that it is left out by name."""
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
        return
    record.optional("weight")
    if _truth(record, weight, "weight", "weight") is False:
        record.fault(
            "the row has weight 0", "it is not to be learnt", f"{DROP}; data.ignore=weight learns it"
        )


def _truth(record: Record, value: Any, path: str, key: str) -> bool | None:
    """True or false, also as 0 or 1; None behind a fault."""
    if isinstance(value, str):  # a table's cell
        value = {**GOOD, "0": False, "1": True, "0.0": False, "1.0": True}.get(
            value.strip().casefold(), value
        )
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, int | float) and value > 0:
        why = f"found {excerpt(value)}; a turn is learnt or it isn't, there is nothing between"
        mend = f"data.ignore={key} learns them whole, {DROP}"
        record.fault(f"'{path}' is a weight other than 0 and 1", why, mend)
    else:
        record.fault(f"'{path}' is not true or false", f"found {excerpt(value)}", f"data.ignore={key}")
    return None
