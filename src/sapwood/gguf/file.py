"""A bounded reader of GGUF files: every count, length and offset is checked against the file before use.

The layout follows the GGUF specification (versions 2 and 3, little-endian)::

    magic "GGUF" · version u32 · tensor count u64 · key count u64
    keys:    name · type u32 · value                     (strings: length u64 · bytes)
    tensors: name · rank u32 · sizes u64[rank] · type u32 · offset u64
    padding to `general.alignment` · tensor data
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import ModelError
from sapwood.machine.system import forget_pages

MAGIC = b"GGUF"
MAX_KEYS = 65_536
MAX_TENSORS = 1_000_000
MAX_STRINGS = 2_000_000  # in one array; the largest vocabularies have 262,144
MAX_NAME = 256
SMALLEST_KEY = 8 + 4 + 1  # bytes of the smallest possible entry of each table
SMALLEST_TENSOR = 8 + 4 + 8 + 4 + 8
STACKED = ("altup_proj", "altup_unembd_proj")  # stacks of matrices that are linears by themselves
LINEARS = 3  # in each of them

# Numbers of xIELU in metadata, one for each layer: parameters in transformers, read as tensors of one number.
NUMBERS = ("xielu.alpha_p", "xielu.alpha_n", "xielu.beta", "xielu.eps")

STRING, ARRAY, BOOL = 8, 9, 7
SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    BOOL: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor, still packed.

    Attributes:
        type: quantisation by its name in the `gguf` package (``F32``, ``Q4_1``, ``Q6_K`` …).
        shape: as in torch, rows first: [out, in].
        data: uint8 view of the file, [out, bytes of a row].
    """

    name: str
    type: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    def part(self, index: int) -> GgufTensor:
        """One matrix of a stack; it shares the bytes."""
        stem, _, leaf = self.name.rpartition(".")
        return GgufTensor(f"{stem}.{index}.{leaf}", self.type, self.shape[1:], self.data[index])

    def rows(self, start: int, stop: int) -> GgufTensor:
        """A part of a tensor of two or more dimensions along its first; it shares the bytes."""
        part = self.data[start:stop]
        return GgufTensor(self.name, self.type, (len(part), *self.shape[1:]), part)

    def dense(self, dtype: Any = np.float32) -> NDArray[Any]:
        """The values, unpacked: an array of ``shape`` that shares nothing with the file."""
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        data = np.asarray(self.data)
        if self.type in ("F32", "F16"):
            return data.view(f"<f{4 if self.type == 'F32' else 2}").reshape(self.shape).astype(dtype)
        try:
            values = dequantize(_widened(data), GGMLQuantizationType[self.type])
        except NotImplementedError:
            mend = "use a file in Q4_0 to Q8_0, Q2_K to Q6_K, F16, BF16 or F32"
            raise ModelError(f"tensors of type {self.type} can't be unpacked", self.name, mend=mend) from None
        return values.reshape(self.shape).astype(dtype, copy=False)


def _parts(tensor: GgufTensor) -> list[GgufTensor]:
    """A tensor, or each matrix of a stack of linears."""
    if tensor.name.removesuffix(".weight") not in STACKED or len(tensor.shape) <= 2:
        return [tensor]
    return [tensor.part(index) for index in range(len(tensor.data))]


def _widened(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same blocks in fewer, longer rows: `gguf` unpacks 16 rows at a time; short ones cost tenfold."""
    rows = data.reshape(-1, data.shape[-1])
    count, width = rows.shape
    while count % 2 == 0 and count > 16 and width < 8192:
        count, width = count // 2, width * 2
    return rows.reshape(count, width)


@dataclass(frozen=True, slots=True)
class GgufFile:
    """Metadata and packed tensors. Arrays of numbers are numpy arrays, arrays of strings lists."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    content: NDArray[np.uint8] | None = None

    def forget(self) -> None:
        """Let go of the pages read so far: they count as this process's memory while they are mapped."""
        mapped: Any = getattr(self.content, "base", None)
        forget_pages(mapped)

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    @property
    def num_elements(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values())


def is_gguf(path: Path) -> bool:
    """True if a file begins as GGUF files do, whatever its name."""
    try:
        with path.open("rb") as file:
            return file.read(4) == MAGIC
    except OSError:
        return False


def read_gguf(path: Path) -> GgufFile:
    """Read a file's tables; tensor data stays on disk, mapped into memory.

    Raises ModelError, quickly and with the offending entry's name, for anything malformed.
    """
    try:
        if path.stat().st_size < 24:
            raise ModelError("not a GGUF file", str(path), "shorter than the header")
        content = np.memmap(path, dtype=np.uint8, mode="r")
    except OSError as error:
        raise ModelError("the model file can't be read", str(path), str(error.strerror or error)) from None
    return _Reader(path, content).read()


class _Reader:
    """A position in the file. Each method checks, takes, and moves on."""

    def __init__(self, path: Path, content: NDArray[np.uint8]) -> None:
        self.path = path
        self.content = content
        self.view = content.data
        self.size = len(content)
        self.at = 0

    def read(self) -> GgufFile:
        if bytes(self.view[:4]) != MAGIC:
            self.fail("not a GGUF file", f"it begins with {bytes(self.view[:4])!r}")
        self.at = 4
        version = self.number("<u4")
        if version not in (2, 3):
            big_endian = int(version).to_bytes(4, "little")[::-1] in (b"\2\0\0\0", b"\3\0\0\0")
            self.fail(f"GGUF version {version}", "big-endian" if big_endian else "versions 2 and 3 are known")
        num_tensors = self.count("<u8", SMALLEST_TENSOR, MAX_TENSORS, "tensors")
        num_keys = self.count("<u8", SMALLEST_KEY, MAX_KEYS, "keys")
        metadata: dict[str, Any] = {}
        for _ in range(num_keys):
            name = self.string("a key", MAX_NAME)
            if name in metadata:
                self.fail(f"key {name!r} appears twice")
            metadata[name] = self.value(name)
        return GgufFile(self.path, metadata, self.tensors(num_tensors, metadata), self.content)

    def fail(self, what: str, why: str = "") -> NoReturn:
        raise ModelError(f"damaged model file: {what}", f"{self.path} at byte {self.at:,}", why)

    def need(self, length: int, what: str) -> None:
        if length > self.size - self.at:
            self.fail(f"{what} runs past the end", f"{length:,} bytes wanted, {self.size - self.at:,} left")

    def number(self, kind: str) -> Any:
        self.need(np.dtype(kind).itemsize, "a number")
        value = np.frombuffer(self.content, kind, 1, self.at)[0].item()
        self.at += np.dtype(kind).itemsize
        return value

    def count(self, kind: str, smallest: int, limit: int, what: str) -> int:
        """A number of things of at least ``smallest`` bytes each: no more than the rest of the file holds."""
        count = self.number(kind)
        if count > limit or count * smallest > self.size - self.at:
            self.fail(f"{count:,} {what}", f"the {self.size - self.at:,} bytes that are left can't hold them")
        return count

    def string(self, what: str, limit: int | None = None) -> str:
        length = self.number("<u8")
        if limit is not None and not 1 <= length <= limit:
            self.fail(f"{what} has a name of {length:,} bytes", f"1 to {limit} are allowed")
        self.need(length, what)
        raw = bytes(self.view[self.at : self.at + length])
        self.at += length
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self.fail(f"{what} is not UTF-8")

    def value(self, name: str) -> Any:
        kind = self.number("<u4")
        if kind == STRING:
            return self.string(f"the text of {name}")
        if kind in SCALARS:
            return self.scalar(kind, name)
        if kind != ARRAY:
            self.fail(f"{name} has the unknown type {kind}")
        inner = self.number("<u4")
        if inner == STRING:
            return self.strings(name)
        if inner not in SCALARS:
            self.fail(f"{name} is an array of type {inner}", "arrays hold numbers, truth values or strings")
        dtype = np.dtype("u1" if inner == BOOL else SCALARS[inner])
        count = self.count("<u8", dtype.itemsize, self.size, f"elements in {name}")
        array = np.frombuffer(self.content, dtype, count, self.at).copy()
        self.at += count * dtype.itemsize
        return array.astype(bool) if inner == BOOL else array

    def scalar(self, kind: int, name: str) -> Any:
        if kind != BOOL:
            return self.number(SCALARS[kind])
        value = self.number("<u1")
        if value > 1:
            self.fail(f"{name} is {value}; only 0 and 1 are truth values")
        return bool(value)

    def strings(self, name: str) -> list[str]:
        """An array of strings, read in one tight loop: vocabularies have 262,144 and more."""
        count = self.count("<u8", 8, MAX_STRINGS, f"strings in {name}")
        view, at, size = self.view, self.at, self.size
        length_at = struct.Struct("<Q").unpack_from
        found: list[str] = []
        try:
            for _ in range(count):
                (length,) = length_at(view, at)
                at += 8
                if length > size - at:
                    self.at = at
                    self.fail(f"a string in {name} runs past the end", f"{length:,} bytes wanted")
                found.append(str(view[at : at + length], "utf-8"))
                at += length
        except struct.error:
            self.fail(f"{name} runs past the end")
        except UnicodeDecodeError:
            self.at = at
            self.fail(f"a string in {name} is not UTF-8")
        self.at = at
        return found

    def tensors(self, count: int, metadata: Mapping[str, Any]) -> dict[str, GgufTensor]:
        heads: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
        for _ in range(count):
            name = self.string("a tensor", MAX_NAME)
            if name in heads:
                self.fail(f"tensor {name!r} appears twice")
            heads[name] = self.tensor_head(name)
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment not in (1 << k for k in range(3, 17)):
            self.fail(f"general.alignment is {alignment!r}", "a power of two from 8 to 65,536 is allowed")
        start = -(-self.at // alignment) * alignment
        ordered = sorted(heads.items(), key=lambda item: item[1][2])
        end = start
        for name, (_, _, offset, length) in ordered:
            if offset % alignment:
                self.fail(f"tensor {name} begins at {offset:,}", f"not a multiple of {alignment}")
            if start + offset < end:
                self.fail(f"tensor {name} lies over another one")
            end = start + offset + length
            if end > self.size:
                why = f"its data ends at byte {end:,}, the file at {self.size:,}: the download may be cut"
                self.fail(f"tensor {name} runs past the end", why)
        tensors = [
            GgufTensor(name, kind, shape, self._rows(start + offset, length, shape))
            for name, (kind, shape, offset, length) in heads.items()
        ]
        return {part.name: part for tensor in tensors for part in _parts(tensor)} | _numbers(metadata)

    def tensor_head(self, name: str) -> tuple[str, tuple[int, ...], int, int]:
        """(type, shape, offset, bytes) of one tensor."""
        rank = self.number("<u4")
        if not 1 <= rank <= 4:
            self.fail(f"tensor {name} has {rank} dimensions", "1 to 4 are allowed")
        shape = tuple(self.number("<u8") for _ in range(rank))[::-1]  # the file names the fastest one first
        code = self.number("<u4")
        offset = self.number("<u8")
        if code not in _types():
            self.fail(f"tensor {name} has the unknown type {code}")
        kind, block, block_bytes = _types()[code]
        size = math.prod(shape)  # Python's integers don't overflow
        if size == 0 or shape[-1] % block:
            self.fail(f"tensor {name} has the shape {list(shape)}", f"{kind} packs rows in blocks of {block}")
        length = size // block * block_bytes
        if length > self.size:
            self.fail(f"tensor {name} has the shape {list(shape)}", "it is larger than the file")
        return kind, shape, offset, length

    def _rows(self, at: int, length: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        return self.content[at : at + length].reshape(*shape[:-1], length // math.prod(shape[:-1]))


def _numbers(metadata: Mapping[str, Any]) -> dict[str, GgufTensor]:
    """`NUMBERS` of each layer, in the form of tensors."""
    found: dict[str, GgufTensor] = {}
    for key in NUMBERS:
        values = metadata.get(key, ())
        for layer, value in enumerate(values if isinstance(values, np.ndarray) else ()):
            name, number = f"blk.{layer}.{key}", np.array([value], np.float32)
            found[name] = GgufTensor(name, "F32", (1,), number.view(np.uint8))
    return found


_TYPES: dict[int, tuple[str, int, int]] = {}


def _types() -> dict[int, tuple[str, int, int]]:
    """Type number -> (name, values in a block, bytes of a block), from the `gguf` package."""
    if not _TYPES:
        from gguf.constants import GGML_QUANT_SIZES

        _TYPES.update({int(kind): (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()})
    return _TYPES
