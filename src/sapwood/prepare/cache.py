"""Prepared examples as bytes.

A run trains from its own copy, so that a later change of the source can't change the run. A second start on
the same data finds what the first start proved.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import StorageError
from sapwood.prepare.examples import Examples
from sapwood.types import Example

PIECE = 16 << 20  # bytes that are hashed at once
ALIGNED = 64  # bytes: where the examples of an entry begin
DIGEST = 32
STORED = {"F32": np.float32, "I32": np.int32, "I64": np.int64, "U8": np.uint8}  # safetensors' names

Chunk = bytes | memoryview


def pack_examples(examples: Sequence[Example]) -> bytes:
    """Examples as safetensors: concatenated ids and flags, a length each, and where each came from."""
    return b"".join(example_chunks(Examples.of(examples)))


def unpack_examples(content: bytes, source: Path) -> Examples:
    """What `pack_examples` packed; ``source`` is named if it can't be read. Raises StorageError."""
    try:
        return read_examples(memoryview(content))
    except Exception as error:
        mend = "start the run anew"
        raise StorageError("prepared data can't be read", str(source), str(error), mend) from None


def pack_entry(facts: Mapping[str, Any], parts: Sequence[Sequence[Example]]) -> list[Chunk]:
    """Facts (plain JSON data) and several lists of examples: pieces of a file, none of them a copy."""
    return pack_blocks(facts, [example_chunks(Examples.of(part)) for part in parts])


def open_entry(file: BinaryIO) -> tuple[dict[str, Any], list[Examples]]:
    """The entry in a file; its examples are the file, mapped. Raises ValueError if one bit of it
    changed."""
    facts, blocks = open_blocks(file)
    return facts, [read_examples(block) for block in blocks]


def pack_blocks(facts: Mapping[str, Any], blocks: Sequence[Sequence[Chunk]]) -> list[Chunk]:
    """Facts, blocks of bytes in pieces, and at the end a hash of all of them."""
    sizes = [sum(map(len, block)) for block in blocks]
    head = json.dumps({"facts": facts, "sizes": sizes}, ensure_ascii=False).encode()
    out: list[Chunk] = [len(head).to_bytes(8), head]
    at = 8 + len(head)
    for block, size in zip(blocks, sizes, strict=True):
        out += [padding := bytes(-at % ALIGNED), *block]
        at += len(padding) + size
    total = _Hash()
    for chunk in out:
        total.update(chunk)
    return [*out, total.digest()]


def open_blocks(file: BinaryIO) -> tuple[dict[str, Any], list[memoryview]]:
    """What `pack_blocks` packed, mapped. Raises ValueError if one bit of it changed."""
    if file.seek(0, 2) < 8 + DIGEST:
        raise ValueError("it is cut short")
    whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    view = whole[:-DIGEST]
    pieces = [view[at : at + PIECE] for at in range(0, len(view), PIECE)]
    with ThreadPoolExecutor(4) as pool:  # hashing lets other threads run
        found = hashlib.sha256(b"".join(pool.map(_sha256, pieces))).digest()
    if found != bytes(whole[-DIGEST:]):
        raise ValueError("its hash is not the one that it was written with")
    at = 8 + int.from_bytes(view[:8])
    head = json.loads(bytes(view[8:at]))
    blocks: list[memoryview] = []
    for size in head["sizes"]:
        at += -at % ALIGNED
        blocks.append(view[at : at + size])
        at += size
    return head["facts"], blocks


class _Hash:
    """sha256 over the sha256 of each `PIECE`, so that threads can share in computing it."""

    def __init__(self) -> None:
        self._done: list[bytes] = []
        self._piece, self._filled = hashlib.sha256(), 0

    def update(self, chunk: Chunk) -> None:
        view = memoryview(chunk)
        while len(view):
            now = view[: PIECE - self._filled]
            self._piece.update(now)
            self._filled += len(now)
            view = view[len(now) :]
            if self._filled == PIECE:
                self._done.append(self._piece.digest())
                self._piece, self._filled = hashlib.sha256(), 0

    def digest(self) -> bytes:
        last = [self._piece.digest()] if self._filled else []
        return hashlib.sha256(b"".join([*self._done, *last])).digest()


def _sha256(piece: memoryview) -> bytes:
    return hashlib.sha256(piece).digest()


# --- safetensors: 8 bytes, the size of the header; a JSON header; the arrays, the widest first -------------


def tensor_chunks(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> list[Chunk]:
    """Arrays of one dimension as the pieces of a file."""
    arrays = sorted(tensors.items(), key=lambda one: (-one[1].itemsize, one[0]))
    names = {np.dtype(kind): name for name, kind in STORED.items()}
    head: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, array in arrays:
        stop = at + array.nbytes
        head[name] = {"dtype": names[array.dtype], "shape": [len(array)], "data_offsets": [at, stop]}
        at = stop
    told = json.dumps(head).encode()
    told += b" " * (-len(told) % 8)
    views = [np.ascontiguousarray(array).view(np.uint8).data for _, array in arrays]
    return [len(told).to_bytes(8, "little"), told, *views]


def read_tensors(content: memoryview) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """What `tensor_chunks` wrote, in place. Raises ValueError or KeyError."""
    begin = 8 + int.from_bytes(content[:8], "little")
    head = json.loads(bytes(content[8:begin]))
    metadata = head.pop("__metadata__")
    tensors: dict[str, NDArray[Any]] = {}
    for name, one in head.items():
        start, stop = one["data_offsets"]
        kind = np.dtype(STORED[one["dtype"]])
        (count,) = one["shape"]
        if not 0 <= start <= stop == start + count * kind.itemsize <= len(content) - begin:
            raise ValueError("it is cut short")
        tensors[name] = np.frombuffer(content, kind, count, begin + start)
    return tensors, metadata


def example_chunks(examples: Examples) -> list[Chunk]:
    return tensor_chunks(examples.tensors(), {"sources": json.dumps(examples.sources)})


def read_examples(content: memoryview) -> Examples:
    tensors, metadata = read_tensors(content)
    return Examples.from_tensors(tensors, json.loads(metadata["sources"]))
