from __future__ import annotations

import errno
import resource
from pathlib import Path

import pytest

from sapwood.errors import StorageError
from sapwood.run.disk import (
    MIN_FILES,
    disk_refusal,
    free_bytes,
    require_limits,
    require_space,
    storage_error,
)
from tests.crash.faults import files_no_larger_than


def test_room_is_measured_where_the_folder_will_be(tmp_path: Path) -> None:
    free = free_bytes(tmp_path / "not" / "yet" / "there")
    assert free is not None
    assert free > 0


def test_too_little_room_names_what_is_needed_and_what_is_free(tmp_path: Path) -> None:
    require_space(tmp_path, 1)
    with pytest.raises(StorageError, match=r"disk is full.*1(,000){6} bytes needed, [\d,]+ free"):
        require_space(tmp_path, 10**18)


def test_limits_of_the_process_are_met_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    require_limits(10**6)
    told = r"limits a file to 1,000,000 bytes · ulimit -f"
    with files_no_larger_than(10**6), pytest.raises(StorageError, match=told):
        require_limits(10**6 + 1)
    limits = {resource.RLIMIT_FSIZE: (-1, -1), resource.RLIMIT_NOFILE: (20, 40)}
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[kind])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: raised.append(pair))
    with pytest.raises(StorageError, match=r"limits open files to 40 · ulimit -n"):
        require_limits(1)
    assert not raised
    limits[resource.RLIMIT_NOFILE] = (20, 4096)
    require_limits(1)
    assert raised == [(MIN_FILES, 4096)]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "the disk is full · "),
        (errno.EDQUOT, "the disk is full (quota)"),
        (errno.EACCES, "not allowed to write"),
        (errno.EROFS, "the disk is read-only"),
        (errno.EIO, "the disk refused a write"),
    ],
)
def test_each_refusal_has_its_words_and_its_remedy(tmp_path: Path, code: int, words: str) -> None:
    error = storage_error(OSError(code, "said"), tmp_path, 5)
    assert words in str(error)
    assert str(tmp_path) in str(error)
    assert "save.dir" in str(error)
    assert error.exit_code == 5


def test_a_refusal_is_found_inside_the_text_of_another_library() -> None:
    found = disk_refusal(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert found is not None
    assert found.errno == errno.ENOSPC
    assert disk_refusal(RuntimeError("shapes differ")) is None
    assert disk_refusal(FileNotFoundError(errno.ENOENT, "no such file")) is None
