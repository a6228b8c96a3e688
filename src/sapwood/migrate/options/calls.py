"""Calls that give a script its settings from outside: parsers, the environment, config files."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from sapwood.migrate.options.declared import parsed, root
from sapwood.migrate.options.functions import fired, typed_function
from sapwood.migrate.options.parsers import PARSERS, from_parser, one_of
from sapwood.migrate.options.trl import helped
from sapwood.migrate.script.found import Env, Walker
from sapwood.migrate.script.values import Call, Class, Function, Object, Unknown
from sapwood.migrate.shell.words import Word

_PARSE = {
    "parse_args", "parse_known_args", "parse_args_into_dataclasses", "parse_args_and_config", "parse",
    "parse_yaml_file", "parse_json_file", "parse_dict",
}  # fmt: skip
_LOADS = {
    "yaml.safe_load", "yaml.load", "yaml.full_load", "json.load", "json.loads", "OmegaConf.load",
    "omegaconf.OmegaConf.load",
}  # fmt: skip
_ALONE = ("RANK", "LOCAL_RANK", "WORLD_SIZE")  # one process: none is set


def method(
    machine: Walker, of: Any, name: str, args: list[Any], kwargs: dict[str, Any], line: int
) -> tuple[bool, Any]:
    """Of a parser; False if it is none of those."""
    if not isinstance(of, Call):
        return False, None
    if name in ("add_argument", "set_defaults"):
        root(of).state.append(Call(name, line, args, kwargs))
        return True, None
    if name not in _PARSE or (name == "parse" and of.last not in PARSERS):
        return False, None
    machine.given.asked = True
    if of.last in PARSERS:
        return True, from_parser(machine, of, name, args, kwargs)
    values, rest = parsed(machine, of, _words(machine, args, line))
    return True, (
        values,
        [machine.given.value(word) for word in rest],
    ) if name == "parse_known_args" else values


def _words(machine: Walker, args: Sequence[Any], line: int) -> list[Word]:
    given = list(machine.given.words or ())
    if args and isinstance(args[0], list) and all(isinstance(one, str) for one in args[0]):
        whole = [word.text for word in given]
        if args[0] != whole:
            at = len(whole) - len(args[0])
            return given[at:] if at >= 0 and whole[at:] == args[0] else [Word(one, line) for one in args[0]]
    return given


def function(
    machine: Walker, name: str, callee: Any, args: list[Any], kwargs: dict[str, Any], node: ast.Call
) -> tuple[bool, Any]:
    """By its dotted name; False if it is none of those."""
    line, first = node.lineno, args[0] if args else None
    if name in ("os.getenv", "os.environ.get"):
        return True, _variable(machine, args, node)
    if name in ("fire.Fire", "Fire"):
        machine.given.asked = True
        return True, fired(machine, args, line)
    if name == "typer.run" and isinstance(first, Function):
        machine.given.asked = True
        return True, typed_function(machine, first, line)
    if isinstance(callee, Call) and isinstance(callee.attrs.get("command"), Function):
        machine.given.asked = True
        return True, typed_function(machine, callee.attrs["command"], line)
    if name in ("tyro.cli", "draccus.parse", "simple_parsing.parse") and isinstance(first, Class):
        machine.given.asked = True
        return True, one_of(machine, first, line)
    if name in _LOADS and args and (found := _loaded(machine, name, first)) is not None:
        return True, found
    if name in ("pathlib.Path", "Path") and len(args) == 1 and isinstance(first, str):
        return True, first
    return helped(name.rpartition(".")[2], args, line)


def _variable(machine: Walker, args: Sequence[Any], node: ast.Call) -> Any:
    name = args[0] if args else None
    known = machine.given.variable(name) if isinstance(name, str) else None
    if known is not None:
        return known
    unset = None if name in _ALONE else Unknown(ast.unparse(node)[:80], node.lineno)
    return args[1] if len(args) > 1 else unset


# --- config files -----------------------------------------------------------------------------------------


def _loaded(machine: Walker, name: str, given: Any) -> Any:
    path = _path(given)
    found = machine.given.config(path) if isinstance(path, str) else None
    if found is None:
        return None
    if isinstance(given, Call):
        given.attrs["config"] = True
    values, lines = found
    _remember(machine, values, lines, "")
    return _object(values, lines, "") if "OmegaConf" in name else values


def _path(given: Any) -> Any:
    """Of ``open(path)``, ``path.read_text()``, or the path itself."""
    for _ in range(4):
        if not isinstance(given, Call) or given.last not in ("open", "read", "read_text"):
            return given
        given = given.args[0] if given.args and given.last == "open" else given.of
    return given


def _remember(machine: Walker, values: dict[str, Any], lines: dict[str, int], above: str) -> None:
    """The line of each key, for what is made of them."""
    machine.key_lines[id(values)] = {key: lines.get(f"{above}{key}", 0) for key in values}
    machine.script.kept.append(values)
    for key, value in values.items():
        if isinstance(value, dict):
            _remember(machine, value, lines, f"{above}{key}.")


def _object(values: dict[str, Any], lines: dict[str, int], above: str) -> Object:
    inner = {
        key: _object(value, lines, f"{above}{key}.") if isinstance(value, dict) else value
        for key, value in values.items()
    }
    return Object("config", inner, lines={key: lines.get(f"{above}{key}", 0) for key in values})


def origin(machine: Walker, node: ast.expr, env: Env) -> int:
    """The line that a value was given on, if it comes as it is from an option or a config's key; else 0."""
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("int", "float", "str")
    ):
        return origin(machine, node.args[0], env) if len(node.args) == 1 else 0
    if isinstance(node, ast.Name):
        line = env.get(f"\0{node.id}", 0)
        return line if isinstance(line, int) else 0
    if isinstance(node, ast.Attribute):
        of, key = _held(machine, node.value, env), node.attr
    elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        of, key = _held(machine, node.value, env), str(node.slice.value)
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "get"
        and node.args
    ):
        of = _held(machine, node.func.value, env)
        key = str(node.args[0].value) if isinstance(node.args[0], ast.Constant) else ""
    else:
        return 0
    if isinstance(of, (Object, Call)):
        return of.lines.get(key, 0) if isinstance(of, Object) or of.inside else 0
    return machine.key_lines.get(id(of), {}).get(key, 0) if isinstance(of, dict) else 0


def _held(machine: Walker, node: ast.expr, env: Env) -> Any:
    """What a name, or a part of one, holds."""
    inner = node
    while isinstance(inner, (ast.Attribute, ast.Subscript)):
        inner = inner.value
    return machine.value(node, env) if isinstance(inner, ast.Name) and inner.id in env else None
