from __future__ import annotations

import errno
import json
import math
import os
import signal
import time
from pathlib import Path

import pytest

from sapwood.errors import StorageError
from sapwood.run import files
from sapwood.run.lines import READ_BLOCK, LineLog, length_while, read_lines, to_line
from tests.run.shared import fail_at


@pytest.fixture
def log(tmp_path: Path) -> LineLog:
    return LineLog(tmp_path / "events.jsonl")


def test_what_is_appended_is_read_back(log: LineLog) -> None:
    records = [{"seq": n, "text": "第一行\nsecond\u2028\udc80", "x": 0.1} for n in range(3)]
    assert all(log.append(record) for record in records)
    lines = read_lines(log.path)
    assert list(lines.records) == records
    assert lines.next_offset == log.sync() == log.path.stat().st_size
    assert lines.garbage == 0


def test_a_line_being_written_waits_until_it_is_complete(log: LineLog) -> None:
    log.append({"seq": 0})
    first = read_lines(log.path)
    whole = to_line({"seq": 1, "text": "树"})
    for cut in range(len(whole)):
        with log.path.open("ab") as other:
            other.write(whole[:cut])
        again = read_lines(log.path, first.next_offset)
        assert (again.records, again.next_offset, again.garbage) == ((), first.next_offset, 0)
        os.truncate(log.path, first.next_offset)
    with log.path.open("ab") as other:
        other.write(whole)
    assert read_lines(log.path, first.next_offset).records == ({"seq": 1, "text": "树"},)


def test_garbage_is_counted_and_passed_over(log: LineLog) -> None:
    log.append({"seq": 0})
    with log.path.open("ab") as other:
        other.write(b'{"seq": \n\xff\xfe\n[1, 2]\n\n' + b"[" * 99_999 + b"\n")
    log.append({"seq": 1})
    lines = read_lines(log.path)
    assert lines.records == ({"seq": 0}, {"seq": 1})
    assert lines.garbage == 5


def test_a_missing_or_shrunken_file_reads_as_empty(log: LineLog, tmp_path: Path) -> None:
    assert read_lines(tmp_path / "absent", 50).next_offset == 0
    log.append({"seq": 0})
    assert read_lines(log.path, 10_000).next_offset == log.size
    with pytest.raises(StorageError):
        read_lines(tmp_path)


def test_numbers_that_json_has_no_word_for_become_null() -> None:
    line = to_line({"loss": math.nan, "norms": (math.inf, 1.5, {"low": -math.inf})})
    assert json.loads(line, parse_constant=pytest.fail) == {"loss": None, "norms": [None, 1.5, {"low": None}]}


@pytest.mark.parametrize("torn", [b'{"seq": 1, "te', b"x" * (3 * READ_BLOCK)])
def test_a_torn_last_line_is_dropped_on_opening(log: LineLog, torn: bytes) -> None:
    log.append({"seq": 0})
    log.close()
    with log.path.open("ab") as other:
        other.write(torn)
    again = LineLog(log.path)
    again.append({"seq": 1})
    assert read_lines(log.path).records == ({"seq": 0}, {"seq": 1})


def test_a_file_that_is_one_torn_line_becomes_empty(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(b'{"seq"')
    assert LineLog(tmp_path / "events.jsonl").size == 0


def test_truncation_keeps_whole_lines_only(log: LineLog) -> None:
    for seq in range(3):
        log.append({"seq": seq})
    ends = [len(to_line({"seq": 0})) * n for n in (1, 2, 3)]
    log.truncate(10**9)
    assert log.size == ends[2]
    log.truncate(ends[2] - 1)
    assert log.size == ends[1]
    log.truncate(ends[0])
    assert read_lines(log.path).records == ({"seq": 0},)


def test_the_length_of_the_leading_lines_counts_garbage_as_kept(log: LineLog) -> None:
    for seq in (0, 1):
        log.append({"seq": seq})
    with log.path.open("ab") as other:
        other.write(b"garbage\n")
    kept = log.size
    for seq in (2, 0):
        log.append({"seq": seq})
    assert length_while(log.path, lambda record: record["seq"] < 2) == kept
    assert length_while(log.path, lambda record: True) == log.size


def test_a_full_disk_loses_the_line_but_never_the_next(log: LineLog) -> None:
    log.append({"seq": 0})
    files.on_operation = fail_at(1, errno.ENOSPC)
    assert log.append({"seq": 1}) is False
    assert log.append({"seq": 2}) is True
    assert log.lost == 1
    assert read_lines(log.path).records == ({"seq": 0}, {"seq": 2})


def test_half_a_write_is_taken_back(log: LineLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append({"seq": 0})
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda handle, data: write(handle, data[: len(data) // 2]))
        assert log.append({"seq": 1}) is False
    assert log.append({"seq": 2}) is True
    assert read_lines(log.path) == read_lines(log.path, 0)
    assert [record["seq"] for record in read_lines(log.path).records] == [0, 2]
    assert read_lines(log.path).garbage == 0


def test_a_failed_sync_or_truncation_is_a_storage_error(log: LineLog) -> None:
    log.append({"seq": 0})
    for action in (log.sync, lambda: log.truncate(0), lambda: LineLog(log.path)):
        files.on_operation = fail_at(1, errno.EIO)
        with pytest.raises(StorageError, match=r"events\.jsonl"):
            action()


def test_a_writer_killed_in_the_middle_tears_at_most_the_last_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    child = os.fork()
    if child == 0:
        try:
            log, seq = LineLog(path), 0
            while True:
                log.append({"seq": seq, "text": "x" * (seq % 5000)})
                seq += 1
        finally:
            os._exit(1)
    deadline = time.monotonic() + 20
    while len(read_lines(path).records) < 300 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    lines = read_lines(path)
    assert lines.garbage == 0
    assert [record["seq"] for record in lines.records] == list(range(len(lines.records)))
    assert len(lines.records) >= 300
    log = LineLog(path)
    log.append({"seq": len(lines.records)})
    assert read_lines(path).records[-1] == {"seq": len(lines.records)}
