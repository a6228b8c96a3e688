"""One turn of a conversation, in any of the keys that files use."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from sapwood.data.problems import excerpt, nearest
from sapwood.data.shapes.calls import calls_in, former_call, read_calls
from sapwood.data.shapes.marks import PARTS, marked
from sapwood.data.shapes.names import MARKS, MEDIA, REASONING, VERDICTS
from sapwood.data.shapes.record import DROP, Record
from sapwood.data.shapes.roles import CALLS, role_of
from sapwood.types import Message, Role

ROLE_KEYS = ("role", "from", "speaker", "author")
CONTENT_KEYS = ("content", "value", "text", "message", "utterance")
_TEXT_PARTS = (None, "text", "input_text", "output_text")
_THOUGHTS = {"thinking": "thinking", "think": "think", "reasoning": "text"}  # a part's type -> its text's key
_ASIDE = ("cache_control", "annotations", "citations", "logprobs")  # keys of a part that are no content
_NAMED = {*ROLE_KEYS, *CONTENT_KEYS}  # a turn has one of each
# Keys of a turn that are no part of it here: what they may be, and what to write instead.
_DOUBTFUL = {
    re.compile(r"(?:^|[\W_])(?:loss|mask(?:s|ed)?|train\w*|weights?|learn\w*)(?:$|[\W_])", re.I): (
        "it may say whether the turn is learnt",
        "write train: true or false",
    ),
    re.compile(r"(?:^|[\W_])(?:reasoning|thinking|thoughts?)(?:$|[\W_])", re.I): (
        "it may be the reasoning of the turn",
        "write reasoning: TEXT",
    ),
    re.compile(r"^(?:tools|functions)$", re.I): ("tools belong to the row", "move it there"),
    re.compile(r"^(?:context|documents?|tool_responses)$", re.I): (
        "it may be a part of the turn",
        "write it there",
    ),
    re.compile(rf"^(?:{'|'.join(MEDIA)})$", re.I): ("only text is learnt", "leave such rows out"),
}
TURN_KEYS = {
    *ROLE_KEYS, *CONTENT_KEYS, *REASONING, *MARKS, *VERDICTS, *PARTS,
    "tool_calls", "function_call", "name", "tool_call_id",
}  # fmt: skip

Turn = Mapping[str, Any]


def read_turn(record: Record, turn: Turn, path: str) -> Message:
    """A turn under ``role`` and ``content``, or under ``from`` and ``value``."""
    role_key = next((key for key in ROLE_KEYS if key in turn), "role")
    content_key = _content_key(turn, role_key)
    for key in turn:
        is_known = key in TURN_KEYS and (key not in _NAMED or key in (role_key, content_key))
        if not is_known and key not in record.options.ignore and turn[key] not in (None, "", [], {}):
            _leave(record, key, path)
    name = _value(record, turn, role_key, path)
    role = role_of(record, name, f"{path}.{role_key}")
    learnt, weight = marked(record, turn, path, role)
    if isinstance(name, str) and name.strip().casefold() in CALLS:
        given = _value(record, turn, content_key, path)
        if isinstance(given, str):
            given = record.filled(given, f"{path}.{content_key}")
        calls = calls_in(record, given, f"{path}.{content_key}")
        return Message("assistant", None, tool_calls=calls, trained=learnt, weight=weight)
    calls = read_calls(record, turn.get("tool_calls"), f"{path}.tool_calls")
    if turn.get("function_call") is not None:
        calls = (*calls, *former_call(record, turn["function_call"], f"{path}.function_call"))
    silent = bool(calls) and turn.get(content_key) is None
    content = "" if silent else _value(record, turn, content_key, path)
    text, thought = _content(record, content, f"{path}.{content_key}", role, may_be_blank=bool(calls))
    return Message(
        role,
        None if silent else text,
        reasoning_of(record, turn, path, thought),
        calls,
        learnt,
        record.text(turn.get("name"), f"{path}.name"),
        record.text(turn.get("tool_call_id"), f"{path}.tool_call_id"),
        weight,
    )


def _leave(record: Record, key: str, path: str) -> None:
    """A key that means nothing here: counted, or a question if it may say what is learnt."""
    doubt = next((doubt for word, doubt in _DOUBTFUL.items() if word.search(key)), None)
    if doubt is None:
        record.note_unread(f"{path.partition('[')[0]}[].{key}")
    else:
        record.fault(f"'{path}.{key}' is not read", doubt[0], f"data.ignore={key}, or {doubt[1]}")


def _content_key(turn: Turn, role_key: str) -> str:
    usual = "content" if role_key == "role" else "value"
    return usual if usual in turn else next((key for key in CONTENT_KEYS if key in turn), usual)


def _value(record: Record, turn: Turn, key: str, path: str) -> Any:
    """The value of a key that every turn has; None behind a fault."""
    if key not in turn:
        near = nearest(key, turn.keys() - TURN_KEYS)
        mend = f"rename '{near}' to '{key}'" if near is not None else f"add '{key}'"
        record.fault(f"'{path}.{key}' is missing", mend=mend)
    elif turn[key] is None:
        record.blank(f"'{path}.{key}' is null")
    return turn.get(key)


def _content(
    record: Record, value: Any, path: str, role: Role, *, may_be_blank: bool
) -> tuple[str, str | None]:
    """(text, reasoning): a string, or a list of parts, put together as templates do with nothing between
    them. A tool's result may be any value; it is written as JSON."""
    thoughts: list[str] = []
    if role == "tool" and isinstance(value, dict | list) and not _is_parts(value):
        record.count("have tool results that are objects: written as JSON")
        value = json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        parts: list[str] = []
        for index, part in enumerate(cast(list[Any], value)):
            text = _part(record, part, f"{path}[{index}]", thoughts)
            if text is None:
                return "", None
            parts.append(text)
        value = "".join(parts)
    blank = may_be_blank or role in ("tool", "system")
    text = record.text(value, path) if blank else record.filled(value, path)
    return text or "", "".join(thoughts) or None


def _is_parts(value: Any) -> bool:
    items = cast(list[Any], value) if isinstance(value, list) else []
    return bool(items) and all(isinstance(item, dict) and "type" in item for item in items)


def _part(record: Record, part: Any, path: str, thoughts: list[str]) -> str | None:
    """The text of a part; None behind a fault. Keys that are null stem from a table's columns."""
    fields = {k: v for k, v in cast(Turn, part).items() if v is not None} if isinstance(part, dict) else {}
    for key in _ASIDE:
        fields.pop(key, None)
    sort = fields.get("type")
    thought = fields.get(_THOUGHTS[sort]) if isinstance(sort, str) and sort in _THOUGHTS else None
    if isinstance(thought, str):
        thoughts.append(thought)
        return ""
    if "text" in fields and sort in _TEXT_PARTS and fields.keys() <= {"type", "text"}:
        return record.text(fields["text"], f"{path}.text") or ""
    odd = next((key for key in fields if key not in ("type", "text")), None)
    found = fields[odd] if sort in _TEXT_PARTS and odd is not None else fields.get("type", part)
    what = f"found '{odd}'" if sort in _TEXT_PARTS and odd is not None else f"found {excerpt(found)}"
    mend = f'a part is {{"type": "text", "text": "…"}}; {DROP}'
    record.fault(f"'{path}' is not a part of text", what, mend)
    return None


def reasoning_of(record: Record, fields: Turn, path: str, thought: str | None = None) -> str | None:
    """The reasoning of a turn, or of a row's answer, by any of its names; ``thought``: that of its parts."""
    given = [key for key in REASONING if key in fields and key not in record.options.ignore]
    given = [key for key in given if not isinstance(fields[key], bool | None)]  # a switch is no reasoning
    if len({str(fields[key]) for key in given}) + (thought is not None) > 1:
        record.fault(f"'{path}' has two different reasonings", mend=f"keep one of {', '.join(given)}")
    return record.text(fields[given[0]], f"{path}.{given[0]}") if given else thought
