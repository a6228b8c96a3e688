"""Prepared examples as bytes: a run trains from its own copy, so that what happens to the source later can't
change it; and a second start on the same data finds what the first one proved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sapwood.errors import StorageError
from sapwood.types import Example, RowId


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


def unpack_entry(content: bytes) -> tuple[dict[str, Any], list[list[Example]]]:
    """What `pack_entry` packed. Raises ValueError where one bit of it changed."""
    view = memoryview(content)
    if len(view) < 40 or hashlib.sha256(view[32:]).digest() != bytes(view[:32]):
        raise ValueError("its sha256 is not the one that it was written with")
    stop = 40 + int.from_bytes(view[32:40])
    head = json.loads(bytes(view[40:stop]))
    examples = _unpacked(bytes(view[stop:]))
    parts: list[list[Example]] = []
    for count in head["sizes"]:
        parts.append(examples[:count])
        examples = examples[count:]
    return head["facts"], parts


def unpack_examples(content: bytes, source: Path) -> list[Example]:
    """What `pack_examples` packed; ``source`` is named where it can't be read. Raises StorageError."""
    try:
        return _unpacked(content)
    except Exception as error:
        mend = "start the run anew"
        raise StorageError("prepared data can't be read", str(source), str(error), mend) from None


def _unpacked(content: bytes) -> list[Example]:
    from safetensors.numpy import load

    tensors = load(content)
    size = int.from_bytes(content[:8], "little")
    sources: list[str] = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["sources"])
    stops = np.cumsum(tensors["length"])
    out: list[Example] = []
    for i, stop in enumerate(stops.tolist()):
        start = stop - int(tensors["length"][i])
        row = RowId(
            sources[int(tensors["source"][i])], int(tensors["index"][i]), int(tensors["line"][i]) or None
        )
        out.append(Example(row, tensors["ids"][start:stop], tensors["trained"][start:stop].astype(np.bool_)))
    return out


def _joined(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype), *arrays]).astype(dtype)
