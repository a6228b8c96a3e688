"""Calls: the script's own functions; what is known of Python's, of tokenizers, argparse and datasets."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from sapwood.migrate.options import calls as options
from sapwood.migrate.script.access import attribute, item
from sapwood.migrate.script.builtin import BUILTINS
from sapwood.migrate.script.classes import instance
from sapwood.migrate.script.found import Env, Walker
from sapwood.migrate.script.outside import FIRST
from sapwood.migrate.script.strings import STRINGS, is_tokenizer, string_method, tokenize, tokenizer_method
from sapwood.migrate.script.values import (
    MAX_HELD,
    Attr,
    Call,
    Chat,
    Class,
    Coded,
    Field,
    Function,
    Ids,
    Module,
    Object,
    Ones,
    Row,
    Special,
    Text,
    Unknown,
    as_ids,
    dotted,
    is_too_much,
)

_SAME = {"list", "tuple", "copy", "deepcopy", "clone", "tolist", "tensor", "LongTensor", "array", "asarray",
         "squeeze", "to", "long", "detach", "dict", "cat", "concatenate", "cuda", "flatten"}  # fmt: skip
_MAPS = ("map", "apply")


def call(machine: Walker, node: ast.Call, env: Env) -> Any:
    function = node.func
    if isinstance(function, ast.Attribute):
        of = machine.value(function.value, env)
        callee = attribute(of, function.attr, node.lineno)
    else:
        of, callee = None, machine.value(function, env)
    args, kwargs, lines = _arguments(machine, node, env)
    if isinstance(callee, Function):
        return machine.apply(callee, args, kwargs, node.lineno)
    if isinstance(callee, Class):
        return instance(machine, callee, args, kwargs, node.lineno)
    if isinstance(function, ast.Attribute):
        done, value = _method(machine, of, function.attr, args, kwargs, lines, node, env)
        if done:
            return value
    if is_tokenizer(callee) and not (isinstance(callee, Attr) and callee.name == "from_pretrained"):
        _remember(machine, "encode", args, kwargs, lines, node.lineno)
        return tokenize(args, kwargs, node.lineno)
    return _library(machine, node, of, callee, args, kwargs, lines)


def _arguments(machine: Walker, node: ast.Call, env: Env) -> tuple[list[Any], dict[str, Any], dict[str, int]]:
    args: list[Any] = []
    for argument in node.args:
        if isinstance(argument, ast.Starred):
            inner = machine.value(argument.value, env)
            args += inner if isinstance(inner, (list, tuple)) else [inner]
        else:
            args.append(machine.value(argument, env))
    kwargs: dict[str, Any] = {}
    came = options.origin(machine, node.args[0], env) if node.args else 0
    lines: dict[str, int] = {FIRST: came} if came else {}
    for keyword in node.keywords:
        value = machine.value(keyword.value, env)
        if keyword.arg is not None:
            kwargs[keyword.arg] = value
            came = options.origin(machine, keyword.value, env)
            lines[keyword.arg] = came or keyword.lineno
            if came:
                lines[f"\0{keyword.arg}"] = keyword.lineno
        elif isinstance(value, dict):
            kwargs.update({str(k): v for k, v in value.items()})
            known = machine.key_lines.get(id(value), {})
            lines.update({str(k): known.get(str(k), keyword.lineno) for k in value})
        elif isinstance(value, Row):
            kwargs["**"] = value
        else:
            kwargs.setdefault("**", value)
            lines.setdefault("**", keyword.lineno)
    return args, kwargs, lines


# --- methods ----------------------------------------------------------------------------------------------


def _method(
    machine: Walker,
    of: Any,
    name: str,
    args: list[Any],
    kwargs: dict[str, Any],
    lines: dict[str, int],
    node: ast.Call,
    env: Env,
) -> tuple[bool, Any]:
    line = node.lineno
    if isinstance(of, (str, Text, Field, Special)) and name in STRINGS:
        return True, string_method(machine, of, name, args, kwargs, node)
    if isinstance(of, Chat) and name in STRINGS:
        return True, of
    if isinstance(of, list) and name in ("append", "extend", "insert"):
        _grow(of, name, args)
        return True, None
    if isinstance(of, Ids) and name in ("append", "extend"):
        value = as_ids(args[0] if name == "extend" else [args[0]]) if args else None
        whole = Ids((*of.parts, *(value.parts if value else (Unknown("?", line),))), of.cuts, of.masks)
        if isinstance(node.func, ast.Attribute):
            machine.bind(node.func.value, whole, env)
        return True, None
    if isinstance(of, dict) and name in _DICTS:
        return True, _DICTS[name](of, args)
    if isinstance(of, (Row, Field, Coded)) and name in ("get", "pop") and args:
        return True, item(of, args[0], line)
    if isinstance(of, Row) and name in ("items", "keys", "values", "copy", "to_dict"):
        return True, of
    if isinstance(of, (Ids, Coded, Ones, Field, Row, list, tuple, dict)) and name in _SAME:
        return True, of.copy() if isinstance(of, (list, dict)) else of
    if isinstance(of, Module) and name in _SAME and len(args) >= 1 and as_ids(_only(args[0])) is not None:
        return True, as_ids(_only(args[0]))
    if is_tokenizer(of):
        _remember(machine, name, args, kwargs, lines, line)
        return tokenizer_method(name, args, kwargs, line)
    return options.method(machine, of, name, args, kwargs, line)


def _remember(
    machine: Walker, name: str, args: list[Any], kwargs: dict[str, Any], lines: dict[str, int], line: int
) -> None:
    """Note calls that the rules ask for, but that leave no `Call`."""
    text = _only(args[0]) if args else kwargs.get("text", kwargs.get("conversation"))
    if name == "apply_chat_template":
        machine.script.chats.append((args[0] if args else text, line))
        machine.script.templated.append(Call(name, line, args, kwargs, lines))
    elif name == "encode" and kwargs.get("add_special_tokens", True) is not False:
        if isinstance(text, Text) and any(isinstance(part, Chat) for part in text.parts):
            machine.script.retokenized.append(line)
        elif isinstance(args[0] if args else None, Ids):
            machine.script.encoded_ids.append(line)


def _only(value: Any) -> Any:
    return value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value


def _grow(values: list[Any], name: str, args: list[Any]) -> None:
    if is_too_much(args, values) or len(values) > MAX_HELD:
        return
    if name == "append" and args:
        values.append(args[0])
    elif name == "insert" and len(args) == 2 and isinstance(args[0], int):
        values.insert(args[0], args[1])
    elif name == "extend" and args:
        inner = args[0]
        values.extend(inner if isinstance(inner, (list, tuple)) else [inner])


_DICTS: dict[str, Callable[[dict[Any, Any], list[Any]], Any]] = {
    "get": lambda of, args: of.get(args[0], args[1] if len(args) > 1 else None) if args else None,
    "pop": lambda of, args: of.pop(args[0], args[1] if len(args) > 1 else None) if args else None,
    "items": lambda of, args: list(of.items()),
    "keys": lambda of, args: list(of),
    "values": lambda of, args: list(of.values()),
    "update": lambda of, args: of.update(args[0]) if args and isinstance(args[0], dict) else None,
    "setdefault": lambda of, args: of.setdefault(*args[:2]) if len(args) == 2 else None,
    "copy": lambda of, args: dict(of),
}


# --- whatever else --------------------------------------------------------------------------------------


def _library(
    machine: Walker,
    node: ast.Call,
    of: Any,
    callee: Any,
    args: list[Any],
    kwargs: dict[str, Any],
    lines: dict[str, int],
) -> Any:
    name, line = dotted(callee), node.lineno
    builtin = BUILTINS.get(name) if isinstance(callee, Unknown) else None
    if builtin is not None:
        return builtin(args, node)
    last = name.rpartition(".")[2]
    if (
        last in _SAME
        and args
        and (ids := as_ids(_only(args[0]))) is not None
        and not isinstance(args[0], list)
    ):
        return ids
    if name in ("dict", "Namespace", "argparse.Namespace", "types.SimpleNamespace", "SimpleNamespace"):
        return _keyed(machine, name, args, kwargs, lines)
    if name.endswith("path.join") and all(isinstance(a, str) for a in args) and args:
        return "/".join(str(a).rstrip("/") if i < len(args) - 1 else str(a) for i, a in enumerate(args))
    done, value = options.function(machine, name, callee, args, kwargs, node)
    if done:
        return value
    if last == "partial" and args and isinstance(args[0], Function):
        return Function(args[0].node, args[0].env, {**args[0].preset, **kwargs})
    receiver = of if isinstance(of, (Call, Attr, Object, Module, Unknown, str)) else None
    made = Call(
        name, line, args, kwargs, lines, receiver, inside=machine.inside[-1] if machine.inside else ""
    )
    machine.script.calls.append(made)
    _mapped(machine, made)
    return made


def _keyed(machine: Walker, name: str, args: list[Any], kwargs: dict[str, Any], lines: dict[str, int]) -> Any:
    """``dict(a=1)`` and ``Namespace(a=1)``."""
    whole = {**(args[0] if args and isinstance(args[0], dict) else {}), **kwargs}
    if name != "dict":
        return Object("args", whole, parsed=machine.given.words is None)
    machine.key_lines[id(whole)] = lines
    machine.script.kept.append(whole)
    return whole


def root(value: Any) -> Any:
    """What `data["train"]` is a part of."""
    while isinstance(value, Attr):
        value = value.of
    return value


def _mapped(machine: Walker, made: Call) -> None:
    """`dataset.map(function)`: what the function makes of a row, which later functions see."""
    given = made.kwargs.get("formatting_func")
    if isinstance(given, Function) and machine.choices is None:
        rows = root(made.kwargs.get("train_dataset"))
        machine.format(given, rows.columns if isinstance(rows, Call) else {}, made.line, mapped=True)
    source = root(made.of)
    if isinstance(source, Call):
        made.columns = dict(source.columns)
    if made.last not in _MAPS or machine.choices is not None:
        return
    function = next((v for v in (*made.args[:1], *made.kwargs.values()) if isinstance(v, Function)), None)
    if function is None or not function.parameters:
        return
    extra = made.kwargs.get("fn_kwargs")
    if isinstance(extra, dict):
        function = Function(function.node, function.env, {**function.preset, **extra})
    found = machine.format(function, made.columns, made.line, mapped=True)
    result = next((way.result for way in found.ways if way.result is not None), None)
    if isinstance(result, dict):
        made.columns.update(
            {str(k): _only(v) if isinstance(v, list) and k == "text" else v for k, v in result.items()}
        )
    elif isinstance(result, Row):
        made.columns.update(result.columns)
