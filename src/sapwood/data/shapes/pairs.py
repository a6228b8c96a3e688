"""Rows of columns, one prompt and one answer, whatever the columns are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from sapwood.data.problems import excerpt, kind
from sapwood.data.shapes.names import EXTRAS, REASONING
from sapwood.data.shapes.nested import looks_nested, unpacked
from sapwood.data.shapes.record import DROP, DROP_BLANK, Record
from sapwood.data.shapes.turn import read_turn, reasoning_of
from sapwood.data.shapes.turns import in_order, messages_of
from sapwood.types import Message

SEVERAL = ("answers", "human_answers", "chatgpt_answers")  # columns that hold lists of answers
SWITCHES = ("on", "off", "true", "false", "yes", "no", "none", "low", "medium", "high")  # no reasoning


def read_pair(record: Record, keys: tuple[str, ...]) -> list[Message]:
    """The messages of a row: its system prompt and its history if it has them, the prompt with what stands
    behind it, the answer. ``keys``: (prompt, answer). Prompt and answer may be lists of turns, as TRL has
    them.

    What is wrong goes to ``record.problems``, and the messages mean nothing then.
    """
    prompt_key, answer_key = keys
    system = record.text(record.optional("system"), "system")
    first = [Message("system", system)] if system else []
    first += _read_history(record, record.optional("history"))
    both = record.value.get(prompt_key), record.value.get(answer_key)
    if any(_may_be_turns(value) and _are_turns(value) for value in both):
        return [*first, *_conversational(record, prompt_key, answer_key)]
    asked = _prompt(record, prompt_key)
    answered = record.filled(_one_answer(record, record.required(answer_key), answer_key), answer_key)
    return [*first, Message("user", asked or ""), Message("assistant", answered or "", thought_of(record))]


def thought_of(record: Record) -> str | None:
    """The reasoning that a row has in a column of its own."""
    if record.value.keys().isdisjoint(REASONING):
        return None
    there = {key: record.value[key] for key in REASONING if key in record.value}
    there = {key: value for key, value in there.items() if not says_nothing(value)}
    for key in there:
        record.optional(key)
    return reasoning_of(record, there, "the row") if there else None


def says_nothing(value: Any) -> bool:
    """Whether the text in a column of reasoning is only a switch (on, off), or blank."""
    return isinstance(value, str) and value.strip().casefold() in (*SWITCHES, "")


def _prompt(record: Record, key: str) -> str | None:
    """The prompt, and ``input`` or ``context`` on a line of its own; a blank one adds nothing, not even the
    line break."""
    prompt = record.text(record.required(key), key)
    extras: list[str] = []
    for extra in EXTRAS:
        if extra not in record.value or extra == key or extra in record.options.ignore:
            continue
        value = record.optional(extra)
        if isinstance(value, list | dict):
            mend = f"data.ignore={extra} leaves it out, or write it as text"
            record.fault(f"'{extra}' is {kind(value)}, not text", f"found {excerpt(value)}", mend)
            continue
        text = record.text(value, extra)
        if text is not None and text.strip():
            extras.append(text)
            if extra == "context":
                record.count(f"have a 'context': it follows '{key}' in the prompt, after a line break")
    if prompt is not None and not prompt.strip() and not extras:
        both = f"'{key}' and 'input' are" if "input" in record.value and key != "input" else f"'{key}' is"
        record.blank(f"{both} empty", mend=f"write the prompt, or {DROP_BLANK}")
    if record.value.get("instruction", "") is None:
        record.optional("instruction")  # null counts as read, and adds nothing
    if not extras:
        return prompt
    return "\n".join([part for part in (prompt, *extras) if part is not None and part.strip()])


def _one_answer(record: Record, value: Any, key: str) -> Any:
    """The one answer of a list, or of SQuAD's object with a list of texts; any other value as it is."""
    if isinstance(value, dict) and isinstance(cast(dict[str, Any], value).get("text"), list):
        value = cast(dict[str, Any], value)["text"]
    if not isinstance(value, list) or (key not in SEVERAL and key not in record.options.mapped):
        return value
    texts = [_text_of(one) for one in cast(list[Any], value)]
    if any(isinstance(text, dict | list) for text in texts):
        return value  # no list of answers
    answers = [*dict.fromkeys(texts)]
    if not answers:
        record.blank(f"'{key}' is empty", "there is no answer to learn", DROP_BLANK)
        return None
    if len(answers) > 1 and not record.options.first_answer:
        what = f"'{key}' has {len(answers)} different answers"
        record.fault(what, "it is not clear which to learn", f"data.answers=first takes the first; {DROP}")
        return None
    if len(answers) > 1:
        record.count(f"have several answers in '{key}': the first is learnt")
    return answers[0]


def _text_of(answer: Any) -> Any:
    """An answer, which may be an object with its text."""
    fields = cast(dict[str, Any], answer) if isinstance(answer, dict) else {}
    return fields["text"] if isinstance(fields.get("text"), str) else answer


def _may_be_turns(value: Any) -> bool:
    return not isinstance(value, str) or value[:1] in ("[", "{")


def _are_turns(value: Any) -> bool:
    """A list of turns, one turn, or their JSON text."""
    if isinstance(value, str):
        return looks_nested(value) and ('"role"' in value or '"from"' in value)
    found = [value] if isinstance(value, dict) else value
    return (
        isinstance(found, list)
        and bool(found)
        and all(isinstance(one, dict) and ("role" in one or "from" in one) for one in cast(list[Any], found))
    )


def _conversational(record: Record, prompt_key: str, answer_key: str) -> list[Message]:
    """Prompt and answer as lists of turns; one of them may be plain text."""
    messages: list[Message] = []
    for key, role in ((prompt_key, "user"), (answer_key, "assistant")):
        value = record.required(key)
        if _are_turns(value):
            value = unpacked(record, value, key)
            items = cast(list[Any], value) if isinstance(value, list) else [value]
            messages += messages_of(record, items, key)
        elif value is not None:
            turn: Mapping[str, Any] = {"role": role, "content": value}
            messages.append(read_turn(record, turn, key))
    return in_order(record, messages, prompt_key)


def _is_exchange(item: Any) -> bool:
    """Whether a value may be a prompt and its answer, or a turn."""
    return isinstance(item, dict) or (isinstance(item, list) and len(cast(list[Any], item)) == 2)


def _read_history(record: Record, history: Any) -> list[Message]:
    """Earlier turns: a list of [prompt, answer], or of turns as messages have them."""
    history = unpacked(record, history, "history")
    if history is None or history == "":  # a table writes "no history" as an empty cell
        return []
    if not isinstance(history, list):
        record.fault("'history' is not a list", f"found {excerpt(history)}", "a list of [prompt, answer]")
        return []
    items = cast(list[Any], history)
    odd = next((at for at, item in enumerate(items) if not _is_exchange(item)), None)
    if odd is not None:
        mend = "a list of [prompt, answer]"
        record.fault(f"'history[{odd}]' is not [prompt, answer]", f"found {excerpt(items[odd])}", mend)
        return []
    return messages_of(record, items, "history")
