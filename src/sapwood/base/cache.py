"""sapwood's cache folder, and file hashes that are remembered in it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from pathlib import Path

from sapwood.errors import ModelError
from sapwood.machine.hashing import hashing
from sapwood.machine.remembered import cache_dir
from sapwood.machine.system import sync_file, sync_folder

CHUNK = 1 << 20
__all__ = ["CHUNK", "cache_dir", "file_sha256", "models_dir", "publish", "write_atomic"]


def models_dir() -> Path:
    """Where pulled models lie; made when missing. Raises ModelError if it can't be."""
    folder = cache_dir() / "models"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        mend = "set SAPWOOD_CACHE to a folder that you can write to"
        raise ModelError("the cache folder can't be made", str(folder), str(error.strerror), mend) from None
    return folder


def file_sha256(path: Path) -> str:
    """sha256 of a file, remembered by path, size, times and inode so that a second start reads nothing. A
    program can set back the time of the content (mtime), but not the time of the last change (ctime).

    Costs about 0.1 s per 100 MB the first time. A cache that can't be written is no error.
    """
    resolved = path.resolve()
    stat = resolved.stat()
    key = f"{resolved}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}\0{stat.st_ino}"
    note = cache_dir() / "hashes" / f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(note.read_text(encoding="utf-8"))
        if isinstance(kept, dict) and kept.get("key") == key and isinstance(kept.get("sha256"), str):
            return kept["sha256"]
    with hashing(f"reading {path.name}", stat.st_size) as sha256:
        digest = sha256(resolved)
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(note, json.dumps({"key": key, "sha256": digest}).encode())
    return digest


def write_atomic(path: Path, content: bytes) -> None:
    """Write a small file so that a reader sees the old content or the new, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        temporary.write_bytes(content)
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path) -> None:
    """Give a finished file its name in the same folder: first its content reaches the disk, then the name."""
    sync_file(temporary)
    temporary.replace(path)
    sync_folder(path.parent)
