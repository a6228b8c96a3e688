"""Paths that are no readable file, each refused for its own reason and without waiting."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sapwood.data.files.sources import read_rows
from sapwood.errors import DataError
from sapwood.types import Row

GOOD = {"instruction": "a", "output": "b"}
GOOD_LINE = json.dumps(GOOD)


def values(rows: list[Row]) -> list[Any]:
    return [row.value for row in rows]


def refuse_path(source: str, root: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(read_rows([source], root=root))
    assert caught.value.exit_code == 3
    return str(caught.value)


def test_folder_without_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.pdf").write_text("x")
    (tmp_path / "data" / ".hidden.jsonl").write_text("{}")
    assert refuse_path("data", tmp_path).startswith("the folder holds no data · data · ")


def test_a_folder_stands_for_the_data_files_right_in_it(tmp_path: Path) -> None:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    for name in ("b.jsonl", "a.json", "deep/c.jsonl", "README.md", ".d.jsonl"):
        (tmp_path / "data" / name).write_text('{"instruction": "a", "output": "b"}')
    rows = list(read_rows(["data/"], root=tmp_path))
    assert [row.id.source for row in rows] == ["data/a.json", "data/b.jsonl"]


def test_pipe_socket_and_device_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "the path is a pipe" in refuse_path("pipe", tmp_path)
    assert "the path is a device" in refuse_path("/dev/zero", tmp_path)
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s"))
        assert "the path is a socket" in refuse_path("s", tmp_path)


def test_file_that_becomes_a_pipe_meanwhile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(GOOD_LINE)
    real_open = os.open

    def swap_and_open(*args: Any) -> int:
        path.unlink()
        os.mkfifo(path)
        return real_open(*args)

    monkeypatch.setattr("sapwood.data.files.paths.os.open", swap_and_open)
    assert "the path is a pipe" in refuse_path("rows.jsonl", tmp_path)


def test_dangling_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link.jsonl").symlink_to("nowhere.jsonl")
    assert "the link leads nowhere · link.jsonl · it points to nowhere.jsonl" in refuse_path(
        "link.jsonl", tmp_path
    )
    (tmp_path / "loop").symlink_to("loop")
    assert "can't be opened · loop" in refuse_path("loop", tmp_path)


def test_missing_file_suggests_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "huanhuan.json").touch()
    assert "did you mean train/huanhuan.json?" in refuse_path("train/huanhuna.json", tmp_path)
    assert "did you mean train/x.json?" in refuse_path("trian/x.json", tmp_path)
    assert refuse_path("train/q", tmp_path) == "file not found · train/q · data files there: huanhuan.json"
    assert f"did you mean {tmp_path}/train/huanhuan.json?" in refuse_path(
        f"{tmp_path}/train/huanhuan.jsn", tmp_path
    )
    assert "file not found" in refuse_path("train/huanhuan.json/x", tmp_path)


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(GOOD_LINE)
    path.chmod(0)
    as_root = os.geteuid() == 0
    if as_root:  # root reads everything; become nobody for a moment
        os.seteuid(65534)
    try:
        message = refuse_path(str(path), tmp_path)
    finally:
        if as_root:
            os.seteuid(0)
    assert "the file can't be opened" in message
    assert "permission denied" in message


@pytest.mark.parametrize("source", ["a\0b", "x" * 5000, "~nobody-of-this-name/rows.json"])
def test_impossible_paths_are_refused(tmp_path: Path, source: str) -> None:
    assert "file" in refuse_path(source, tmp_path)


def test_pickle_is_refused_by_name_and_by_content(refuse: Callable[..., DataError]) -> None:
    assert "Python pickle · rows.pkl" in str(refuse(b"anything", "rows.pkl"))
    assert "Python pickle · rows.json" in str(refuse(b"\x80\x04\x95abc", "rows.json"))


@pytest.mark.parametrize("url", ["https://example.org/a.json", "s3://bucket/a.json", "FILE:///a.json"])
def test_url_is_refused(tmp_path: Path, url: str) -> None:
    assert f"the path is a URL · {url}" in refuse_path(url, tmp_path)


def test_datasets_that_name_no_file_are_refused(tmp_path: Path) -> None:
    assert "write hf:ORG/NAME, hf:ORG/NAME/FILE" in refuse_path("hf:org", tmp_path)
    assert "write hf:ORG/NAME, hf:ORG/NAME/FILE" in refuse_path("hf:org/name/load_me.py", tmp_path)
    assert "datasets of ModelScope are not read · ms:org/name" in refuse_path("ms:org/name", tmp_path)


@pytest.mark.skipif(not Path("/proc/self/mem").is_file(), reason="this system has no /proc")
def test_file_that_fails_while_it_is_read_is_reported(read: Callable[..., list[Row]], tmp_path: Path) -> None:
    """Linux lets a process read its own memory file only if something is mapped: a real EIO."""
    message = refuse_path("/proc/self/mem", tmp_path)
    assert message == "the file can't be read · /proc/self/mem · input/output error"


def test_problems_of_all_files_come_together(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text(f"{GOOD_LINE}\n{{x}}\n")
    (tmp_path / "good.jsonl").write_text(GOOD_LINE)
    rows: list[Row] = []
    with pytest.raises(DataError) as caught:
        for row in read_rows(["gone.bin", "bad.jsonl", "good.jsonl", "empty"], root=tmp_path):
            rows.append(row)  # noqa: PERF402
    assert [row.id.source for row in rows] == ["bad.jsonl", "good.jsonl"]
    assert [problem.where for problem in caught.value.problems] == ["gone.bin", "bad.jsonl:2:2", "empty"]


def test_escapes_in_names_and_text_do_not_reach_the_terminal(refuse: Callable[..., DataError]) -> None:
    error = refuse('{"a\x1b]0;x\x07": 1}\n{"\\u202ea": 1, "\\u202ea": 2}')
    assert "\x1b" not in str(error)
    assert "\u202e" not in str(error)
    assert "\\u{202e}" in str(error)
