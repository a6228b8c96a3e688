"""The result of a formatting function: the text that it makes of a row, what is learnt, what couldn't be
followed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sapwood.migrate.formatting.family import quote, read_parts, set_columns
from sapwood.migrate.formatting.jinja import optional
from sapwood.migrate.formatting.learning import Learning
from sapwood.migrate.script.found import Formatting
from sapwood.migrate.script.values import (
    Chat,
    Coded,
    Encoded,
    Field,
    Filler,
    Ids,
    Len,
    Part,
    Row,
    Special,
    Text,
    as_ids,
    as_text,
    dotted,
)

_PROMPTS = ("prompt", "instruction", "input", "question", "query")
_ANSWERS = ("completion", "output", "response", "answer")


def recognise(formatting: Formatting, text_field: str = "", model: str = "") -> Learning:
    """model: its name, in lower case; it tells families apart whose marks are alike."""
    found = [
        read
        for way in formatting.ways
        if (read := _read(way.result, formatting, text_field, model)) is not None
    ]
    whole = [one for one in found if one.columns or one.own]
    if not whole:
        learning = found[0] if found else Learning(formatting.line, formatting.function.name)
        if not learning.resists:
            learning.resists.append((formatting.function.node.lineno, "what it makes of a row"))
        return learning
    first = max(whole, key=lambda one: len(one.columns))
    others = next((o for o in whole if not set(o.columns.values()) <= set(first.columns.values())), None)
    if others is not None:
        both = " / ".join(", ".join(one.columns.values()) for one in (first, others))
        first.resists.append((first.prompt_line or first.line, f"columns that depend on the row: {both}"))
    if first.jinja and len(whole) > 1:
        first.jinja = optional(
            first.jinja, next((o.jinja for o in whole if len(o.columns) < len(first.columns)), "")
        )
    return first


def _read(result: Any, formatting: Formatting, text_field: str, model: str) -> Learning | None:
    learning = Learning(formatting.function.node.lineno, formatting.function.name, model=model)
    if isinstance(result, Row):
        result = dict(result.columns)
    if isinstance(result, Coded):
        result = {"input_ids": result.ids, "attention_mask": 1, **result.extra}
    if isinstance(result, Ids):
        result = {"input_ids": result}
    if isinstance(result, dict) and as_ids(result.get("input_ids")) is not None and result["input_ids"] != []:
        return _of_ids(learning, result)
    if isinstance(result, dict):
        return _of_columns(learning, result, text_field)
    value = result[0] if isinstance(result, list) and result else result
    if isinstance(value, (Text, Chat)):
        return _of_text(learning, as_text(value))
    return None


def _of_columns(learning: Learning, result: dict[str, Any], text_field: str) -> Learning | None:
    for name in (text_field, "text", "formatted_text", "formatted_chat", "prompt", *result):
        value = result.get(name)
        value = value[0] if isinstance(value, list) and value and not isinstance(value[0], dict) else value
        if not isinstance(value, Text) or (name in _PROMPTS and any(key in result for key in _ANSWERS)):
            continue
        if name in _PROMPTS and name != text_field and not _ends_with_answer(value):
            learning.resists.append((value.line or learning.line, f"{name}: {quote(value)}"))
            return learning
        if name in (text_field, "text") or _answers(value):
            return _of_text(learning, value)
    for name in ("messages", "conversations", "conversation"):
        value = result.get(name)
        if isinstance(value, list) and value:
            value = value[0] if isinstance(value[0], list) else value
            learning.learnt = ""
            return _of_messages(learning, value)
    pair = next(((p, c) for p in _PROMPTS for c in _ANSWERS if p in result and c in result), None)
    if pair is None:
        return None
    prompt, answer = result[pair[0]], result[pair[1]]
    if isinstance(prompt, list) and isinstance(answer, list):
        return _of_messages(learning, [*prompt, *answer])
    learning.own = True
    set_columns(learning, as_text(prompt), as_text(answer))
    return learning


def _ends_with_answer(value: Text) -> bool:
    """Whether the last column of a text goes by a name that answers have."""
    fields = [part for part in value.parts if isinstance(part, Field)]
    return bool(fields) and any(word in fields[-1].name.lower() for word in (*_ANSWERS, "label", "target"))


def _answers(value: Text) -> bool:
    return sum(isinstance(part, Field) for part in value.parts) >= 2 or any(
        isinstance(p, Chat) for p in value.parts
    )


def _of_ids(learning: Learning, result: dict[str, Any]) -> Learning:
    ids = as_ids(result["input_ids"])
    assert ids is not None
    learning.is_ids, learning.has_mask = True, "attention_mask" in result
    learning.cuts, learning.masks = list(ids.cuts), list(ids.masks)
    learning.fillers = [part for part in ids.parts if isinstance(part, Filler)]
    learning.limits = [part for part in ids.parts if isinstance(part, Encoded) and part.limit is not None]
    labels = as_ids(result["labels"]) if "labels" in result else None
    if labels is not None:
        learning.cuts += [cut for cut in labels.cuts if cut not in learning.cuts]
        learning.masks = list(labels.masks)
        learning.sentinel = next(
            (p.line for p in labels.parts if isinstance(p, Filler) and isinstance(p.value, Special)), 0
        )
    parts: list[Part] = []
    lines: list[int] = []
    for part in ids.parts:
        inner = _texts(part)
        parts += inner
        lines += [getattr(p, "line", 0) or getattr(part, "line", 0) for p in inner]
    learnt = _align(ids, labels) if labels is not None else None
    if labels is not None and learnt is None:
        learning.resists.append((learning.line, "which ids are labels"))
    first = next((part for part in ids.parts if isinstance(part, Encoded)), None)
    learning.own_bos = bool(first and first.specials)
    _of_parts(learning, parts, lines)
    if learnt is not None:
        answer = [
            ok
            for part, ok in zip(ids.parts, learnt, strict=True)
            for p in _texts(part)
            if isinstance(p, Field)
        ]
        learning.learnt = "all" if (answer[0] if answer else all(learnt)) else "assistant"
        learning.prompt_masked = learning.learnt == "assistant"
        if answer and not answer[-1]:
            learning.resists.append((learning.line, "the answer isn't among its labels"))
            learning.learnt = ""
    return learning


def _texts(part: Any) -> list[Part]:
    if isinstance(part, Encoded):
        return list(part.text.parts)
    if isinstance(part, Filler):
        return []
    return [part]


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Encoded) and isinstance(right, Encoded):
        return left.text.parts == right.text.parts
    if isinstance(left, Special) and isinstance(right, Special):
        return left.name == right.name
    return left == right


def _align(ids: Ids, labels: Ids) -> list[bool] | None:
    """For each part of the ids, whether its labels are the ids themselves."""
    learnt: list[bool] = []
    for part in labels.parts:
        at = len(learnt)
        if at >= len(ids.parts):
            return None
        if isinstance(part, Filler) and isinstance(part.times, Len):
            inner = part.times.of
            covered = inner.parts if isinstance(inner, Ids) else ()
            if not covered or not all(map(_same, covered, ids.parts[at : at + len(covered)])):
                return None
            learnt += [False] * len(covered)
        elif _same(part, ids.parts[at]):
            learnt.append(not isinstance(part, Filler))
        elif isinstance(part, Filler) and (isinstance(ids.parts[at], Filler) or part.times == 1):
            learnt.append(False)
        else:
            return None
    for mask in labels.masks:
        if isinstance(mask.upto, Len) and isinstance(mask.upto.of, Ids):
            count = len(mask.upto.of.parts)
            learnt = [ok and i >= count for i, ok in enumerate(learnt)]
        elif mask.equal is None:
            return None
    return learnt if len(learnt) == len(ids.parts) else None


def _of_text(learning: Learning, text: Text) -> Learning:
    lines = [getattr(part, "line", 0) or text.line for part in text.parts]
    _of_parts(learning, list(text.parts), lines)
    return learning


def _of_messages(learning: Learning, messages: Sequence[Any]) -> Learning:
    learning.own = True
    by_role: dict[str, Text] = {}
    for message in messages:
        if not isinstance(message, dict):
            learning.resists.append((learning.line, "a message that is made elsewhere"))
            continue
        role = message.get("role", message.get("from", ""))
        role = {"human": "user", "gpt": "assistant", "model": "assistant"}.get(str(role), str(role))
        content = message.get("content", message.get("value", ""))
        if isinstance(content, list) and content and isinstance(content[0], dict):
            content = content[0].get("text", "")
        if role in by_role:
            learning.resists.append((learning.line, "more than one turn"))
        by_role[role] = as_text(content, learning.line)
    system = by_role.get("system")
    if system is not None and system.parts:
        if all(isinstance(p, str) for p in system.parts):
            learning.system, learning.system_line = (
                "".join(map(str, system.parts)),
                system.line or learning.line,
            )
        elif len(system.parts) == 1 and isinstance(system.parts[0], Field):
            learning.columns["system"] = system.parts[0].name
        else:
            learning.resists.append((system.line or learning.line, quote(system)))
    set_columns(learning, by_role.get("user", Text(())), by_role.get("assistant", Text(())))
    return learning


def _of_parts(learning: Learning, parts: list[Part], lines: list[int]) -> None:
    chat = next((part for part in parts if isinstance(part, Chat)), None)
    if chat is not None:
        _of_chat(learning, chat, parts)
    else:
        read_parts(learning, parts, lines)


def _of_chat(learning: Learning, chat: Chat, parts: list[Part]) -> None:
    learning.own = True
    learning.end = tuple(parts[parts.index(chat) + 1 :])
    learning.end_line = chat.line
    learning.answer_line = learning.prompt_line = chat.line
    if isinstance(chat.messages, Field):
        name = chat.messages.name
        form = "sharegpt" if name in ("conversations", "conversation") else "messages"
        learning.columns["conversations" if form == "sharegpt" else "messages"] = name
    elif isinstance(chat.messages, list):
        _of_messages(learning, chat.messages)
    else:
        learning.resists.append((chat.line, dotted(chat.messages)))
