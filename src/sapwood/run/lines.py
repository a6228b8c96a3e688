"""JSON Lines that are appended to while others read: one write per line, so a kill tears at most the last."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from sapwood.machine.system import BINARY, read_at
from sapwood.run.disk import storage_error
from sapwood.run.files import operation

READ_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class Lines:
    """What was read: the records, the byte offset to go on from, and how many lines were not JSON objects."""

    records: tuple[dict[str, Any], ...]
    next_offset: int
    garbage: int


def read_lines(path: Path, offset: int = 0) -> Lines:
    """The complete lines from byte ``offset`` on. A last line without its newline waits for the next call.

    A missing file reads as empty; a file that has shrunk below ``offset`` reads as empty from its new end.
    """
    try:
        with path.open("rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            handle.seek(min(offset, size))
            start = handle.tell()
            content = handle.read()
    except FileNotFoundError:
        return Lines((), 0, 0)
    except OSError as error:
        raise storage_error(error, path) from error
    complete = content.rfind(b"\n") + 1
    records: list[dict[str, Any]] = []
    garbage = 0
    for line in content[:complete].split(b"\n")[:-1]:
        record = _parse(line)
        if record is None:
            garbage += 1
        else:
            records.append(record)
    return Lines(tuple(records), start + complete, garbage)


def length_while(path: Path, keep: Callable[[dict[str, Any]], bool]) -> int:
    """Bytes of the leading lines whose record ``keep`` accepts; lines that are no records count as kept."""
    content = path.read_bytes()
    length = 0
    for line in content.splitlines(keepends=True):
        record = _parse(line)
        if record is not None and not keep(record):
            break
        length += len(line)
    return length


def to_line(record: dict[str, Any]) -> bytes:
    """One line of strict JSON; NaN and the infinities become null, as JSON has no word for them."""
    text = json.dumps(_finite(record), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace") + b"\n"  # a lone surrogate is kept as \udXXX


class LineLog:
    """The writing end. Only one process writes at a time, because of the run's lock.

    A log must never stop a training: a line that the disk refuses is counted in ``lost``, and the file keeps
    ending with a newline. A torn last line that a killed writer left is dropped on opening.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lost = 0
        try:
            operation("open", path)
            self._handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | BINARY, 0o666)
            self.truncate(self.size)
        except OSError as error:
            raise storage_error(error, path) from error

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self._handle).st_size

    def append(self, record: dict[str, Any]) -> bool:
        """Write one line with one system call; False if the disk refused it."""
        line = to_line(record)
        before = self.size
        try:
            operation("write", self.path)
            if os.write(self._handle, line) == len(line):
                return True
        except OSError:
            pass
        self.lost += 1
        with contextlib.suppress(OSError):
            os.ftruncate(self._handle, before)
        return False

    def truncate(self, length: int) -> None:
        """Keep the whole lines among the first ``length`` bytes. Raises StorageError."""
        try:
            keep = self._line_end(min(length, self.size))
            if keep != self.size:
                operation("write", self.path)
                os.ftruncate(self._handle, keep)
        except OSError as error:
            raise storage_error(error, self.path) from error

    def sync(self) -> int:
        """Make what was written durable; returns the file's length in bytes. Raises StorageError."""
        try:
            operation("fsync", self.path)
            os.fsync(self._handle)
        except OSError as error:
            raise storage_error(error, self.path) from error
        return self.size

    def close(self) -> None:
        os.close(self._handle)

    def _line_end(self, length: int) -> int:
        """The end of the last whole line within ``length`` bytes."""
        while length > 0:
            start = max(0, length - READ_BLOCK)
            found = read_at(self._handle, length - start, start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            length = start
        return 0


def _parse(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line. pydantic's reader takes 0.4 of the time of `json.loads`, which is left for
    what the other refuses: half of a character outside the first 65,536."""
    try:
        value = from_json(line, cache_strings="keys")
    except ValueError:
        try:
            value = json.loads(line.decode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
