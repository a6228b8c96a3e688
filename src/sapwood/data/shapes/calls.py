"""Tools and their calls: lists of objects, each perhaps as JSON text, in today's and in former forms."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, cast

from sapwood.data.problems import excerpt, kind
from sapwood.data.shapes.nested import FILLED, drop_nulls, unpacked
from sapwood.data.shapes.record import Record

Fields = Mapping[str, Any]
NULLS = "have calls with arguments that are null: learnt as null"
CALL = 'a call is {"type": "function", "function": {"name": "…", "arguments": {…}}}'


def read_tools(record: Record) -> tuple[Fields, ...]:
    """The tool definitions of a row: objects, or their JSON text as tables hold it; ``functions`` is the
    former name, for definitions without the envelope."""
    tools = _definitions(record, "tools")
    functions = _definitions(record, "functions")
    if tools and functions:
        record.fault("row has both 'tools' and 'functions'", mend="data.ignore=functions")
    return tools or tuple(function_of(one) for one in functions)


def _definitions(record: Record, key: str) -> tuple[Fields, ...]:
    value = unpacked(record, record.optional(key), key)
    if value is None or value == "":
        return ()
    value = [value] if isinstance(value, dict) and value else value
    items = (
        [unpacked(record, item, key) for item in cast(list[Any], value)] if isinstance(value, list) else []
    )
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in items):
        if not any("is text that is not JSON" in problem.what for problem in record.problems):
            record.fault(f"'{key}' is not a list of objects", f"found {excerpt(value)}")
        return ()
    return tuple(cast(list[Fields], items))


def function_of(value: Any) -> Fields:
    """A bare function in the envelope that templates look for; one that has it stays."""
    wrapped = isinstance(value, dict) and "function" in value
    return cast(Fields, value) if wrapped else {"type": "function", "function": value}


def read_calls(record: Record, value: Any, path: str) -> tuple[Fields, ...]:
    """The calls of a turn."""
    value = unpacked(record, value, path)
    if value is None or value == []:
        return ()
    value = [value] if isinstance(value, dict) and value else value
    if not isinstance(value, list):
        record.fault(f"'{path}' is {kind(value)}, not a list", f"found {excerpt(value)}")
        return ()
    calls = [unpacked(record, call, path) for call in cast(list[Any], value)]
    for index, call in enumerate(calls):
        fields = cast(Fields, call) if isinstance(call, dict) else {}
        inner = fields.get("function", fields)
        if not isinstance(inner, dict) or not isinstance(cast(Fields, inner).get("name"), str):
            record.fault(f"'{path}[{index}]' names no function", f"found {excerpt(call)}", CALL)
        elif None in _values(cast(Fields, inner).get("arguments")):
            record.count(NULLS)
    return tuple(cast(list[Fields], calls))


def _values(arguments: Any) -> Collection[Any]:
    return cast(Fields, arguments).values() if isinstance(arguments, dict) else ()


def without_filling(record: Record, tools: Sequence[Fields], calls: Iterable[Fields]) -> None:
    """Drop the nulls of a row that was a table's before it was JSON: a parameter that is null shows that."""
    if any(None in _values(_properties(tool)) for tool in tools):
        drop_nulls([*tools, *calls])
        record.counts.discard(NULLS)
        record.count(FILLED)


def _properties(tool: Fields) -> Any:
    found: Any = tool.get("function", tool)
    for key in ("parameters", "properties"):
        found = cast(Fields, found).get(key) if isinstance(found, dict) else None
    return found


def former_call(record: Record, value: Any, path: str) -> tuple[Fields, ...]:
    """``function_call`` of a turn: one bare call."""
    value = unpacked(record, value, path)
    return read_calls(record, [function_of(value)], path) if value is not None else ()


def calls_in(record: Record, value: Any, path: str) -> tuple[Fields, ...]:
    """One bare call or a list of them, also as text."""
    value = unpacked(record, value, path)
    if value is None:
        return ()
    calls = cast(list[Any], value) if isinstance(value, list) else [value]
    return read_calls(record, [function_of(call) for call in calls], path)
