"""A path as the user wrote it to an open regular file, or to the reason why there is none."""

from __future__ import annotations

import os
import re
import stat
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path, PurePath
from typing import BinaryIO, cast

from sapwood.data.problems import nearest, printable
from sapwood.errors import DataError
from sapwood.machine.system import open_at_once

BUILTIN = "builtin:"
HUB = "hf:"
SUFFIXES = (
    ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".tab", ".parquet", ".arrow", ".feather", ".xlsx", ".txt",
)  # fmt: skip
PACKED = (".gz", ".zst", ".xz", ".bz2")  # behind one of these
METADATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")  # about data

URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
_HUBS = ("ms:",)
_KINDS = (
    (stat.S_ISDIR, "a folder", "name the file in it"),
    (stat.S_ISFIFO, "a pipe", "write what it carries to a file first"),
    (stat.S_ISSOCK, "a socket", "write what it carries to a file first"),
    (stat.S_ISCHR, "a device", "name a file"),
    (stat.S_ISBLK, "a device", "name a file"),
)


def open_source(source: str, root: Path) -> BinaryIO:
    """The file open for reading, seekable. ``builtin:NAME`` is a file of the package. Raises DataError."""
    if source.startswith(BUILTIN):
        return _open_builtin(source)
    where = printable(source)
    if URL.match(source):
        why = "data is read from this disk only, so that a run can be repeated"
        raise DataError("the path is a URL", where, why, f"download it first: curl -LO '{where}'")
    if source.startswith(_HUBS):
        mend = "download the rows as JSONL and name that file"
        raise DataError("datasets of ModelScope are not read", where, mend=mend)
    try:
        path = root / Path(source).expanduser()
        _refuse_kind(path.stat().st_mode, path, where)  # before open, which may wait, or act on a device
        # Without blocking, and looked at again: between stat and open the path can become a pipe.
        handle = open_at_once(path)
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(root / Path(source).expanduser(), source) from None
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: NUL in the path; RuntimeError: no home
        why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        mend = f"chmod u+r '{where}'" if isinstance(error, PermissionError) else ""
        raise DataError("the file can't be opened", where, why.lower(), mend) from None
    try:
        _refuse_kind(os.fstat(handle).st_mode, path, where)
    except DataError:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def _refuse_kind(mode: int, path: Path, where: str) -> None:
    if stat.S_ISREG(mode):
        return
    for is_kind, name, mend in _KINDS:
        if is_kind(mode):
            inside = _data_files(path) if is_kind is stat.S_ISDIR else []
            mend = f"name a file in it: {', '.join(inside[:4])}" if inside else mend
            raise DataError(f"the path is {name}, not a file", where, mend=mend)
    raise DataError("the path is not a file", where)


def _missing(path: Path, source: str) -> DataError:
    where = printable(source)
    if path.is_symlink():
        why = f"it points to {printable(str(path.readlink()))}"
        return DataError("the link leads nowhere", where, why, "repair the link, or name the file itself")
    folder, name = path.parent, path.name
    while not folder.is_dir() and folder != folder.parent:
        folder, name = folder.parent, folder.name
    why = "" if folder == path.parent else f"there is no {printable(name)} in {printable(str(folder))}"
    try:
        entries = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        entries = []
    near = nearest(name, entries)
    if near is not None:
        whole = folder / near / path.relative_to(folder / name)
        return DataError(
            "file not found", where, why, f"did you mean {printable(_as_written(whole, source))}?"
        )
    here = ", ".join(_data_files(folder)[:4])
    return DataError("file not found", where, why, f"data files there: {here}" if here else "")


def _as_written(path: Path, source: str) -> str:
    """A path beside the source's, relative if the source was."""
    if Path(source).is_absolute() or source.startswith("~"):
        return str(path)
    depth = len(Path(source).parts)
    return str(Path(*path.parts[-depth:]))


def _data_files(folder: Path) -> list[str]:
    try:
        found = [entry.name for entry in folder.iterdir() if is_data(entry.name)]
    except OSError:
        return []
    return sorted(printable(name) for name in found)


def is_data(name: str) -> bool:
    """Whether a name ends like a data file's. Hidden files never count, and neither do files about data."""
    path = PurePath(name)
    if path.suffix.lower() in PACKED:
        path = path.with_suffix("")
    return not name.startswith(".") and name not in METADATA and path.suffix.lower() in (*SUFFIXES, ".zip")


def _open_builtin(source: str) -> BinaryIO:
    assets = resources.files("sapwood").joinpath("assets")
    known: dict[str, Traversable] = {}
    if assets.is_dir():
        known = {item.name.removesuffix(".jsonl"): item for item in assets.iterdir() if _is_rows(item)}
    item = known.get(source.removeprefix(BUILTIN))
    if item is None:
        mend = f"built in: {', '.join(BUILTIN + name for name in sorted(known))}" if known else ""
        raise DataError("no built-in data of this name", printable(source), mend=mend)
    return cast(BinaryIO, item.open("rb"))


def _is_rows(item: Traversable) -> bool:
    return item.is_file() and item.name.endswith(".jsonl")
