"""The one place that opens a pickle: a process of its own, that can build a DataFrame and nothing else.

``python -m sapwood.data.files.unpickle`` reads a pickle from stdin and writes its rows to stdout as JSONL.
Before it looks at the first byte, the process gives up all rights to do harm. It can open no file and no
socket, because it may hold three descriptors and has them. Its memory and time are bounded, and it can import
nothing. An audit hook ends it if anything is nevertheless opened, started or connected. The pickle may name
only the functions that DataFrames are made of. The result is checked value by value.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from sapwood.errors import brief
from sapwood.machine.confined import MEMORY, REFUSED, give_up_rights

MAX_PICKLE_BYTES = 1 << 30
MAX_DEPTH = 32

# Where DataFrames and their parts are pickled from, in pandas 1 to 3 and numpy 1 to 2.
_NAMES = {
    "pandas": "DataFrame Index RangeIndex Categorical CategoricalDtype StringDtype",
    "pandas.arrays": "ArrowStringArray StringArray DatetimeArray IntegerArray FloatingArray BooleanArray",
    "pandas.core.frame": "DataFrame",
    "pandas.core.internals.managers": "BlockManager",
    "pandas.core.indexes.base": "Index _new_Index",
    "pandas.core.indexes.range": "RangeIndex",
    "pandas.core.arrays.string_": "StringArray StringDtype",
    "pandas.core.arrays.string_arrow": "ArrowStringArray",
    "pandas.core.arrays.categorical": "Categorical",
    "pandas.core.dtypes.dtypes": "CategoricalDtype",
    "pandas._libs.internals": "_unpickle_block",
    "pandas._libs.arrays": "__pyx_unpickle_NDArrayBacked",
    "numpy": "ndarray dtype",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy.core.numeric": "_frombuffer",
    "numpy._core.numeric": "_frombuffer",
    "pyarrow.lib": "_restore_array py_buffer type_for_alias chunked_array",
    "builtins": "slice bytearray set frozenset complex",
}
ALLOWED = {(module, name) for module, found in _NAMES.items() for name in found.split()}


class Refused(Exception):
    """The pickle is no DataFrame of plain values; str() says why."""


class _FrameUnpickler(pickle.Unpickler):
    """Looks up the names of `ALLOWED` in a table, and imports nothing."""

    def __init__(self, stream: io.BytesIO, table: Mapping[tuple[str, str], Any]) -> None:
        super().__init__(stream)
        self._table = table

    def find_class(self, module: str, name: str, /) -> Any:
        found = self._table.get((module.replace("__builtin__", "builtins"), name))
        if found is None:
            raise Refused(f"it names {module}.{name}, which is no part of a DataFrame")
        return found

    def persistent_load(self, pid: Any, /) -> NoReturn:
        raise Refused("it refers to objects outside the file")


def rows_of(raw: bytes, table: Mapping[tuple[str, str], Any]) -> list[dict[str, Any]]:
    """The rows of a pickled DataFrame, as plain JSON data. Raises Refused."""
    from pandas import DataFrame

    try:
        frame = _FrameUnpickler(io.BytesIO(raw), table).load()
    except Refused:
        raise
    except MemoryError:
        raise Refused(f"it needs more than {MEMORY >> 30} GiB of memory") from None
    except Exception as error:
        raise Refused(f"it can't be read: {type(error).__name__}: {brief(error, 300)}") from None
    if type(frame) is not DataFrame:
        raise Refused(f"it holds a {type(frame).__name__}, not a DataFrame")
    names = [str(name) if isinstance(name, str | int) else _refuse_name(name) for name in frame.columns]
    if len(set(names)) < len(names):
        raise Refused("two of its columns have one name")
    columns = [frame.iloc[:, i].astype(object).tolist() for i in range(len(names))]
    return [
        {name: _plain(value, f"column {name!r}, row {i}") for name, value in zip(names, values, strict=True)}
        for i, values in enumerate(zip(*columns, strict=True))
    ]


def table() -> dict[tuple[str, str], Any]:
    """The allowed names and what each is. Imports what a DataFrame needs, for the last time."""
    import importlib

    import pandas
    import pyarrow

    pandas.DataFrame({"a": ["b"]}).astype(object).iloc[
        :, 0
    ].tolist()  # whatever pandas loads late is loaded here
    pyarrow.array(["a"]).validate(full=True)
    found: dict[tuple[str, str], Any] = {("_codecs", "encode"): _latin1}
    for module, name in sorted(ALLOWED):
        try:
            today = module.replace("numpy.core.", "numpy._core.")  # what numpy 1 called it
            found[module, name] = getattr(importlib.import_module(today), name)
        except (ImportError, AttributeError):
            continue  # a name of an older or a newer pandas
    return found


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """How pickles of protocol 2 write bytes. Other codecs unpack, or import."""
    if encoding not in ("latin1", "latin-1"):
        raise Refused(f"it asks for the codec {encoding!r}")
    return text.encode("latin1")


def _refuse_name(name: Any) -> NoReturn:
    raise Refused(f"a column's name is a {type(name).__name__}, not text")


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    """JSON data; missing values as None. Never the text of something that isn't text."""
    if value is None or isinstance(value, bool | str | int):
        return value
    kind = type(value).__name__
    if kind in ("NAType", "NaTType") or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and math.isfinite(value):
        return value
    if depth > MAX_DEPTH:
        raise Refused(f"{where} is nested too deep")
    if kind == "ndarray" or isinstance(value, list | tuple):
        items: Any = value
        return [_plain(item, where, depth + 1) for item in items]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, where, depth + 1) for key, item in value.items()}
    item: Callable[[], Any] | None = (
        getattr(value, "item", None) if kind.startswith(("int", "float")) else None
    )
    if item is not None:
        return _plain(item(), where, depth + 1)
    raise Refused(f"{where} is a {kind}, not text: convert it where the frame was made")


def main() -> None:
    known = table()
    give_up_rights()
    raw = sys.stdin.buffer.read(MAX_PICKLE_BYTES + 1)
    try:
        if len(raw) > MAX_PICKLE_BYTES:
            raise Refused(f"it is larger than {MAX_PICKLE_BYTES >> 30} GiB")
        for row in rows_of(raw, known):
            line = json.dumps(row, ensure_ascii=False, allow_nan=False)
            sys.stdout.buffer.write(line.encode("utf-8") + b"\n")
        sys.stdout.buffer.flush()
    except (Refused, UnicodeEncodeError, MemoryError, RecursionError) as error:
        sys.stderr.write(f"{error or type(error).__name__}\n")
        sys.stderr.flush()
        os._exit(REFUSED)


if __name__ == "__main__":
    main()
