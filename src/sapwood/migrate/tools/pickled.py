"""A Trainer's training_args.bin, read without unpickling: its opcodes are walked, nothing is called.

The file is torch's zip of one pickle, or the pickle itself. What would be built is written down as plain
data: a class by its name, an instance by its attributes.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from pathlib import Path
from typing import Any

from sapwood.errors import DataError, brief

MAX_BYTES = 16 << 20
MAX_OPCODES = 1_000_000
_MARK = object()
_PUSH = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list,
"NONE": lambda: None,
         "NEWTRUE": lambda: True, "NEWFALSE": lambda: False}  # fmt: skip


class Named:
    """A class, function or instance that the pickle names; attrs: the state it would have."""

    def __init__(self, name: str, args: Any = ()) -> None:
        self.name = name
        self.args = args
        self.attrs: dict[str, Any] = {}


def read_pickled(path: Path) -> dict[str, Any]:
    """The attributes of the TrainingArguments in the file. Raises DataError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError("the file is too large", str(path), "training_args.bin has a few kilobytes")
        data = path.read_bytes()
        if zipfile.is_zipfile(io.BytesIO(data)):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
                if archive.getinfo(name).file_size > MAX_BYTES:
                    raise DataError(
                        "the file is too large", str(path), "its pickle unpacks to more than 16 MB"
                    )
                data = archive.read(name)
        made = _walk(data)
    except (OSError, StopIteration, ValueError, IndexError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise DataError("training_args.bin can't be read", str(path), brief(error)) from None
    if not isinstance(made, Named) or not made.attrs:
        raise DataError("the file holds no training arguments", str(path), "it holds something else")
    return {key: _plain(value) for key, value in made.attrs.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Named):  # an enum is called with its value
        inner = value.args[0] if isinstance(value.args, tuple) and len(value.args) == 1 else None
        return inner if isinstance(inner, (str, int, float)) else None
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return value if isinstance(value, (str, int, float, bool, type(None))) else None


def _index(argument: Any) -> int:
    return int(argument)


def _walk(data: bytes) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if count > MAX_OPCODES:
            raise ValueError("it has too many opcodes")
        name = opcode.name
        if name == "STOP":
            return stack[-1]
        if name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
            memo[len(memo) if name == "MEMOIZE" else _index(argument)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[_index(argument)])
        elif name not in ("PROTO", "FRAME"):
            _step(stack, name, argument)
    raise ValueError("it has no end")


def _step(stack: list[Any], name: str, argument: Any) -> None:
    if name in _PUSH:
        stack.append(_PUSH[name]())
    elif name == "MARK":
        stack.append(_MARK)
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        count = int(name[-1])
        stack[-count:] = [tuple(stack[-count:])]
    elif name in ("TUPLE", "LIST", "FROZENSET"):
        values = _to_mark(stack)
        stack.append(list(values) if name == "LIST" else tuple(values))
    elif name == "DICT":
        values = _to_mark(stack)
        stack.append(_pairs(values))
    elif name in ("SETITEM", "SETITEMS"):
        values = _to_mark(stack) if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
        if isinstance(stack[-1], dict):
            stack[-1].update(_pairs(values))
    elif name in ("APPEND", "APPENDS", "ADDITEMS"):
        values = _to_mark(stack) if name != "APPEND" else [stack.pop()]
        if isinstance(stack[-1], list):
            stack[-1].extend(values)
    elif name == "GLOBAL":
        stack.append(Named(str(argument).replace(" ", ".")))
    elif name == "STACK_GLOBAL":
        module, attribute = stack[-2:]
        stack[-2:] = [Named(f"{module}.{attribute}")]
    elif name in ("REDUCE", "NEWOBJ"):
        made, args = stack[-2:]
        stack[-2:] = [Named(getattr(made, "name", "?"), args)]
    elif name == "NEWOBJ_EX":
        made, args, _ = stack[-3:]
        stack[-3:] = [Named(getattr(made, "name", "?"), args)]
    elif name == "BUILD":
        _build(stack)
    elif name in ("POP", "POP_MARK"):
        _to_mark(stack) if name == "POP_MARK" else stack.pop()
    elif name == "DUP":
        stack.append(stack[-1])
    elif name in ("BINPERSID", "PERSID"):
        stack[-1:] = [None]
    else:  # every other opcode pushes its argument: numbers, strings, bytes
        stack.append(argument)


def _build(stack: list[Any]) -> None:
    state = stack.pop()
    if isinstance(state, tuple):
        state = next((part for part in state if isinstance(part, dict)), None)
    if isinstance(stack[-1], Named) and isinstance(state, dict):
        stack[-1].attrs.update({str(key): value for key, value in state.items()})


def _to_mark(stack: list[Any]) -> list[Any]:
    at = len(stack) - 1 - next(i for i, one in enumerate(reversed(stack)) if one is _MARK)
    values = stack[at + 1 :]
    del stack[at:]
    return values


def _pairs(values: list[Any]) -> dict[Any, Any]:
    return {
        k: v for k, v in zip(values[::2], values[1::2], strict=True) if isinstance(k, (str, int, float, bool))
    }
