"""Which conversations are held out, and which repeat or contradict each other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from sapwood.errors import DataError
from sapwood.types import Conversation, Message, RowId


def split_eval(
    conversations: Sequence[Conversation], eval: float, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """(train, held out), each in the order of the input.

    Rows with the same prompt (system, tools, all but the last answer) stay together, exact duplicates with
    them: an answer that was trained is never tested. Each prompt's place in the draw is a hash of it and the
    seed, so the order of the rows doesn't matter, and a row that is added moves few others.

    Args:
        eval: below 1 the fraction to hold out, at least one row; else the number of rows; 0 for none. Fewer
            are taken where the groups of equal prompts don't add up to it, never more.

    Raises DataError where a side would be empty.
    """
    if not 0 <= eval < float("inf") or (eval >= 1 and eval != int(eval)):
        raise ValueError(f"{eval} is neither a fraction below 1 nor a number of rows")
    total = len(conversations)
    if eval == 0:
        return list(conversations), []
    wanted = max(1, round(total * eval)) if eval < 1 else int(eval)
    if wanted >= total:
        why = f"{wanted:,} of {total:,} rows would be held out, and none be left to train on"
        raise DataError("nothing left to train on", "data.eval", why, "lower data.eval, or set it to 0")
    groups = _group(conversations, _prompt)
    ranked = sorted(groups, key=lambda key: hashlib.sha256(f"{seed}:".encode() + key).digest())
    held: set[int] = set()
    for key in ranked:
        if len(held) + len(groups[key]) <= wanted:
            held.update(groups[key])
    if not held:
        smallest = min(len(group) for group in groups.values())
        why = (
            f"rows with one prompt stay together; the smallest such group has {smallest:,} of {total:,} rows"
        )
        mend = (
            f"hold out {smallest:,} or more" if smallest < total else "set data.eval to 0 or to another file"
        )
        raise DataError(f"can't hold out {wanted:,} rows", "data.eval", why, mend)
    train = [item for index, item in enumerate(conversations) if index not in held]
    return train, [item for index, item in enumerate(conversations) if index in held]


def duplicates(conversations: Sequence[Conversation]) -> list[tuple[RowId, ...]]:
    """Groups of rows with the same messages and tools, in order of their first row."""
    groups = _group(conversations, _whole).values()
    return [tuple(conversations[index].row for index in group) for group in groups if len(group) > 1]


def contradictions(conversations: Sequence[Conversation]) -> list[tuple[RowId, ...]]:
    """For each prompt with several answers: the first row of each answer, in order of the first row."""
    found: list[tuple[RowId, ...]] = []
    for group in _group(conversations, _prompt).values():
        answers: dict[bytes, RowId] = {}
        for index in group:
            answers.setdefault(_whole(conversations[index]), conversations[index].row)
        if len(answers) > 1:
            found.append(tuple(answers.values()))
    return found


def _group(conversations: Sequence[Conversation], key: Any) -> dict[bytes, list[int]]:
    groups: dict[bytes, list[int]] = {}
    for index, conversation in enumerate(conversations):
        groups.setdefault(key(conversation), []).append(index)
    return groups


def _whole(conversation: Conversation) -> bytes:
    return _digest(conversation, conversation.messages)


def _prompt(conversation: Conversation) -> bytes:
    messages = conversation.messages
    last = messages[-1].role if messages else None
    return _digest(conversation, messages[:-1] if last == "assistant" else messages)


def _digest(conversation: Conversation, messages: Iterable[Message]) -> bytes:
    """sha256 of what the model would see. Whether a turn is trained is not part of it."""
    turns = [[m.role, m.content, m.reasoning, list(m.tool_calls)] for m in messages]
    text = json.dumps(
        [turns, list(conversation.tools), conversation.text],
        sort_keys=True,
        ensure_ascii=False,
        separators=(",", ":"),
    )
    return hashlib.sha256(text.encode()).digest()
