"""xLAM's rows: a prompt, and the calls that answer it."""

from __future__ import annotations

from sapwood.data.shapes.calls import calls_in
from sapwood.data.shapes.pairs import thought_of
from sapwood.data.shapes.record import DROP, Record
from sapwood.types import Message


def read_calling(record: Record, keys: tuple[str, ...]) -> list[Message]:
    """The prompt, and an answer that is calls alone. ``keys``: (query, tools, answers)."""
    query, tools, answers = keys
    system = record.text(record.optional("system"), "system")
    asked = record.filled(record.required(query), query)
    record.required(tools)
    calls = calls_in(record, record.required(answers), answers)
    if not calls and not record.problems:
        record.fault(f"'{answers}' is empty", "there is no call to learn", DROP)
    first = [Message("system", system)] if system else []
    return [*first, Message("user", asked or ""), Message("assistant", None, thought_of(record), calls)]
