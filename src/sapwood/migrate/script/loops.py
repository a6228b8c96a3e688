"""What loops and comprehensions go through."""

from __future__ import annotations

import ast
from typing import Any

from sapwood.migrate.script.found import Env, Walker
from sapwood.migrate.script.values import Field, Filler, Ids, Len, Mask, Row, Unknown, as_ids, is_plain


def list_comprehension(machine: Walker, node: ast.ListComp | ast.GeneratorExp | ast.SetComp, env: Env) -> Any:
    over = node.generators[0]
    values = machine.value(over.iter, env)
    ids = as_ids(values) if isinstance(values, Ids) else None
    if ids is not None:
        return _over_ids(machine, node, ids, env)
    out: list[Any] = []
    inner = env.new_child()
    for element in elements(values, over.iter):
        machine.bind(over.target, element, inner)
        if all(machine.decide(test, inner) for test in over.ifs):
            out.append(machine.value(node.elt, inner))
    return out


def _over_ids(machine: Walker, node: Any, ids: Ids, env: Env) -> Any:
    if isinstance(node.elt, ast.IfExp) and isinstance(node.elt.test, ast.Compare):
        equal = machine.value(node.elt.test.comparators[0], env.new_child())
        return Ids(ids.parts, ids.cuts, (*ids.masks, Mask(node.lineno, equal=equal)))
    value = machine.value(node.elt, env.new_child())
    if is_plain(value):
        return Ids((Filler(value, Len(ids), node.lineno),))
    return ids if isinstance(node.elt, ast.Name) else Unknown(ast.unparse(node)[:200], node.lineno)


def dict_comprehension(machine: Walker, node: ast.DictComp, env: Env) -> Any:
    over, inner = node.generators[0], env.new_child()
    out: dict[Any, Any] = {}
    for element in elements(machine.value(over.iter, env), over.iter):
        machine.bind(over.target, element, inner)
        if all(machine.decide(test, inner) for test in over.ifs):
            key = machine.value(node.key, inner)
            if not isinstance(key, (str, int)):
                return Unknown(ast.unparse(node)[:200], node.lineno)
            out[key] = machine.value(node.value, inner)
    machine.script.kept.append(out)
    return out


def rounds(machine: Walker, over: ast.expr, env: Env) -> Any:
    """How often ``for _ in range(…)`` goes round; None if it goes over anything else."""
    while isinstance(over, ast.Call) and ast.unparse(over.func).rpartition(".")[2] == "tqdm" and over.args:
        over = over.args[0]
    if not isinstance(over, ast.Call) or ast.unparse(over.func) not in ("range", "trange") or not over.args:
        return None
    bounds = [machine.value(one, env) for one in over.args]
    known = all(isinstance(one, int) for one in bounds) and 0 not in bounds[2:]
    return len(range(*bounds)) if known else Unknown(ast.unparse(over), over.lineno)


def elements(value: Any, node: ast.expr) -> list[Any]:
    """The items of a loop: the known ones, or one item that stands for all."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, dict):
        return list(value)
    if isinstance(value, Field):
        return [value]
    if isinstance(value, Row):
        return [value]
    return [Unknown(f"each of {ast.unparse(node)[:80]}", node.lineno)]
