"""``sapwood data convert``: a pickled DataFrame to JSONL, by way of a process that can do nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from sapwood.data.files.encoding import read_lines
from sapwood.data.problems import printable
from sapwood.errors import DataError, StorageError, brief
from sapwood.machine.confined import Confined, confined
from sapwood.machine.system import can_confine

READER = "sapwood.data.files.unpickle"
BY_HAND = "frame.to_json('data.jsonl', orient='records', lines=True)"


def convert_pickle(source: Path, target: Path, *, force: bool = False) -> int:
    """Write the rows of a pickled DataFrame as JSONL; the number of rows.

    A pickle is a program: see `data.files.unpickle` for what keeps it in. Raises DataError if it is no
    DataFrame of plain values, StorageError if the target can't be written.
    """
    where = printable(str(source))
    if not can_confine():
        why = "a pickle file can run code, and this system can't confine the process that would open it"
        raise DataError("pickles aren't opened here", where, why, f"convert it on Linux or macOS: {BY_HAND}")
    if target.exists() and not force:
        raise StorageError("the file is there already", str(target), mend="name another, or add --force")
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as out:
            out.write(confined(READER, source))
            out.flush()
            os.fsync(out.fileno())
        with temporary.open("rb") as file:
            rows = sum(1 for _ in read_lines(file))
        temporary.replace(target)
    except Confined as error:
        mend = f"if you trust its origin: {BY_HAND}"
        raise DataError("the pickle is refused", where, printable(brief(error, 400)), mend) from None
    except OSError as error:
        at = error.filename or target
        raise StorageError(
            "can't convert", printable(str(at)), (error.strerror or str(error)).lower()
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    return rows
