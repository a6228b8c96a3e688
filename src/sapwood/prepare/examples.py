"""Many examples as a few arrays, so that a million of them take the memory of their tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from sapwood.types import Example, RowId

COPIED = 65_536  # examples that are copied at once


class Examples(Sequence[Example]):
    """Examples one behind the other; each is made when it is asked for.

    ids: int32[tokens]; trained: bool[tokens]; weights: float32[tokens], or None if every token counts 1;
    bounds: int64[examples + 1], where each begins and the last
    ends. Where each came from: ``source``, int32[examples], counts in ``sources``; ``number`` of the row in
    it and ``line`` (0 for none), int64[examples].
    """

    __slots__ = ("bounds", "ids", "line", "number", "source", "sources", "trained", "weights")

    def __init__(
        self,
        ids: NDArray[np.int32],
        trained: NDArray[np.bool_],
        bounds: NDArray[np.int64],
        rows: tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]],
        sources: Sequence[str],
        weights: NDArray[np.float32] | None = None,
    ) -> None:
        self.ids, self.trained, self.bounds, self.weights = ids, trained, bounds, weights
        self.source, self.number, self.line = rows
        self.sources = sources

    @classmethod
    def of(cls, examples: Iterable[Example]) -> Examples:
        """The same examples, as arrays."""
        if isinstance(examples, Examples):
            return examples
        found = list(examples)
        known: dict[str, int] = {}
        source = [known.setdefault(one.row.source, len(known)) for one in found]
        rows = (
            np.array(source, np.int32),
            np.array([one.row.index for one in found], np.int64),
            np.array([one.row.line or 0 for one in found], np.int64),
        )
        ids = np.concatenate([np.empty(0, np.int32), *(one.ids for one in found)], dtype=np.int32)
        trained = np.concatenate([np.empty(0, np.bool_), *(one.trained for one in found)], dtype=np.bool_)
        bounds = np.cumsum([0, *map(len, found)])
        weights = joined_weights([(one.weights, len(one)) for one in found])
        return cls(ids, trained, bounds, rows, list(known), weights)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Examples: ...
    def __getitem__(self, index: int | slice) -> Example | Examples:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return self._slice(start, max(start, stop))
            return self.take(np.arange(start, stop, step))
        at = range(len(self))[index]
        start, stop = self.bounds[at], self.bounds[at + 1]
        weights = None if self.weights is None else self.weights[start:stop]
        return Example(self.row(at), self.ids[start:stop], self.trained[start:stop], weights)

    def row(self, at: int) -> RowId:
        """Where an example came from."""
        return RowId(self.sources[int(self.source[at])], int(self.number[at]), int(self.line[at]) or None)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each."""
        return np.diff(self.bounds)

    @property
    def num_tokens(self) -> int:
        return int(self.bounds[-1] - self.bounds[0])

    @property
    def num_targets(self) -> int:
        return int(np.count_nonzero(self.trained[self.bounds[0] : self.bounds[-1]]))

    def take(self, places: NDArray[np.int64]) -> Examples:
        """A copy of the examples at ``places``, in that order. A place may occur several times."""
        bounds = np.concatenate([[0], np.cumsum(self.lengths[places])])
        ids, trained = np.empty(bounds[-1], np.int32), np.empty(bounds[-1], np.bool_)
        edges = self.bounds
        for first in range(0, len(places), COPIED):
            chosen = places[first : first + COPIED].tolist()
            into = slice(bounds[first], bounds[first + len(chosen)])
            np.concatenate([self.ids[edges[at] : edges[at + 1]] for at in chosen], out=ids[into])
            np.concatenate([self.trained[edges[at] : edges[at + 1]] for at in chosen], out=trained[into])
        rows = self.source[places], self.number[places], self.line[places]
        weights = self.weights
        if weights is not None:
            weights = np.concatenate([weights[:0], *(weights[edges[at] : edges[at + 1]] for at in places)])
        return Examples(ids, trained, bounds, rows, self.sources, weights)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What is stored: `from_tensors` gives the examples again, with ``sources``."""
        span = slice(self.bounds[0], self.bounds[-1])
        weights = {} if self.weights is None else {"weights": self.weights[span]}
        return {
            **weights,
            "ids": self.ids[span],
            "trained": self.trained[span].view(np.uint8),
            "length": self.lengths,
            "source": self.source,
            "index": self.number,
            "line": self.line,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]], sources: Sequence[str]) -> Examples:
        """Raises ValueError or KeyError if the tensors don't belong together."""
        length, source = tensors["length"], tensors["source"]
        known = source.min(initial=0) >= 0 and source.max(initial=-1) < len(sources)
        rows = {len(tensors[name]) for name in ("length", "source", "index", "line")}
        tokens = {len(tensors["ids"]), len(tensors["trained"])}
        if len(rows) > 1 or length.min(initial=0) < 0 or tokens != {int(length.sum())} or not known:
            raise ValueError("its parts don't belong together")
        if tensors["trained"].max(initial=0) > 1:
            raise ValueError("a flag is neither 0 nor 1")
        weights = tensors.get("weights")
        if weights is not None and (len(weights) not in tokens or not np.isfinite(weights).all()):
            raise ValueError("its weights don't belong to its tokens")
        bounds = np.concatenate([[0], np.cumsum(length)])
        where = (source, tensors["index"], tensors["line"])
        return cls(tensors["ids"], tensors["trained"].view(np.bool_), bounds, where, sources, weights)

    def digest(self) -> str:
        """sha256 over the examples and where each came from."""
        total = hashlib.sha256(repr([*self.sources]).encode())
        for name, array in sorted(self.tensors().items()):
            total.update(f"{name} {len(array)} ".encode())
            total.update(np.ascontiguousarray(array).data)
        return total.hexdigest()

    def _slice(self, start: int, stop: int) -> Examples:
        rows = (self.source[start:stop], self.number[start:stop], self.line[start:stop])
        bounds = self.bounds[start : stop + 1]
        return Examples(self.ids, self.trained, bounds, rows, self.sources, self.weights)


@dataclass(slots=True)
class _Columns:
    """The arrays that were added, in pieces."""

    ids: list[NDArray[np.int32]]
    trained: list[NDArray[np.bool_]]
    length: list[NDArray[np.int64]]
    source: list[NDArray[np.int32]]
    number: list[NDArray[np.int64]]
    line: list[NDArray[np.int64]]
    weights: list[tuple[NDArray[np.float32] | None, int]]


class Growing:
    """Collects examples while they come."""

    def __init__(self) -> None:
        self._columns = _Columns([], [], [], [], [], [], [])
        self._sources: dict[str, int] = {}
        self.count = 0

    def add(self, examples: Examples) -> None:
        """Add the examples of a batch."""
        columns, span = self._columns, slice(examples.bounds[0], examples.bounds[-1])
        columns.ids.append(examples.ids[span])
        columns.trained.append(examples.trained[span])
        columns.length.append(examples.lengths)
        known = [self._sources.setdefault(source, len(self._sources)) for source in examples.sources]
        columns.source.append(np.array(known, np.int32)[examples.source])
        columns.number.append(examples.number)
        columns.line.append(examples.line)
        own = None if examples.weights is None else examples.weights[span]
        columns.weights.append((own, examples.num_tokens))
        self.count += len(examples)

    def finish(self) -> Examples:
        """All examples that were added. The pieces are freed."""
        columns = self._columns
        bounds = np.concatenate([[0], np.cumsum(_joined(columns.length, np.int64))])
        number, line = _joined(columns.number, np.int64), _joined(columns.line, np.int64)
        rows = (_joined(columns.source, np.int32), number, line)
        ids, trained = _joined(columns.ids, np.int32), _joined(columns.trained, np.bool_)
        weights = joined_weights(columns.weights)
        columns.weights.clear()
        return Examples(ids, trained, bounds, rows, list(self._sources), weights)


def joined_weights(pieces: Sequence[tuple[NDArray[np.float32] | None, int]]) -> NDArray[np.float32] | None:
    """Weights of tokens, one piece behind the other: each has so many tokens, and None for 1 each. None if
    no piece has weights."""
    if all(own is None for own, _ in pieces):
        return None
    return np.concatenate([np.ones(tokens, np.float32) if own is None else own for own, tokens in pieces])


def _joined(pieces: list[NDArray[Any]], dtype: type) -> NDArray[Any]:
    whole = np.concatenate([np.empty(0, dtype), *pieces], dtype=dtype)
    pieces.clear()
    return whole
