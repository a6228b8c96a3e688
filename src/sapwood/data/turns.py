"""Rows that are lists of turns: messages and ShareGPT, and the order that turns keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from sapwood.data.files.json_text import JsonFault, decode_line
from sapwood.data.problems import excerpt, kind, nearest
from sapwood.data.record import Record
from sapwood.types import Message, Role

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",  # what newer APIs call it
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_SHAREGPT_ROLES: dict[str, Role] = {
    **_ROLES,
    "human": "user",
    "gpt": "assistant",
    "function_call": "assistant",
    "observation": "tool",
}
_MAY_FOLLOW: dict[Role | None, tuple[Role, ...]] = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant", "user"),
}
_TURN_KEYS = {
    "role",
    "content",
    "from",
    "value",
    "reasoning",
    "reasoning_content",
    "tool_calls",
    "train",
    "weight",
}

Turn = Mapping[str, Any]


def read_turns(record: Record, key: str) -> list[Message]:
    """The messages under ``key``, and before them the row's ``system`` if it has one.

    What is wrong goes to ``record.problems``, and the messages mean nothing then.
    """
    system = record.text(record.optional("system"), "system")
    turns = record.required(key)
    if turns is None:
        return []
    if not isinstance(turns, list) or not turns:
        what = "empty" if turns == [] else f"{kind(turns)}, not a list"
        record.fault(f"'{key}' is {what}", mend="a list of turns is needed")
        return []
    messages: list[Message] = []
    for index, turn in enumerate(cast(list[Any], turns)):
        path = f"{key}[{index}]"
        if isinstance(turn, dict):
            messages.append(_read_turn(record, cast(Turn, turn), path, key == "conversations"))
        else:
            record.fault(f"'{path}' is {kind(turn)}, not a turn", f"found {excerpt(turn)}")
    if not record.problems:
        _check_order(record, messages, key)
    if system and messages and messages[0].role == "system":
        record.fault(f"two system prompts: 'system' and '{key}[0]'", mend="delete one")
    return [Message("system", system), *messages] if system else messages


def read_tools(record: Record) -> tuple[Mapping[str, Any], ...]:
    """The tool definitions of a row: a list of objects, or the JSON text of one as tables hold it."""
    tools = record.optional("tools")
    if isinstance(tools, str) and tools.strip():
        tools = _parse(record, tools, "tools")
    if tools is None or tools == "":
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in cast(list[Any], tools)):
        record.fault("'tools' is not a list of objects", f"found {excerpt(tools)}")
        return ()
    return tuple(cast(list[Turn], tools))


def _read_turn(record: Record, turn: Turn, path: str, sharegpt: bool) -> Message:
    """A turn in OpenAI's keys, or in ShareGPT's where ``conversations`` holds them."""
    by_from = sharegpt and "role" not in turn
    role_key, content_key = ("from", "value") if by_from else ("role", "content")
    for key in turn.keys() - _TURN_KEYS:
        record.note_unread(f"{path.partition('[')[0]}[].{key}")
    name = _turn_value(record, turn, role_key, path)
    role = _role(record, name, f"{path}.{role_key}", _SHAREGPT_ROLES if by_from else _ROLES)
    trained = _trained(record, turn, path, role)
    if by_from and name == "function_call":
        call = record.filled(_turn_value(record, turn, content_key, path), f"{path}.value")
        calls = _call_in_text(record, call, f"{path}.value") if call is not None else ()
        return Message("assistant", "", tool_calls=calls, trained=trained)
    calls = _tool_calls(record, turn.get("tool_calls"), f"{path}.tool_calls")
    content = "" if calls and turn.get(content_key) is None else _turn_value(record, turn, content_key, path)
    text = _content(
        record, content, f"{path}.{content_key}", may_be_blank=bool(calls) or role in ("tool", "system")
    )
    return Message(role, text, _reasoning(record, turn, path), calls, trained)


def _turn_value(record: Record, turn: Turn, key: str, path: str) -> Any:
    """The value of a key that every turn has; None behind a fault."""
    if key not in turn:
        near = nearest(key, turn.keys() - _TURN_KEYS)
        mend = f"rename '{near}' to '{key}'" if near is not None else f"add '{key}'"
        record.fault(f"'{path}.{key}' is missing", mend=mend)
    elif turn[key] is None:
        record.fault(f"'{path}.{key}' is null", mend="write the text, or delete the turn")
    return turn.get(key)


def _role(record: Record, name: Any, path: str, roles: Mapping[str, Role]) -> Role:
    if name is None:
        return "user"  # the fault is in the record already
    if isinstance(name, str) and name in roles:
        return roles[name]
    meant = _SHAREGPT_ROLES.get(name.strip().casefold()) if isinstance(name, str) else None
    mend = f"write '{meant}'" if meant is not None else f"roles: {', '.join(roles)}"
    record.fault(f"'{path}' is no known role", f"found {excerpt(name)}", mend)
    return "user"


def _content(record: Record, value: Any, path: str, *, may_be_blank: bool) -> str:
    """A string, or a list of text parts put together as templates do, with nothing between them."""
    if isinstance(value, list):
        parts: list[str] = []
        for index, part in enumerate(cast(list[Any], value)):
            fields = cast(Turn, part) if isinstance(part, dict) else {}
            if fields.get("type") != "text" or fields.keys() != {"type", "text"}:
                found = fields.get("type", part)
                mend = 'a part is {"type": "text", "text": "…"}'
                record.fault(f"'{path}[{index}]' is not a part of text", f"found {excerpt(found)}", mend)
                return ""
            parts.append(record.text(fields["text"], f"{path}[{index}].text") or "")
        value = "".join(parts)
    text = record.text(value, path) if may_be_blank else record.filled(value, path)
    return text or ""


def _reasoning(record: Record, turn: Turn, path: str) -> str | None:
    given = [key for key in ("reasoning", "reasoning_content") if turn.get(key) is not None]
    if len(given) == 2 and turn["reasoning"] != turn["reasoning_content"]:
        record.fault(f"'{path}' has two different reasonings", mend="keep one of the keys")
    return record.text(turn[given[0]], f"{path}.{given[0]}") if given else None


def _trained(record: Record, turn: Turn, path: str, role: Role) -> bool | None:
    """``train: true|false``, or ``weight: 0|1`` as some APIs have it; None where the turn doesn't say."""
    train, weight = turn.get("train"), turn.get("weight")
    if weight is not None:
        if train is not None or isinstance(weight, bool) or weight not in (0, 1):
            mend = "write train: true or train: false"
            record.fault(f"'{path}.weight' is not 0 or 1 alone", f"found {excerpt(weight)}", mend)
            return None
        train = bool(weight)
    if train is not None and not isinstance(train, bool):
        record.fault(f"'{path}.train' is not true or false", f"found {excerpt(train)}")
        return None
    if train and role != "assistant":
        record.fault(
            f"'{path}.train' is true on a turn of the {role}", "only the assistant's turns are learnt"
        )
    return train


def _tool_calls(record: Record, value: Any, path: str) -> tuple[Turn, ...]:
    if value is None or value == []:
        return ()
    if not isinstance(value, list):
        record.fault(f"'{path}' is {kind(value)}, not a list", f"found {excerpt(value)}")
        return ()
    for index, call in enumerate(cast(list[Any], value)):
        fields = cast(Turn, call) if isinstance(call, dict) else {}
        inner = fields.get("function", fields)
        if not isinstance(inner, dict) or not isinstance(cast(Turn, inner).get("name"), str):
            mend = 'a call is {"type": "function", "function": {"name": "…", "arguments": {…}}}'
            record.fault(f"'{path}[{index}]' names no function", f"found {excerpt(call)}", mend)
    return tuple(cast(list[Turn], value))


def _call_in_text(record: Record, text: str, path: str) -> tuple[Turn, ...]:
    """ShareGPT's function_call: the JSON of one call, or of a list of calls, as text."""
    value = _parse(record, text, path)
    if value is None:
        return ()
    calls = cast(list[Any], value) if isinstance(value, list) else [value]
    wrapped = [call if isinstance(call, dict) and "function" in call else _function(call) for call in calls]
    return _tool_calls(record, wrapped, path)


def _function(call: Any) -> Turn:
    return {"type": "function", "function": call}


def _parse(record: Record, text: str, path: str) -> Any:
    try:
        return decode_line(text)
    except JsonFault as fault:
        what = f"'{path}' is text that is not JSON"
        record.fault(what, f"{fault.what}, at character {fault.position + 1} of it", fault.mend)
        return None


def _check_order(record: Record, messages: list[Message], key: str) -> None:
    """System first, then user and assistant in turns, tools behind the assistant, who ends."""
    before: Role | None = None
    for index, message in enumerate(messages):
        role = message.role
        if role not in _MAY_FOLLOW[before]:
            record.fault(_order_fault(before, role, f"'{key}[{index}]'"), mend=_order_mend(before, role))
        before = role
    if before != "assistant":
        why = "there is no answer behind it to learn"
        record.fault(f"last turn is {before}, not assistant", why, "add the answer, or delete the turn")


def _order_fault(before: Role | None, role: Role, path: str) -> str:
    if role == "system":
        return (
            f"second system turn at {path}"
            if before == "system"
            else f"system turn at {path} is not the first"
        )
    if role == before:
        return f"two {role} turns in a row, the second at {path}"
    if role == "assistant":
        return f"the assistant speaks first, at {path}"
    return f"tool result at {path} without an assistant turn before it"


def _order_mend(before: Role | None, role: Role) -> str:
    if role == "system":
        return "merge it into the first turn"
    if role == before:
        return "merge them, or add the turn between"
    return "begin with a user turn" if role == "assistant" else "add the assistant's call"
