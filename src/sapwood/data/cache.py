"""Prepared examples as bytes: a run trains from its own copy, so that what happens to the source later can't
change it; and a second start on the same data finds what the first one proved."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from sapwood.errors import StorageError
from sapwood.types import Example, RowId


class StoredExamples(Sequence[Example]):
    """Examples as they are stored, one behind the other; each is made when it is asked for, so that a million
    of them are there at once. Raises ValueError or KeyError where the tensors don't belong together."""

    def __init__(self, tensors: Mapping[str, np.ndarray], sources: Sequence[str]) -> None:
        self._tensors = tensors
        self._sources = sources
        self._trained = tensors["trained"].astype(np.bool_)
        self._stops = np.cumsum(tensors["length"])
        self._places = range(len(self._stops))
        tokens = int(tensors["length"].sum())
        known = tensors["source"].min(initial=0) >= 0 and tensors["source"].max(initial=-1) < len(sources)
        lengths = {len(tensors[name]) for name in ("length", "source", "index", "line")}
        if len(lengths) > 1 or {len(tensors["ids"]), len(tensors["trained"])} != {tokens} or not known:
            raise ValueError("its parts don't belong together")

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> StoredExamples: ...
    def __getitem__(self, index: int | slice) -> Example | StoredExamples:
        if isinstance(index, slice):
            part = copy.copy(self)
            part._places = self._places[index]
            return part
        at, tensors = self._places[index], self._tensors
        stop = int(self._stops[at])
        start = stop - int(tensors["length"][at])
        source = self._sources[int(tensors["source"][at])]
        row = RowId(source, int(tensors["index"][at]), int(tensors["line"][at]) or None)
        return Example(row, tensors["ids"][start:stop], self._trained[start:stop])


def pack_examples(examples: Sequence[Example]) -> bytes:
    """Examples as safetensors: concatenated ids and flags, a length each, and where each came from."""
    from safetensors.numpy import save

    sources = sorted({example.row.source for example in examples})
    number = {source: i for i, source in enumerate(sources)}
    tensors = {
        "ids": _joined([example.ids for example in examples], np.int32),
        "trained": _joined([example.trained for example in examples], np.uint8),
        "length": np.array([len(example) for example in examples], np.int64),
        "source": np.array([number[example.row.source] for example in examples], np.int32),
        "index": np.array([example.row.index for example in examples], np.int64),
        "line": np.array([example.row.line or 0 for example in examples], np.int64),  # lines start at 1
    }
    return save(tensors, metadata={"sources": json.dumps(sources)})


def pack_entry(facts: Mapping[str, Any], parts: Sequence[Sequence[Example]]) -> bytes:
    """Facts (plain JSON data) and several lists of examples, behind the sha256 of it all."""
    head = json.dumps({"facts": facts, "sizes": [len(part) for part in parts]}, ensure_ascii=False).encode()
    body = pack_examples([example for part in parts for example in part])
    rest = len(head).to_bytes(8) + head + body
    return hashlib.sha256(rest).digest() + rest


def unpack_entry(content: bytes) -> tuple[dict[str, Any], list[StoredExamples]]:
    """What `pack_entry` packed. Raises ValueError where one bit of it changed."""
    view = memoryview(content)
    if len(view) < 40 or hashlib.sha256(view[32:]).digest() != bytes(view[:32]):
        raise ValueError("its sha256 is not the one that it was written with")
    stop = 40 + int.from_bytes(view[32:40])
    head = json.loads(bytes(view[40:stop]))
    examples = _unpacked(bytes(view[stop:]))
    borders = itertools.accumulate(head["sizes"], initial=0)
    return head["facts"], [examples[start:end] for start, end in itertools.pairwise(borders)]


def unpack_examples(content: bytes, source: Path) -> StoredExamples:
    """What `pack_examples` packed; ``source`` is named where it can't be read. Raises StorageError."""
    try:
        return _unpacked(content)
    except Exception as error:
        mend = "start the run anew"
        raise StorageError("prepared data can't be read", str(source), str(error), mend) from None


def _unpacked(content: bytes) -> StoredExamples:
    from safetensors.numpy import load

    size = int.from_bytes(content[:8], "little")
    sources: list[str] = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["sources"])
    return StoredExamples(load(content), sources)


def _joined(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype), *arrays]).astype(dtype)
