"""Many examples as a few arrays, so that a million of them take the memory of their tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from sapwood.types import Example, RowId

GATHER = 65_536  # examples that are copied at once


class Examples(Sequence[Example]):
    """Examples one behind the other; each is made when it is asked for.

    ids: int32[tokens]; trained: bool[tokens]; bounds: int64[examples + 1], where each begins and the last
    ends. Where each came from: ``source``, int32[examples], counts in ``sources``; ``number`` of the row in
    it and ``line`` (0 for none), int64[examples].
    """

    __slots__ = ("bounds", "ids", "line", "number", "source", "sources", "trained")

    def __init__(
        self,
        ids: NDArray[np.int32],
        trained: NDArray[np.bool_],
        bounds: NDArray[np.int64],
        rows: tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]],
        sources: Sequence[str],
    ) -> None:
        self.ids, self.trained, self.bounds = ids, trained, bounds
        self.source, self.number, self.line = rows
        self.sources = sources

    @classmethod
    def of(cls, examples: Iterable[Example]) -> Examples:
        """The same examples, as arrays."""
        if isinstance(examples, Examples):
            return examples
        found = list(examples)
        growing = Growing()
        growing.add(
            np.concatenate([np.empty(0, np.int32), *(example.ids for example in found)], dtype=np.int32),
            np.concatenate([np.empty(0, np.bool_), *(example.trained for example in found)], dtype=np.bool_),
            np.array([len(example) for example in found], np.int64),
            [example.row for example in found],
        )
        return growing.finish()

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
        return Example(self.row(at), self.ids[start:stop], self.trained[start:stop])

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
        """A copy of those at ``places``, in that order; one may be there several times."""
        return _gather([self], np.zeros(len(places), np.int64), places)

    @classmethod
    def merged(cls, parts: Sequence[Examples], sources: Sequence[str]) -> Examples:
        """The examples of all parts in the order of their rows: by ``sources``, then by number. Those of one
        row stand in one part, and keep their order."""
        number = {source: i for i, source in enumerate(sources)}
        renamed = [np.array([number[one] for one in part.sources], np.int64)[part.source] for part in parts]
        which = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        places = np.concatenate([np.arange(len(part)) for part in parts])
        order = np.lexsort((np.concatenate([part.number for part in parts]), np.concatenate(renamed)))
        found = _gather(parts, which[order], places[order])
        used, source = np.unique(np.concatenate(renamed)[order], return_inverse=True)
        found.source, found.sources = source.astype(np.int32), [sources[i] for i in used]
        return found

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What is stored: `from_tensors` gives the examples again, with ``sources``."""
        span = slice(self.bounds[0], self.bounds[-1])
        return {
            "ids": self.ids[span],
            "trained": self.trained[span].view(np.uint8),
            "length": self.lengths,
            "source": self.source,
            "index": self.number,
            "line": self.line,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]], sources: Sequence[str]) -> Examples:
        """Raises ValueError or KeyError where the tensors don't belong together."""
        length, source = tensors["length"], tensors["source"]
        known = source.min(initial=0) >= 0 and source.max(initial=-1) < len(sources)
        rows = {len(tensors[name]) for name in ("length", "source", "index", "line")}
        tokens = {len(tensors["ids"]), len(tensors["trained"])}
        if len(rows) > 1 or length.min(initial=0) < 0 or tokens != {int(length.sum())} or not known:
            raise ValueError("its parts don't belong together")
        if tensors["trained"].max(initial=0) > 1:
            raise ValueError("a flag is neither 0 nor 1")
        bounds = np.concatenate([[0], np.cumsum(length)])
        where = (source, tensors["index"], tensors["line"])
        return cls(tensors["ids"], tensors["trained"].view(np.bool_), bounds, where, sources)

    def digest(self) -> str:
        """sha256 over the examples and where each came from."""
        total = hashlib.sha256(repr([*self.sources]).encode())
        for name, array in sorted(self.tensors().items()):
            total.update(f"{name} {len(array)} ".encode())
            total.update(np.ascontiguousarray(array).data)
        return total.hexdigest()

    def _slice(self, start: int, stop: int) -> Examples:
        rows = (self.source[start:stop], self.number[start:stop], self.line[start:stop])
        return Examples(self.ids, self.trained, self.bounds[start : stop + 1], rows, self.sources)


def _gather(parts: Sequence[Examples], which: NDArray[np.int64], places: NDArray[np.int64]) -> Examples:
    """A copy of the examples at ``places`` of the parts ``which``; sources are those of the first part."""

    def column(name: str) -> NDArray[Any]:
        first = getattr(parts[0], name)
        out = np.empty(len(places), first.dtype)
        for k, part in enumerate(parts):
            out[which == k] = getattr(part, name)[places[which == k]]
        return out

    bounds = np.concatenate([[0], np.cumsum(column("lengths"))])
    ids, trained = np.empty(bounds[-1], np.int32), np.empty(bounds[-1], np.bool_)
    edges = [(part.ids, part.trained, part.bounds) for part in parts]
    for first in range(0, len(places), GATHER):
        span = slice(first, first + GATHER)
        chosen = [(edges[k], at) for k, at in zip(which[span].tolist(), places[span].tolist(), strict=True)]
        into = slice(bounds[first], bounds[first + len(chosen)])
        np.concatenate([own[b[at] : b[at + 1]] for (own, _, b), at in chosen], out=ids[into])
        np.concatenate([own[b[at] : b[at + 1]] for (_, own, b), at in chosen], out=trained[into])
    return Examples(
        ids, trained, bounds, (column("source"), column("number"), column("line")), parts[0].sources
    )


@dataclass(slots=True)
class _Columns:
    """What was added, in pieces."""

    ids: list[NDArray[np.int32]]
    trained: list[NDArray[np.bool_]]
    length: list[NDArray[np.int64]]
    source: list[NDArray[np.int32]]
    number: list[NDArray[np.int64]]
    line: list[NDArray[np.int64]]


class Growing:
    """Examples while they come."""

    def __init__(self) -> None:
        self._columns = _Columns([], [], [], [], [], [])
        self._sources: dict[str, int] = {}
        self.count = 0

    def add(
        self,
        ids: NDArray[np.int32],
        trained: NDArray[np.bool_],
        lengths: NDArray[np.int64],
        rows: Sequence[RowId],
    ) -> None:
        """Examples one behind the other, a length and a row each."""
        columns, known = self._columns, self._sources
        columns.ids.append(ids)
        columns.trained.append(trained)
        columns.length.append(lengths)
        source = [known.setdefault(row.source, len(known)) for row in rows]
        columns.source.append(np.array(source, np.int32))
        columns.number.append(np.array([row.index for row in rows], np.int64))
        columns.line.append(np.array([row.line or 0 for row in rows], np.int64))
        self.count += len(rows)

    def finish(self) -> Examples:
        """All that was added; the pieces are gone then."""
        columns = self._columns
        bounds = np.concatenate([[0], np.cumsum(_joined(columns.length, np.int64))])
        number, line = _joined(columns.number, np.int64), _joined(columns.line, np.int64)
        rows = (_joined(columns.source, np.int32), number, line)
        ids, trained = _joined(columns.ids, np.int32), _joined(columns.trained, np.bool_)
        return Examples(ids, trained, bounds, rows, list(self._sources))


def _joined(pieces: list[NDArray[Any]], dtype: type) -> NDArray[Any]:
    whole = np.concatenate([np.empty(0, dtype), *pieces], dtype=dtype)
    pieces.clear()
    return whole
