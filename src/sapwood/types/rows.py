"""Rows of data, from a record of a file to an example: ids, and which of them are learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class RowId:
    """Where a row came from. A RowId stays with its row up to the loss, so that every message can name the
    row.

    Attributes:
        source: path of the file as the user wrote it, or a hub id.
        index: 0-based number of the row in that source.
        line: 1-based line where the row starts, if the format has lines.
    """

    source: str
    index: int
    line: int | None = None

    def __str__(self) -> str:
        """``file:line``; the row's number if the format has no lines; both if rows share a line."""
        if self.line is None:
            return f"{self.source} row {self.index}"
        shared = f" row {self.index}" if self.line <= self.index else ""
        return f"{self.source}:{self.line}{shared}"


@dataclass(frozen=True, slots=True)
class Row:
    """One raw record, before anyone decided what its columns mean. ``value`` is plain JSON data."""

    id: RowId
    value: Any


@dataclass(frozen=True, slots=True)
class Message:
    """One turn, as a chat template reads it.

    Attributes:
        content: what is said. None only beside tool calls, if the row has null: some templates write an
            empty answer for ``""`` and none for null.
        reasoning: what the assistant thought before it answered; ``""`` if it is known to be nothing.
        tool_calls: as in OpenAI's format, ``{"type": "function", "function": {"name", "arguments"}}``.
        trained: overrides ``template.train_on`` for this turn when it isn't None.
        name: who speaks, or the tool that answers.
        tool_call_id: the call that a tool's turn answers.
        weight: what each token of this turn counts in the loss, 1 when None.
    """

    role: Role
    content: str | None
    reasoning: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    trained: bool | None = None
    name: str | None = None
    tool_call_id: str | None = None
    weight: float | None = None

    @property
    def text(self) -> str:
        """The content, with nothing for null."""
        return self.content or ""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A row as messages.

    text: set if the row is text that somebody rendered, or a document. ``messages`` is empty then, until
    `template.unrender` has read the text. A document's ``messages`` stay empty.
    weight: what each learnt token of the row counts in the loss; None is 1. A turn's weight multiplies it.
    """

    row: RowId
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    text: str | None = None
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """Half-open range of characters."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text. ``spans`` is what the model must learn to write, stop token included;
    ``content`` is what came from the row: nothing in it may become a control token."""

    row: RowId
    text: str
    spans: tuple[Span, ...]
    content: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """ids: int32[T]. trained: bool[T], True if the token is to be learnt; at least one is.
    weights: float32[T], what a learnt token counts in the loss; None: each counts 1."""

    row: RowId
    ids: NDArray[np.int32]
    trained: NDArray[np.bool_]
    weights: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_targets(self) -> int:
        return int(self.trained.sum())

    @property
    def weight(self) -> float:
        """The sum of the weights of the example's learnt tokens. The sum of their losses is divided by it."""
        return total_weight(self.num_targets, None if self.weights is None else self.weights[self.trained])


def total_weight(targets: int, weights: NDArray[np.float32] | None) -> float:
    """The sum of the weights of so many targets; their number if none has a weight of its own."""
    return targets if weights is None else float(weights.sum(dtype=np.float64))


@dataclass(frozen=True, slots=True)
class TrainData:
    """Prepared examples: what is learnt, and what is only measured."""

    train: Sequence[Example]
    eval: Sequence[Example] = ()
