from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from sapwood.base import cache
from sapwood.errors import ModelError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAPWOOD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_folder_follows_the_environment(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.models_dir() == own_cache / "models"
    assert cache.models_dir().is_dir()
    monkeypatch.delenv("SAPWOOD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_cache / "xdg"))
    assert "sapwood" in cache.cache_dir().name


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SAPWOOD_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="SAPWOOD_CACHE"):
        cache.models_dir()
    assert cache.file_sha256(tmp_path / "file") == hashlib.sha256(b"").hexdigest()


def test_a_hash_is_remembered_until_the_file_changes(tmp_path: Path, own_cache: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"one")
    assert cache.file_sha256(path) == hashlib.sha256(b"one").hexdigest()
    (note,) = (own_cache / "hashes").iterdir()
    kept = json.loads(note.read_text())
    note.write_text(json.dumps(kept | {"sha256": "remembered"}))
    assert cache.file_sha256(path) == "remembered"  # so the file wasn't read again
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert cache.file_sha256(path) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"three")
    assert cache.file_sha256(path) == hashlib.sha256(b"three").hexdigest()


@pytest.mark.skipif(os.name == "nt", reason="ctime is the time of creation there")
def test_a_file_whose_time_was_set_back_is_read_again(tmp_path: Path, own_cache: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"one")
    cache.file_sha256(path)
    stat = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert cache.file_sha256(path) == hashlib.sha256(b"two").hexdigest()


@pytest.mark.parametrize("damage", ["", "[]", '{"key": 1}', "{"])
def test_a_damaged_note_is_ignored(tmp_path: Path, own_cache: Path, damage: str) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"x")
    right = cache.file_sha256(path)
    (note,) = (own_cache / "hashes").iterdir()
    note.write_text(damage)
    assert cache.file_sha256(path) == right


def test_a_write_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "note"
    cache.write_atomic(path, b"old")
    cache.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        cache.write_atomic(path, b"newer")
    assert [entry.name for entry in tmp_path.iterdir() if entry.name != "cache"] == ["note"]
