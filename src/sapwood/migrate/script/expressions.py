"""The value of an expression: constants folded, strings and token lists kept in parts."""

from __future__ import annotations

import ast
import builtins
import operator
from collections.abc import Callable
from typing import Any

from sapwood.migrate.script.access import are_rows, attribute, item
from sapwood.migrate.script.found import Env, Walker
from sapwood.migrate.script.loops import dict_comprehension, list_comprehension
from sapwood.migrate.script.outside import SLICE
from sapwood.migrate.script.values import (
    Attr,
    Call,
    Coded,
    Encoded,
    Field,
    Filler,
    Function,
    Ids,
    Module,
    Object,
    Ones,
    Part,
    Special,
    Text,
    Unknown,
    as_ids,
    as_text,
    concat,
    is_plain,
    joined,
    plain_text,
)

MAX_NUMBER = 2**63
MAX_ITEMS = 4096  # of a list, or characters of a string that is repeated
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Eq: operator.eq, ast.NotEq: operator.ne,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Is: operator.eq, ast.IsNot: operator.ne,
}  # fmt: skip


def evaluate(machine: Walker, node: ast.expr, env: Env) -> Any:
    do = _NODES.get(type(node))
    return do(machine, node, env) if do is not None else _unknown(node)


def _unknown(node: ast.expr) -> Unknown:
    return Unknown(ast.unparse(node)[:200], node.lineno)


def _name(machine: Walker, node: ast.Name, env: Env) -> Any:
    if node.id in env:
        return env[node.id]
    if not hasattr(builtins, node.id) and node.id != "__name__":
        machine.script.undefined.setdefault(node.id, node.lineno)
    return "__main__" if node.id == "__name__" else Unknown(node.id, node.lineno)


def _attribute(machine: Walker, node: ast.Attribute, env: Env) -> Any:
    found = attribute(machine.value(node.value, env), node.attr, node.lineno)
    given = machine.given
    if isinstance(found, Module) and found.name == "sys.argv" and given.words is not None:
        given.asked = True
        return [given.script, *map(given.value, given.words)]
    return found


def _subscript(machine: Walker, node: ast.Subscript, env: Env) -> Any:
    of = machine.value(node.value, env)
    if isinstance(node.slice, ast.Slice):
        return _sliced(machine, of, node.slice, node, env)
    key = machine.value(node.slice, env)
    if isinstance(of, Module) and of.name == "os.environ" and isinstance(key, str):
        known = machine.given.variable(key)
        return known if known is not None else _unknown(node)
    return item(of, key, node.lineno)


def _sliced(machine: Walker, of: Any, part: ast.Slice, node: ast.expr, env: Env) -> Any:
    low, high = machine.value(part.lower, env), machine.value(part.upper, env)
    plain = all(isinstance(x, (int, type(None))) for x in (low, high))
    if plain and isinstance(of, (str, list, tuple)) and not (isinstance(of, list) and as_ids(of)):
        return of[low:high]
    ids = as_ids(of) if not isinstance(of, Coded) else None
    if ids is not None and low is None:
        return Ids(ids.parts, (*ids.cuts, (high, node.lineno)), ids.masks)
    if ids is not None and isinstance(low, int) and low > 0:
        return Ids((Unknown(ast.unparse(node), node.lineno),))
    if isinstance(of, (Call, Attr)) and are_rows(of):
        return Call(SLICE, node.lineno, of=of)
    return of if isinstance(of, (Call, Ones, Field)) else _unknown(node)


def _joinedstr(machine: Walker, node: ast.JoinedStr, env: Env) -> Any:
    parts: list[Part] = []
    for value in node.values:
        inner = value.value if isinstance(value, ast.FormattedValue) else value
        found = machine.value(inner, env)
        parts += as_text(found, node.lineno).parts
    return settle(joined(iter(parts), node.lineno))


def settle(text: Text) -> Any:
    """A plain string again, if nothing of a row is in it."""
    known = plain_text(text)
    return text if known is None else known


def _binop(machine: Walker, node: ast.BinOp, env: Env) -> Any:
    left, right = machine.value(node.left, env), machine.value(node.right, env)
    if isinstance(node.op, ast.Add):
        return _sum(left, right, node)
    if isinstance(node.op, ast.Mult) and isinstance(left, list):
        return _repeat(left, right, node.lineno)
    if isinstance(node.op, ast.Mod) and isinstance(left, (str, Text)):
        return _percent(left, right, node)
    return fold(type(node.op), left, right, node)


def fold(kind: type, left: Any, right: Any, node: ast.expr) -> Any:
    do = _OPERATORS.get(kind)
    plain = is_plain(left) and is_plain(right)
    try:
        if do is None and kind is ast.Pow and plain and abs(left) <= 1024 and abs(right) <= 64:
            return left**right
        if do is None or not plain:
            return _unknown(node)
        if kind is ast.Div and isinstance(left, str) and isinstance(right, str):  # of paths
            return f"{left.rstrip('/')}/{right}"
        if kind is ast.Mult and not all(isinstance(x, (int, float)) for x in (left, right)):
            return _times(left, right, node)
        value = do(left, right)
    except (TypeError, ValueError, ArithmeticError):
        return _unknown(node)
    return value if not isinstance(value, int) or abs(value) < MAX_NUMBER else _unknown(node)


def _times(left: Any, right: Any, node: ast.expr) -> Any:
    """A sequence so many times, if that stays small."""
    whole, count = (right, left) if isinstance(left, int) else (left, right)
    small = (
        isinstance(whole, (str, list, tuple)) and isinstance(count, int) and len(whole) * count <= MAX_ITEMS
    )
    return whole * count if small else _unknown(node)


def _sum(left: Any, right: Any, node: ast.BinOp) -> Any:
    first, second = as_ids(left), as_ids(right)
    empty = [x for x in (left, right) if x == []]
    if first is not None and second is not None and len(empty) != 2:
        if empty:
            return left if right == [] else right
        return Ids((*first.parts, *second.parts), (*first.cuts, *second.cuts), (*first.masks, *second.masks))
    if isinstance(left, Ones) or isinstance(right, Ones):
        return Ones()
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return [*left, *right] if len(left) + len(right) <= MAX_ITEMS else _unknown(node)
    if any(isinstance(x, (str, Text, Field)) for x in (left, right)):
        return settle(concat(left, right, node.lineno))
    if any(isinstance(x, Special) for x in (left, right)):
        return settle(concat(left, right, node.lineno))
    return fold(ast.Add, left, right, node)


def _repeat(left: list[Any], times: Any, line: int) -> Any:
    if len(left) == 1 and not (isinstance(left[0], str)):
        return Ids((Filler(left[0], times, line),))
    return left * times if isinstance(times, int) and times * len(left) <= 4096 else Unknown("a list", line)


def _percent(left: Any, right: Any, node: ast.BinOp) -> Any:
    values = list(right) if isinstance(right, tuple) else [right]
    pieces = str(plain_text(as_text(left)) or "").replace("%d", "%s").split("%s")
    if len(pieces) != len(values) + 1:
        return _unknown(node)
    parts: list[Part] = [pieces[0]]
    for value, piece in zip(values, pieces[1:], strict=True):
        parts += [*as_text(value, node.lineno).parts, piece]
    return settle(joined(iter(parts), node.lineno))


def _compare(machine: Walker, node: ast.Compare, env: Env) -> Any:
    left, right = machine.value(node.left, env), machine.value(node.comparators[0], env)
    kind = type(node.ops[0])
    if len(node.ops) > 1:
        return _unknown(node)
    if kind in (ast.In, ast.NotIn) and is_plain(left) and isinstance(right, (str, list, tuple, dict)):
        try:
            return (left in right) == (kind is ast.In)
        except TypeError:
            return _unknown(node)
    if kind in (ast.Is, ast.IsNot) and None in (left, right) and _something(right if left is None else left):
        return kind is ast.IsNot
    return fold(kind, left, right, node)


def _something(value: Any) -> bool:
    """Known not to be None."""
    return isinstance(value, (Call, Function, Object, Text, Ids, Coded, list, dict, tuple))


def _boolop(machine: Walker, node: ast.BoolOp, env: Env) -> Any:
    values = [machine.value(value, env) for value in node.values]
    for value in values[:-1]:
        if isinstance(node.op, ast.Or) and isinstance(value, (Field, Text)):
            return value
        if not is_plain(value):
            return _unknown(node)
        if bool(value) == isinstance(node.op, ast.Or):
            return value
    return values[-1]


def _unaryop(machine: Walker, node: ast.UnaryOp, env: Env) -> Any:
    value = machine.value(node.operand, env)
    if isinstance(node.op, ast.USub) and isinstance(value, (int, float)):
        return -value
    return not value if isinstance(node.op, ast.Not) and is_plain(value) else _unknown(node)


def _ifexp(machine: Walker, node: ast.IfExp, env: Env) -> Any:
    return machine.value(node.body if machine.decide(node.test, env) else node.orelse, env)


def _list(machine: Walker, node: ast.List | ast.Tuple | ast.Set, env: Env) -> Any:
    out: list[Any] = []
    for element in node.elts:
        if isinstance(element, ast.Starred):
            inner = machine.value(element.value, env)
            out += inner if isinstance(inner, (list, tuple)) else [inner]
        else:
            out.append(machine.value(element, env))
    return tuple(out) if isinstance(node, ast.Tuple) else out


def _dict(machine: Walker, node: ast.Dict, env: Env) -> Any:
    out: dict[Any, Any] = {}
    lines: dict[str, int] = {}
    for key, value in zip(node.keys, node.values, strict=True):
        found = machine.value(value, env)
        if key is None:
            out.update(found if isinstance(found, dict) else {})
            continue
        name = machine.value(key, env)
        if isinstance(name, (str, int, float, bool)):
            out[name] = found
            lines[str(name)] = key.lineno
    machine.key_lines[id(out)] = lines
    machine.script.kept.append(out)
    return out


def _lambda(machine: Walker, node: ast.Lambda, env: Env) -> Any:
    return Function(node, env)


def _constant(machine: Walker, node: ast.Constant, env: Env) -> Any:
    value: Any = node.value
    return value if is_plain(value) else _unknown(node)


def _named(machine: Walker, node: ast.NamedExpr, env: Env) -> Any:
    value = machine.value(node.value, env)
    machine.bind(node.target, value, env)
    return value


def ids_of(text: Any, *, specials: bool, limit: Any, cuts: bool, padding: Any, line: int) -> Ids:
    if isinstance(text, list) and len(text) == 1:
        text = text[0]
    inner = as_ids(text)
    if inner is not None:
        return inner
    return Ids((Encoded(as_text(text, line), specials, limit, cuts, padding, line),))


_NODES: dict[type, Callable[[Walker, Any, Env], Any]] = {
    ast.Constant: _constant, ast.Name: _name, ast.Attribute: _attribute, ast.Subscript: _subscript,
    ast.JoinedStr: _joinedstr, ast.BinOp: _binop, ast.Compare: _compare, ast.BoolOp: _boolop,
    ast.UnaryOp: _unaryop, ast.IfExp: _ifexp, ast.List: _list, ast.Tuple: _list, ast.Set: _list,
    ast.Dict: _dict, ast.ListComp: list_comprehension, ast.GeneratorExp: list_comprehension,
    ast.SetComp: list_comprehension, ast.DictComp: dict_comprehension,
    ast.Lambda: _lambda, ast.NamedExpr: _named,
}  # fmt: skip
