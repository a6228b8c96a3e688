"""Durable writes: every byte that must survive a kill or a power cut goes to disk through this module.

A published folder is written in three moves, so that a reader sees all of it or nothing::

    .tmp-step-000120-9f3a1c/          files are written here, then fsynced one by one
    .tmp-step-000120-9f3a1c/MANIFEST.json   last: name, size and sha256 of each, and its own sha256
    step-000120/                      one rename, then fsync of the parent folder

If the process is killed before the rename, there is a staging folder, which `sweep_staging` removes. If it is
killed after the rename, there is a folder that `verify_dir` accepts. There is no third state.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapwood.errors import Problem, StorageError
from sapwood.machine import system
from sapwood.machine.hashing import hashing
from sapwood.machine.shortage import refuse_shortage
from sapwood.run.disk import disk_refusal, said, storage_error

SCHEMA = 1
MANIFEST = "MANIFEST.json"
STAGING = ".tmp-"
SET_ASIDE = ".bad-"

on_operation: Callable[[str, Path], None] | None = None
"""Called with (name, path) before each open, write, fsync, rename, unlink and mkdir: a crash test kills the
process, or raises OSError, at the N-th call."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a published folder. ``name`` is relative to the folder, with forward slashes."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a published folder holds: its files, sorted by name, and the facts that its writer added."""

    files: tuple[FileEntry, ...]
    facts: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files)


# --- one file ---------------------------------------------------------------------------------------------


def write_atomic(path: Path, data: bytes | str | Sequence[bytes | memoryview]) -> None:
    """Replace ``path`` by ``data``, durably: a reader sees the old content or the new, never a part. Pieces
    are written one behind the other.

    Raises StorageError naming the path, the bytes needed and the bytes free; ``path`` is then as it was, or
    new but not yet durable.
    """
    whole = data.encode() if isinstance(data, str) else data
    pieces = [whole] if isinstance(whole, bytes) else whole
    temporary = path.with_name(f"{STAGING}{secrets.token_hex(6)}")
    try:
        _write_new(temporary, *pieces)
        operation("rename", path)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            operation("unlink", temporary)
            temporary.unlink(missing_ok=True)
        raise storage_error(error, path, sum(map(len, pieces))) from error


def to_json(value: Any) -> str:
    """Canonical JSON for files that people open: sorted keys, one key a line, no NaN."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, indent=1) + "\n"


# --- one folder -------------------------------------------------------------------------------------------


@contextmanager
def staged_dir(final: Path, facts: Mapping[str, Any] | None = None) -> Generator[Path]:
    """Yield an empty folder beside ``final``; when the block ends well, publish it as ``final``.

    Args:
        final: the folder to create. It must not exist: nothing that was published is ever overwritten.
        facts: JSON data for the manifest, read when the block has ended, so that the block may add to it.

    Raises:
        StorageError: ``final`` exists, or the disk refused. The staging folder is removed, as it is when the
            block raises anything else.
    """
    _refuse_existing(final)
    stage = final.with_name(f"{STAGING}{final.name}-{secrets.token_hex(3)}")
    try:
        operation("mkdir", final.parent)
        final.parent.mkdir(parents=True, exist_ok=True)
        operation("mkdir", stage)
        stage.mkdir()
        yield stage
        _seal(stage, final.name, facts or {})
        _publish(stage, final)
    except BaseException as error:
        needed = _bytes_below(stage)
        _remove_tree(stage)
        if isinstance(error, Exception) and (cause := disk_refusal(error)) is not None:
            raise storage_error(cause, Path(cause.filename or final), needed) from error
        raise


def verify_dir(path: Path, minds: Callable[[str, bool], bool] | None = None) -> Manifest:
    """Read every byte of a published folder and hold it against its manifest.

    ``minds``: (name, whether it is in the manifest) -> whether this file has to be as it was. Without
    ``minds``, every file has to be.

    Raises StorageError that names each file at fault and how: no manifest, a damaged manifest, a file that
    is missing, extra, of another size, or with another sha256.
    """
    manifest = read_manifest(path)
    present = {file.relative_to(path).as_posix(): file for file in _files_below(path)}
    present.pop(MANIFEST, None)
    entries = {entry.name: entry for entry in manifest.files}
    if minds is not None:
        present = {name: file for name, file in present.items() if minds(name, name in entries)}
        entries = {name: entry for name, entry in entries.items() if minds(name, True)}
    # Names are matched before anything is opened, so a name such as ../x can only be reported as missing.
    problems = [_fault("file is missing", path / name) for name in sorted(entries.keys() - present.keys())]
    problems += [
        _fault("file is not in the manifest", present[n]) for n in sorted(present.keys() - entries.keys())
    ]
    both = sorted(entries.keys() & present.keys())
    with hashing(f"verifying {path.name}", sum(entries[name].size for name in both)) as sha256:
        found = [_compare(present[name], entries[name], sha256) for name in both]
    problems += [problem for problem in found if problem is not None]
    if problems:
        raise StorageError(problems)
    return manifest


def read_manifest(path: Path) -> Manifest:
    """The manifest of a published folder, itself verified; the files that it lists are not looked at.

    Raises StorageError if it is missing or damaged.
    """
    file = path / MANIFEST
    try:
        content = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise StorageError([_fault("manifest is missing", file, "the folder was never finished")]) from None
    except OSError as error:
        refuse_shortage(error, f"{path.name} was verified")
        raise StorageError([_fault("manifest can't be read", file, said(error))]) from error
    try:
        tree = json.loads(content)
        entries = tuple(FileEntry(str(e["name"]), int(e["size"]), str(e["sha256"])) for e in tree["files"])
        manifest = Manifest(entries, tree["facts"])
        schema = tree["schema"]
        intact = _render(manifest) == content
    except (ValueError, TypeError, KeyError, RecursionError):
        raise StorageError([_fault("manifest is damaged", file, "it is not what sapwood writes")]) from None
    if schema != SCHEMA:
        why = f"its format is {schema}, this sapwood reads {SCHEMA}"
        raise StorageError("another version of sapwood wrote the manifest", str(file), why, "update sapwood")
    if not intact:
        raise StorageError([_fault("manifest is damaged", file, "its own sha256 differs")])
    return manifest


def sweep_staging(folder: Path) -> int:
    """Remove what a killed writer left half-written directly in ``folder``; returns how many things went.

    Only for a process that holds the run's lock: another writer's staging looks the same.
    """
    leftovers = sorted(folder.glob(f"{STAGING}*"))
    for path in leftovers:
        _remove_tree(path)
    return len(leftovers)


def set_aside(path: Path, reason: str) -> Path:
    """Rename a damaged file or folder to ``.bad-<reason>-<name>``, kept for a person to look at.

    Returns the new path, unique. Raises StorageError.
    """
    word = re.sub(r"[^\w-]+", "-", reason).strip("-") or "damaged"
    target = path.with_name(f"{SET_ASIDE}{word}-{path.name}")
    number = 2
    while os.path.lexists(target):
        target = path.with_name(f"{SET_ASIDE}{word}-{path.name}-{number}")
        number += 1
    _rename(path, target)
    return target


def discard_dir(path: Path) -> None:
    """Delete a published folder in one visible step: the folder is renamed first, so that a kill can't leave
    half of it."""
    doomed = path.with_name(f"{STAGING}{path.name}-{secrets.token_hex(3)}")
    _rename(path, doomed)
    _remove_tree(doomed)


# --- operations ------------------------------------------------------------------------------------------


def operation(name: str, path: Path) -> None:
    """Announce the next operation on the disk to whoever tests for crashes."""
    if on_operation is not None:
        on_operation(name, path)


def sync_folder(path: Path) -> None:
    """Make renames and new names in ``path`` durable."""
    operation("fsync", path)
    system.sync_folder(path)


# --- inside -----------------------------------------------------------------------------------------------


def _write_new(path: Path, *pieces: bytes | memoryview) -> None:
    operation("open", path)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | system.BINARY, 0o666)
    try:
        operation("write", path)
        for rest in map(memoryview, pieces):
            while rest:
                rest = rest[os.write(handle, rest) :]
        operation("fsync", path)
        os.fsync(handle)
    finally:
        os.close(handle)


def _seal(stage: Path, final: str, facts: Mapping[str, Any]) -> None:
    """Make every staged file durable and readable, then write the manifest that vouches for them."""
    mode = stage.stat().st_mode & 0o666  # a fresh folder shows the umask; safetensors writes 0600
    entries: list[FileEntry] = []
    files = _files_below(stage)
    with hashing(f"saving {final}", sum(file.lstat().st_size for file in files)) as sha256:
        for file in files:
            if not stat.S_ISREG(file.lstat().st_mode):
                raise StorageError(
                    "only plain files can be published", str(file), mend="write a copy of the file"
                )
            file.chmod(mode)
            operation("fsync", file)
            system.sync_file(file)
            name = file.relative_to(stage).as_posix()
            entries.append(FileEntry(name, file.stat().st_size, sha256(file)))
    entries.sort(key=lambda entry: entry.name)
    _write_new(stage / MANIFEST, _render(Manifest(tuple(entries), facts)))
    for folder in sorted(path for path in stage.rglob("*") if path.is_dir()):
        sync_folder(folder)
    sync_folder(stage)


def _publish(stage: Path, final: Path) -> None:
    _refuse_existing(final)  # a rename would silently replace an empty folder
    operation("rename", final)
    stage.rename(final)
    try:
        sync_folder(final.parent)
    except OSError:
        # A rename that may not last is a failed save; the name must be free for the next attempt.
        with contextlib.suppress(OSError):
            operation("rename", stage)
            final.rename(stage)
        raise


def _render(manifest: Manifest) -> bytes:
    """The manifest's file, byte for byte. It ends with the sha256 of all that stands before."""
    files = [{"name": f.name, "size": f.size, "sha256": f.sha256} for f in manifest.files]
    body: dict[str, Any] = {"schema": SCHEMA, "files": files, "facts": manifest.facts}
    body["sha256"] = hashlib.sha256(to_json(body).encode()).hexdigest()
    return to_json(body).encode()


def _compare(file: Path, entry: FileEntry, sha256: Callable[[Path], str]) -> Problem | None:
    try:
        if not stat.S_ISREG(file.lstat().st_mode):
            return _fault("not a plain file", file)
        size = file.stat().st_size
        if size != entry.size:
            return _fault("size differs", file, f"{size:,} bytes, the manifest says {entry.size:,}")
        digest = sha256(file)
    except OSError as error:
        refuse_shortage(error, f"{file.parent.name} was verified")
        return _fault("file can't be read", file, said(error))
    if digest != entry.sha256:
        return _fault("sha256 differs", file, f"{digest[:12]}…, the manifest says {entry.sha256[:12]}…")
    return None


def _fault(what: str, file: Path, why: str = "") -> Problem:
    return Problem(what, str(file), why, "don't use this folder; take an older one, or copy it again")


def _files_below(path: Path) -> list[Path]:
    """Everything below ``path`` that is not a real folder; a link to a folder counts as a file."""
    return [item for item in path.rglob("*") if item.is_symlink() or not item.is_dir()]


def _bytes_below(path: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(file.lstat().st_size for file in _files_below(path))
    return 0


def _refuse_existing(final: Path) -> None:
    if os.path.lexists(final):
        raise StorageError("folder exists already", str(final), "published folders are never overwritten")


def _rename(path: Path, target: Path) -> None:
    try:
        operation("rename", target)
        path.rename(target)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(error, path) from error


def _remove_tree(path: Path) -> None:
    """Remove a file or folder as far as the disk lets us; what stays is swept at the next start."""
    with contextlib.suppress(OSError):
        operation("unlink", path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
