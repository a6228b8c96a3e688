"""Compressed files: unpacked into a file that the system deletes by itself, with a bound on its size."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import PurePath
from typing import IO, Any, BinaryIO, cast

from sapwood.data.files.paths import is_data
from sapwood.data.problems import names, printable
from sapwood.errors import DataError, brief

RATIO, LEAST = 1000, 1 << 30  # a file may unpack to 1,000 times its size, or to 1 GiB
_CHUNK = 1 << 20
_FEW = 2048
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"(\xb5/\xfd": "zstd",
    b"\xfd7zXZ\0": "xz",
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
}
_SUFFIXES = {".gz", ".gzip", ".zst", ".zstd", ".xz", ".bz2"}
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError, ValueError)


def unpack(stream: BinaryIO, source: str) -> tuple[BinaryIO, str]:
    """(the data, the name by which their kind is judged). A file that isn't compressed is given back, and so
    is a workbook of Excel, which is a zip archive too. Raises DataError."""
    head = stream.read(8)
    stream.seek(0)
    kind = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
    if kind is None:
        return stream, source
    where = printable(source)
    try:
        if kind == "zip":
            return _from_zip(stream, source)
        with _OPEN[kind](stream) as inner:
            path = PurePath(source)
            name = str(path.with_suffix("")) if path.suffix.lower() in _SUFFIXES else source
            return _copied(inner, stream, where), name
    except _DAMAGED as error:
        why = printable(brief(error))
        mend = "fetch it again, or unpack it by hand"
        raise DataError(f"the {kind} file can't be unpacked", where, why, mend) from None


def _from_zip(stream: BinaryIO, source: str) -> tuple[BinaryIO, str]:
    where = printable(source)
    with zipfile.ZipFile(stream) as archive:
        inside = [one for one in archive.infolist() if not one.is_dir()]
        if any(one.filename == "xl/workbook.xml" for one in inside):
            stream.seek(0)
            return stream, source
        data = [
            one for one in inside if is_data(PurePath(one.filename).name) and "__MACOSX" not in one.filename
        ]
        if len(data) != 1:
            there = names(one.filename for one in data or inside)
            why = f"it holds {len(data)} data files: {there}"
            raise DataError(
                "the zip archive is not one data file", where, why, "unpack it, and name the file"
            )
        with archive.open(data[0]) as inner:
            return _copied(inner, stream, where), data[0].filename


def _copied(inner: IO[bytes], packed: BinaryIO, where: str) -> BinaryIO:
    packed_size = max(packed.seek(0, 2), 1)
    packed.seek(0)
    bound = max(LEAST, RATIO * packed_size)
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    size = 0
    while chunk := inner.read(_CHUNK):
        size += len(chunk)
        if size > bound:
            copy.close()
            raise DataError(
                "the file unpacks to too much", where, f"more than {bound:,} bytes", "unpack it by hand"
            )
        copy.write(chunk)
    copy.seek(0)
    return cast(BinaryIO, copy)


class _Zstd:
    """A reader of zstd's frames that refuses a frame which is cut short. It reads few bytes at once, because
    all that they unpack to is in memory as a whole."""

    def __init__(self, stream: BinaryIO) -> None:
        import zstandard

        self._make: Callable[[], Any] = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj
        self._error = zstandard.ZstdError
        self._stream, self._rest = stream, b""
        self._frame: Any = None  # the one that was begun and has not ended

    def __enter__(self) -> _Zstd:
        return self

    def __exit__(self, *_: object) -> None:
        self._frame = None

    def read(self, size: int) -> bytes:
        """What comes next, of any size. Raises ValueError."""
        while raw := self._rest or self._stream.read(_FEW):
            self._rest = b""
            self._frame = self._frame or self._make()
            try:
                out = self._frame.decompress(raw)
            except self._error as error:
                raise ValueError(str(error)) from None
            if self._frame.eof:
                self._rest, self._frame = self._frame.unused_data, None
            if out:
                return out
        if self._frame is not None:
            raise ValueError("it ends inside a frame")
        return b""


_OPEN: dict[str, Callable[[BinaryIO], Any]] = {
    "gzip": lambda stream: gzip.GzipFile(fileobj=stream),
    "bzip2": lambda stream: bz2.BZ2File(stream),
    "xz": lambda stream: lzma.LZMAFile(stream),  # noqa: SIM115 - whoever asks for it closes it
    "zstd": _Zstd,
}
