"""Rows of columns, one prompt and one answer: alpaca, input/output, prompt/completion."""

from __future__ import annotations

from typing import Any, cast

from sapwood.data.problems import excerpt
from sapwood.data.record import Record
from sapwood.data.shapes import closest_pair, pairs_in
from sapwood.types import Message


def read_pair(record: Record, format: str) -> list[Message]:
    """The messages of a row: its system prompt and its history if it has them, the prompt, the answer.

    What is wrong goes to ``record.problems``, and the messages mean nothing then.
    """
    found = pairs_in(record.value, format)
    if len(found) > 1:
        columns = ", ".join("/".join(pair) for pair in found)
        record.fault(f"row has several pairs of columns: {columns}", mend="keep one of them")
    prompt_key, answer_key = found[0] if found else closest_pair(record.value.keys(), format)
    messages: list[Message] = []
    system = record.text(record.optional("system"), "system")
    if system:
        messages.append(Message("system", system))
    messages += _read_history(record, record.optional("history"))
    if format == "alpaca":
        prompt = _alpaca_prompt(record)
    else:
        prompt = record.filled(record.required(prompt_key), prompt_key)
        if record.value.get("instruction", "") is None:
            record.optional("instruction")  # null: read, and nothing
    answer = record.filled(record.required(answer_key), answer_key)
    return [*messages, Message("user", prompt or ""), Message("assistant", answer or "")]


def _alpaca_prompt(record: Record) -> str | None:
    """Instruction and input with a line break between them; a blank one adds nothing, not even the break."""
    instruction = record.text(record.required("instruction"), "instruction")
    extra = record.text(record.optional("input"), "input")
    parts = [part for part in (instruction, extra) if part is not None and part.strip()]
    if not parts and instruction is not None:
        record.fault("'instruction' and 'input' are empty", mend="write the prompt, or delete the row")
    return "\n".join(parts)


def _read_history(record: Record, history: Any) -> list[Message]:
    """Earlier turns: a list of [prompt, answer]."""
    if history is None or history == "":  # a table writes "no history" as an empty cell
        return []
    if not isinstance(history, list):
        record.fault("'history' is not a list", f"found {excerpt(history)}", "a list of [prompt, answer]")
        return []
    messages: list[Message] = []
    for index, pair in enumerate(cast(list[Any], history)):
        path = f"history[{index}]"
        if not isinstance(pair, list) or len(cast(list[Any], pair)) != 2:
            record.fault(f"'{path}' is not [prompt, answer]", f"found {excerpt(pair)}")
            continue
        for side, role in enumerate(("user", "assistant")):
            value = cast(list[Any], pair)[side]
            if value is None:
                record.fault(f"'{path}[{side}]' is null", mend="write the text, or delete the pair")
            text = record.filled(value, f"{path}[{side}]")
            messages.append(Message("user" if role == "user" else "assistant", text or ""))
    return messages
