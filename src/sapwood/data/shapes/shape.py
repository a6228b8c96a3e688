"""A shape of rows: what the table says about each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sapwood.data.shapes.record import Record
from sapwood.types import Message


@dataclass(frozen=True, slots=True)
class Shape:
    """One entry of the table.

    Attributes:
        name: what data.format calls it.
        keys: sets of keys; a row that has all of one is of this shape. Of a pair: (prompt, answer).
        read: the messages of a row; gets the keys that were found. What is wrong goes to the record.
        origin: who writes such rows.
        reads: how such rows become a conversation, in English and in Chinese.
        example: a row as JSON.
        unfold: for a row that holds several conversations: the rows of another shape that it stands for.
    """

    name: str
    keys: tuple[tuple[str, ...], ...]
    read: Callable[[Record, tuple[str, ...]], list[Message]]
    origin: str
    reads: tuple[str, str]
    example: str
    unfold: Callable[[Mapping[str, Any], bool], list[dict[str, Any]]] | None = None
