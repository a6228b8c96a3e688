"""Functions of Python itself, as far as their results can be known."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from sapwood.migrate.script.access import attribute
from sapwood.migrate.script.loops import elements
from sapwood.migrate.script.values import Len, Object, Unknown, as_ids


def _length(args: list[Any], node: ast.Call) -> Any:
    value = args[0] if args else None
    if isinstance(value, (str, list, tuple, dict)) and not (isinstance(value, list) and as_ids(value)):
        return len(value)
    ids = as_ids(value)
    return Len(ids if ids is not None else value)


def _range(args: list[Any], node: ast.Call) -> Any:
    if args and all(isinstance(a, int) for a in args):
        return list(range(*args)[:64]) if 0 not in args[2:] else []
    return [Unknown("i", node.lineno)]


def _zip(args: list[Any], node: ast.Call) -> Any:
    return [tuple(row) for row in zip(*(elements(a, node) for a in args), strict=False)]


def _enumerate(args: list[Any], node: ast.Call) -> Any:
    return list(enumerate(elements(args[0], node))) if args else []


def _first(args: list[Any], node: ast.Call) -> Any:
    return args[0] if args else Unknown(ast.unparse(node), node.lineno)


def _vars(args: list[Any], node: ast.Call) -> Any:
    one = args[0] if args else None
    return one.items() if isinstance(one, Object) else Unknown(ast.unparse(node), node.lineno)


def _got(args: list[Any], node: ast.Call) -> Any:
    """``getattr(of, name, default)``."""
    if len(args) < 2 or not isinstance(args[1], str):
        return Unknown(ast.unparse(node), node.lineno)
    found = attribute(args[0], args[1], node.lineno)
    return args[2] if len(args) > 2 and isinstance(found, Unknown) else found


def _cast(kind: Callable[[Any], Any]) -> Callable[[list[Any], ast.Call], Any]:
    def cast(args: list[Any], node: ast.Call) -> Any:
        try:
            return kind(args[0]) if args and isinstance(args[0], (str, int, float)) else _first(args, node)
        except (ValueError, OverflowError):
            return Unknown(ast.unparse(node), node.lineno)

    return cast


BUILTINS: dict[str, Callable[[list[Any], ast.Call], Any]] = {
    "len": _length, "range": _range, "zip": _zip, "enumerate": _enumerate, "list": _first, "tuple": _first,
    "str": _first, "int": _cast(int), "float": _cast(float), "bool": _first, "tqdm": _first, "sorted": _first,
    "reversed": _first, "iter": _first, "set": _first, "vars": _vars, "asdict": _vars, "getattr": _got,
}  # fmt: skip
