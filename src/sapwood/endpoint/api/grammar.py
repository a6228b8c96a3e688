"""What an answer must be, as llama.cpp's grammar (llguidance).

A schema that can't be kept is refused: llama.cpp itself would silently answer without the schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sapwood.endpoint.api.calls import CallForm
from sapwood.engine.wire import Refused

HEAD = "%llguidance {}\n"
# If any white space is allowed, a small model often writes nothing else.
NARROW = {"x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}}


def grammar_of(schema: Mapping[str, Any] | bool) -> str:
    """The grammar of a JSON schema. Raises Refused naming the part that is wrong or not supported."""
    return _checked(HEAD + f"start: %json {_json(schema)}")


def grammar_of_calls(form: CallForm, tools: Sequence[Mapping[str, Any]]) -> str:
    """One call of one of the tools, in the form of the template."""
    calls = [_call(form, tool["function"]) for tool in tools]
    one: dict[str, Any] = calls[0] if len(calls) == 1 else {"anyOf": calls}
    value = {"type": "array", "items": one, "minItems": 1, "maxItems": 1} if form.listed else one
    parts = [json.dumps(form.opening)] if form.opening else []
    parts.append("call")
    parts += [json.dumps(form.closing)] if form.closing else []
    return _checked(HEAD + f"start: {' '.join(parts)}\ncall: %json {_json(value)}")


def _closed(schema: Any) -> Any:
    """A tool's schema without further arguments: names that the tool doesn't have are not allowed."""
    named = isinstance(schema, Mapping) and "properties" in schema
    return {"additionalProperties": False, **schema} if named else schema or {"type": "object"}


def _call(form: CallForm, function: Mapping[str, Any]) -> dict[str, Any]:
    keys = {
        form.name: {"const": function["name"]},
        form.arguments: _closed(function.get("parameters")),
    }
    return {"type": "object", "properties": keys, "required": list(keys), "additionalProperties": False}


def _json(schema: Any) -> str:
    return json.dumps({**schema, **NARROW} if isinstance(schema, Mapping) else {}, ensure_ascii=False)


def _checked(grammar: str) -> str:
    from llguidance import LLMatcher

    fault: str = LLMatcher.validate_grammar(grammar)
    if fault:
        first = fault.splitlines()[0].partition("failed to compile JSON schema: ")
        raise Refused(400, f"the schema can't be kept: {first[2] or first[0]}", "invalid_schema")
    return grammar
