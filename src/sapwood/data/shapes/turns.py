"""Rows that are lists of turns, in whatever form a turn has, and the order that turns keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from sapwood.data.problems import excerpt, kind
from sapwood.data.shapes.marks import marked
from sapwood.data.shapes.names import MARKS, REASONING, VERDICTS
from sapwood.data.shapes.nested import looks_nested, unpacked
from sapwood.data.shapes.record import DROP, DROP_BLANK, Record
from sapwood.data.shapes.roles import CALLS, ROLES
from sapwood.data.shapes.turn import CONTENT_KEYS, ROLE_KEYS, TURN_KEYS, read_turn, reasoning_of
from sapwood.types import Message, Role

_MAY_FOLLOW: dict[Role | None, tuple[Role, ...]] = {
    None: ("system", "user"),
    "system": ("user", "assistant"),
    "user": ("assistant", "system"),
    "assistant": ("user", "tool", "assistant", "system"),
    "tool": ("tool", "assistant", "user", "system"),
}
_SIMPLE: dict[str, Role] = {name: role for name, role in ROLES.items() if name not in CALLS}
# An item that holds a prompt and its answer, as MOSS, XTuner and others write it.
_ASKED = ("human", "input", "user", "question", "prompt", "instruction", "query")
_ANSWERED = ("assistant", "output", "bot", "answer", "response", "completion", "gpt")
_KEYS = {*TURN_KEYS, *_ASKED, *_ANSWERED, "system"}


def read_turns(record: Record, keys: tuple[str, ...]) -> list[Message]:
    """The messages under the key, and before them the row's ``system`` if it has one.

    What is wrong goes to ``record.problems``, and the messages mean nothing then.
    """
    (key,) = keys
    system = record.text(record.optional("system"), "system")
    before = len(record.problems)
    turns = unpacked(record, record.required(key), key)
    if turns is None:
        if len(record.problems) == before:
            record.blank(f"'{key}' is empty", mend=f"a list of turns is needed; {DROP_BLANK}")
        return []
    if not isinstance(turns, list) or not turns:
        if turns == []:
            record.blank(f"'{key}' is empty", mend=f"a list of turns is needed; {DROP_BLANK}")
        else:
            record.fault(f"'{key}' is {kind(turns)}, not a list", mend=f"a list of turns is needed; {DROP}")
        return []
    messages = messages_of(record, cast(list[Any], turns), key)
    messages = in_order(record, messages, key)
    if system and messages and messages[0].role == "system":
        record.fault(f"two system prompts: 'system' and '{key}[0]'", mend="data.ignore=system")
    return [Message("system", system), *messages] if system else messages


def messages_of(record: Record, turns: list[Any], key: str) -> list[Message]:
    """Each item as messages: an object with a role, perhaps as JSON text; one with a prompt and its answer,
    or with one of them; [prompt, answer]; or texts, of which the user has the first."""
    if turns and isinstance(turns[0], str) and all(map(_spells_turn, turns)):
        turns = [unpacked(record, turn, f"{key}[{at}]") for at, turn in enumerate(turns)]
    if all(isinstance(turn, str) for turn in turns):
        return [_speech(record, turn, f"{key}[{at}]", at % 2 == 0) for at, turn in enumerate(turns)]
    messages: list[Message] = []
    calling = False
    told = record.options.roles
    for at, turn in enumerate(turns):
        if not told and (message := _simple(turn)) is not None:
            messages.append(message)
            calling = False
            continue
        path = f"{key}[{at}]"
        if isinstance(turn, dict):
            turn = _plain_keys(cast(Mapping[str, Any], turn))
        if isinstance(turn, list) and len(cast(list[Any], turn)) == 2:
            both = cast(list[Any], turn)
            messages += [_speech(record, both[i], f"{path}[{i}]", i == 0) for i in range(2)]
        elif not isinstance(turn, dict):
            record.fault(f"'{path}' is {kind(turn)}, not a turn", f"found {excerpt(turn)}", DROP)
        elif pair := _pair_keys(cast(Mapping[str, Any], turn)):
            messages += _exchange(record, cast(Mapping[str, Any], turn), pair, path)
        elif len(cast(Mapping[str, Any], turn)) == 1 and (said := _said(record, turn, path)) is not None:
            messages.append(said)
        else:
            message = read_turn(record, cast(Mapping[str, Any], turn), path)
            calls = _role_name(cast(Mapping[str, Any], turn)) in CALLS
            if calls and calling:  # several calls at once: one turn of the assistant
                before = messages.pop()
                both_calls = (*before.tool_calls, *message.tool_calls)
                message = Message("assistant", None, None, both_calls, message.trained, weight=message.weight)
            calling = calls
            messages.append(message)
    return messages


def _simple(turn: Any) -> Message | None:
    """A turn that is a role, by one of its usual names, and a text; None for any other. Most turns are, and a
    file has millions."""
    if not isinstance(turn, dict) or len(cast(dict[str, Any], turn)) != 2:
        return None
    fields = cast(dict[str, Any], turn)
    role, text = (
        (fields.get("role"), fields.get("content"))
        if "role" in fields
        else (fields.get("from"), fields.get("value"))
    )
    known = _SIMPLE.get(role) if isinstance(role, str) else None
    if known is None or not isinstance(text, str) or not text or text.isspace():
        return None
    return Message(known, text)


def _plain_keys(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    """The turn with each key that files use, and that stands there in another case, under its own name."""
    if turn.keys() <= _KEYS:
        return turn
    found: dict[str, Any] = {}
    for key, value in turn.items():
        folded = key.strip().casefold()
        found[folded if folded in _KEYS and folded not in turn else key] = value
    return found


def _spells_turn(value: Any) -> bool:
    """Is this the JSON text of a turn?"""
    return looks_nested(value) and all(
        any(f'"{key}"' in value or f"'{key}'" in value for key in keys) for keys in (ROLE_KEYS, CONTENT_KEYS)
    )


def _said(record: Record, turn: Mapping[str, Any], path: str) -> Message | None:
    """A turn whose one key says who speaks; None for any other."""
    ((who, text),) = turn.items()
    if who in (*ROLE_KEYS, *CONTENT_KEYS) or (role := _SIMPLE.get(who)) is None:
        return None
    if role == "tool":
        return None
    message = _speech(record, text, f"{path}.{who}", asked=role == "user")
    return Message(role, message.content)


def _role_name(turn: Mapping[str, Any]) -> str:
    name = next((turn[key] for key in ROLE_KEYS if key in turn), None)
    return name.strip().casefold() if isinstance(name, str) else ""


def _speech(record: Record, value: Any, path: str, asked: bool) -> Message:
    if value is None:
        record.blank(f"'{path}' is null")
    return Message("user" if asked else "assistant", record.filled(value, path) or "")


def _pair_keys(turn: Mapping[str, Any]) -> tuple[str, str] | None:
    if any(key in turn for key in (*ROLE_KEYS, *CONTENT_KEYS)):
        return None
    asked = [key for key in _ASKED if key in turn]
    answered = [key for key in _ANSWERED if key in turn]
    return (asked[0], answered[0]) if len(asked) == 1 and len(answered) == 1 else None


def _exchange(record: Record, turn: Mapping[str, Any], keys: tuple[str, str], path: str) -> list[Message]:
    """Prompt and answer in one object, with the system prompt that XTuner puts beside the first."""
    for key in turn.keys() - {*keys, "system", *REASONING, *MARKS, *VERDICTS} - record.options.ignore:
        record.note_unread(f"{path.partition('[')[0]}[].{key}")
    system = record.text(turn.get("system"), f"{path}.system")
    asked, answered = keys
    learnt, weight = marked(record, turn, path, "assistant")
    answer = _speech(record, turn[answered], f"{path}.{answered}", False)
    thought = reasoning_of(record, turn, path)
    return [
        *([Message("system", system)] if system else []),
        _speech(record, turn[asked], f"{path}.{asked}", True),
        Message("assistant", answer.content, thought, trained=learnt, weight=weight),
    ]


def in_order(record: Record, messages: list[Message], key: str) -> list[Message]:
    """The messages up to the last answer: what stands behind it teaches nothing. Their order is checked:
    a user speaks before the assistant, and tools behind one; the rest is for the template to say."""
    if record.problems:
        return messages
    before: Role | None = None
    begun = False  # has a user spoken?
    for index, message in enumerate(messages):
        role = message.role
        if role not in _MAY_FOLLOW[before] or (role == "assistant" and not begun):
            path = f"'{key}[{index}]'"
            record.fault(_order_fault(before, role, path), mend=_order_mend(before, role))
        begun = begun or role == "user"
        before = role
    last = max((at for at, message in enumerate(messages) if message.role == "assistant"), default=-1)
    if last < 0 and not record.problems:
        why, mend = "there is no answer to learn", f"add the answer, or {DROP}"
        if "chosen" in record.value:
            mend = f"data.columns.prompt={key} data.columns.completion=chosen learns the better answer"
        record.fault(f"last turn is {before}, not assistant", why, mend)
    if last + 1 < len(messages):
        record.count("end with turns behind the last answer, which are left out")
    return messages[: last + 1]


def _order_fault(before: Role | None, role: Role, path: str) -> str:
    if role == "system":
        return f"second system turn at {path}"
    if role == "assistant":
        return f"the assistant speaks first, at {path}"
    if role == before:
        return f"two {role} turns in a row, the second at {path}"
    return f"tool result at {path} without an assistant turn before it"


def _order_mend(before: Role | None, role: Role) -> str:
    if role == "system":
        mend = "merge it into the first turn"
    elif role == before:
        mend = "merge them, or add the turn between"
    else:
        mend = "begin with a user turn" if role == "assistant" else "add the assistant's call"
    return f"{mend}; {DROP}"
