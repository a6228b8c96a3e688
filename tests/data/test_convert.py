"""Pickled DataFrames: their rows come out, and nothing that a pickle can say is run."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sapwood.data.files import unpickle
from sapwood.data.files.convert import convert_pickle
from sapwood.errors import DataError, StorageError

MODULE = unpickle.__name__

ROWS = [
    {"instruction": "问\n", "output": "🌳", "n": 1, "f": 0.5, "ok": True, "turns": [{"role": "user"}]},
    {"instruction": "b", "output": None, "n": 2**40, "f": None, "ok": False, "turns": ["x"]},
]


class Calls:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.fixture(scope="module")
def table() -> dict[tuple[str, str], Any]:
    return unpickle.table()


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("objects", [True, False])
def test_rows_come_out_as_they_are(table: Any, protocol: int, objects: bool) -> None:
    frame = pd.DataFrame(ROWS)
    frame["kind"] = pd.Categorical(["x", "y"])
    if objects:
        frame = frame.astype(object)
    found = unpickle.rows_of(pickle.dumps(frame, protocol), table)
    assert found == [{**row, "kind": kind} for row, kind in zip(ROWS, "xy", strict=True)]


@pytest.mark.parametrize(
    "value",
    [pd.Timestamp("2024-01-05"), b"bytes", {1: "a"}, {"a", "b"}, 1j, float("inf"), np.datetime64("2024")],
)
def test_what_is_no_plain_value_is_refused_by_row_and_column(table: Any, value: Any) -> None:
    frame = pd.DataFrame({"a": pd.Series(["x", value], dtype=object)})
    with pytest.raises(unpickle.Refused, match=r"column 'a', row 1|no part of a DataFrame"):
        unpickle.rows_of(pickle.dumps(frame), table)


def stack_global(module: str, name: str, argument: str) -> bytes:
    def text(value: str) -> bytes:
        raw = value.encode()
        return b"\x8c" + struct.pack("<B", len(raw)) + raw

    return b"\x80\x04" + text(module) + text(name) + b"\x93" + text(argument) + b"\x85R."


def evil(mark: str) -> dict[str, bytes]:
    """Pickles that would make the file ``mark``, or reach for what could."""
    command = f"touch {mark}"
    nested = pd.DataFrame({"a": pd.Series([Calls(os.system, command)], dtype=object)})
    old = f"cposix\nsystem\n(S'{command}'\ntR.".encode()
    return {
        "os.system": pickle.dumps(Calls(os.system, command)),
        "old opcodes": old,
        "hidden in a cell": pickle.dumps(nested),
        "eval": pickle.dumps(Calls(eval, f"open({mark!r}, 'w')")),
        "exec": pickle.dumps(Calls(exec, f"open({mark!r}, 'w')")),
        "open": pickle.dumps(Calls(open, mark, "w")),
        "getattr": pickle.dumps(Calls(getattr, "", "join")),
        "dotted name": stack_global("pandas", "DataFrame.to_csv", mark),
        "module of a module": stack_global("pandas.core.frame", "os", mark),
        "pandas reads pickles": stack_global("pandas", "read_pickle", mark),
        "numpy loads": stack_global("numpy", "load", mark),
        "numpy memmap": stack_global("numpy", "memmap", mark),
        "instance opcode": f"(S'{mark}'\nios\nmkdir\n.".encode(),
        "build on a class": b"\x80\x04cos\nenviron\n}\x8c\x01a\x8c\x01bsb.",
        "import": stack_global("importlib", "import_module", "socket"),
        "builtins import": stack_global("builtins", "__import__", "socket"),
        "codec": b"\x80\x02c_codecs\nencode\nX\1\0\0\0aX\3\0\0\0bz2\x86R.",
        "persistent id": b"\x80\x04\x8c\x01aQ.",
        "extension": b"\x80\x04\x82\x01.",
        "object array from memory": pickle.dumps(Calls(np.frombuffer, b"\0" * 8, "O")),
        "cut": pickle.dumps(nested)[:-20],
        "empty": b"",
        "a list": pickle.dumps(["a"]),
        "a recursive list": b"\x80\x02]q\x00h\x00a.",
        "a subclass in a table": pickle.dumps(pd.Series(["a"])),
        "deep": b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
    }


@pytest.mark.parametrize("name", evil("/x"))
def test_no_pickle_runs_what_it_says(table: Any, tmp_path: Path, name: str) -> None:
    mark = tmp_path / "was-here"
    with pytest.raises(unpickle.Refused):
        unpickle.rows_of(evil(str(mark))[name], table)
    assert not mark.exists()


def test_the_command_writes_jsonl_in_one_move(tmp_path: Path) -> None:
    source, target = tmp_path / "frame.pkl", tmp_path / "rows.jsonl"
    pd.DataFrame(ROWS).to_pickle(source)
    assert convert_pickle(source, target) == 2
    assert [json.loads(line) for line in target.read_text().splitlines()] == ROWS
    with pytest.raises(StorageError, match="the file is there already"):
        convert_pickle(source, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frame.pkl", "rows.jsonl"]


def test_the_command_refuses_with_the_reason(tmp_path: Path) -> None:
    source, mark = tmp_path / "frame.pkl", tmp_path / "was-here"
    source.write_bytes(evil(str(mark))["hidden in a cell"])
    with pytest.raises(DataError, match=r"it names (posix|os)\.system, which is no part of a DataFrame"):
        convert_pickle(source, tmp_path / "rows.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["frame.pkl"]


def test_the_process_can_open_nothing_even_if_a_pickle_ran(tmp_path: Path) -> None:
    """Each attempt in a child that gave up its rights as `main` does."""
    attempts = {
        "file": f"open({str(tmp_path / 'x')!r}, 'w')",
        "socket": "__import__('_socket').socket()",
        "program": "__import__('posix').system('true')",
        "fork": "__import__('posix').fork()",
        "library": "__import__('ctypes')",
    }
    for name, attempt in attempts.items():
        code = f"import {MODULE} as u; import _socket, posix; u.give_up_rights(); {attempt}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == unpickle.REFUSED, name
        assert "it tried what no file of data does" in done.stderr, name
    code = f"import {MODULE} as u; u.sys.addaudithook = id; u.give_up_rights(); u._socket.socket()"
    code = code.replace("u;", "u, _socket; u._socket = _socket;", 1)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Too many open files" in done.stderr, "the limits hold without the hook too"


def test_the_verb_names_its_target_by_the_source(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from sapwood.cli import app

    pd.DataFrame(ROWS).to_pickle(tmp_path / "frame.pkl")
    done = CliRunner().invoke(app, ["data", "convert", str(tmp_path / "frame.pkl")])
    assert done.output == f"wrote 2 rows to {tmp_path / 'frame.jsonl'}\n"
    assert len((tmp_path / "frame.jsonl").read_text().splitlines()) == 2


def test_a_source_that_is_not_there_and_a_target_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such file"):
        convert_pickle(tmp_path / "none.pkl", tmp_path / "rows.jsonl")
    pd.DataFrame(ROWS).to_pickle(tmp_path / "frame.pkl")
    with pytest.raises(StorageError, match="no such file"):
        convert_pickle(tmp_path / "frame.pkl", tmp_path / "none" / "rows.jsonl")
