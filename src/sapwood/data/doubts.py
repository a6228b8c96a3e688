"""Keys of a row that no shape reads, although they may be a part of what is to be learnt. Each is a fault,
and never only a note."""

from __future__ import annotations

from typing import Any

from sapwood.data.shapes.names import ABOUT, MEDIA, REASONING
from sapwood.data.shapes.pairs import says_nothing
from sapwood.data.shapes.record import Record

KWARGS = "chat_template_kwargs"  # TRL's: how a row wants the template to be called
UNCERTAIN = {"context", "history", KWARGS, *ABOUT, *MEDIA, *REASONING}


def check_unread(record: Record, *, is_pair: bool) -> None:
    """Add a fault for each such key that has a value. ``is_pair``: the row is a prompt and its answer."""
    for key in record.unread_keys():
        value = record.value.get(key)
        if key not in UNCERTAIN or key in record.options.mapped:
            continue
        if _is_nothing(value) or (key in ABOUT and not is_pair):
            continue
        why, mend = _doubt(key, value)
        record.fault(f"'{key}' is not read", why, mend)


def _is_nothing(value: Any) -> bool:
    return value is None or value in ("", [], {}) or isinstance(value, bool) or says_nothing(value)


def _doubt(key: str, value: Any) -> tuple[str, str]:
    """(why it matters, the mends)"""
    if key in MEDIA:
        return "only text is learnt", f"data.ignore={key} learns the text without it"
    if key == KWARGS:
        why = "it says how the template is to be called, which is one way for all rows"
        return why, f"data.ignore={key}"
    if key == "history":
        return "it may be the turns before", f"data.ignore={key}, or put them before the turns"
    if key in REASONING:
        why = "it may be the reasoning of the answer"
        return why, f"data.ignore={key}, or put it into the turn that it belongs to"
    why = "it may be a part of the prompt"
    if key == "context" or not isinstance(value, str):
        return why, f"data.ignore={key}, or put it into the prompt"
    return why, f"data.columns.context={key} puts it behind the prompt; data.ignore={key} leaves it out"
