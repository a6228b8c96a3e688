"""Classes of a script, and the objects that it makes of them."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from sapwood.migrate.script.found import Env, Walker
from sapwood.migrate.script.values import Call, Class, Function, Object, Unknown, dotted


def define(machine: Walker, node: ast.ClassDef, env: Env) -> Class:
    """A class with the fields and methods that it inherits from the script's own classes."""
    made = Class(node, {})
    for base in (machine.value(base, env) for base in node.bases):
        if isinstance(base, Class):
            made.fields |= base.fields
            made.methods |= base.methods
            made.lines |= base.lines
            made.kinds |= base.kinds
        made.parent = (base.parent if isinstance(base, Class) else dotted(base)) or made.parent
    for inner in node.body:
        if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
            made.fields[inner.target.id] = _default(machine, inner, env)
            made.lines[inner.target.id] = inner.lineno
            made.kinds[inner.target.id] = ast.unparse(inner.annotation)
        elif isinstance(inner, ast.Assign) and isinstance(inner.targets[0], ast.Name):
            made.fields[inner.targets[0].id] = machine.value(inner.value, env)
        elif isinstance(inner, ast.FunctionDef):
            made.methods[inner.name] = Function(inner, env)
    return made


def _default(machine: Walker, node: ast.AnnAssign, env: Env) -> Any:
    value = machine.value(node.value, env) if node.value is not None else Unknown(ast.unparse(node.target))
    if isinstance(value, Call) and value.last in ("field", "Field"):
        factory = value.kwargs.get("default_factory")
        if isinstance(factory, Function):
            return machine.apply(factory, [], {}, node.lineno)
        first = value.args[0] if value.args else Unknown(f"{ast.unparse(node.target)}", node.lineno)
        return value.kwargs.get("default", first)
    return value


def instance(machine: Walker, made: Class, args: Sequence[Any], kwargs: dict[str, Any], line: int) -> Object:
    """An object: a dataclass's fields, or what ``__init__`` sets."""
    one = Object(made.node.name, dict(made.fields), made)
    begin = made.methods.get("__init__")
    if begin is None:
        one.attrs.update(zip(made.fields, args, strict=False))
        one.attrs.update(kwargs)
    else:
        machine.apply(Function(begin.node, begin.env, owner=one), args, kwargs, line)
    return one
