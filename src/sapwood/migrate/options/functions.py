"""fire, click and typer: functions whose parameters are options."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from sapwood.migrate.options.declared import parsed
from sapwood.migrate.options.parsers import options
from sapwood.migrate.script.found import Env, Walker
from sapwood.migrate.script.values import Attr, Call, Function, Module, Unknown, dotted
from sapwood.migrate.shell.words import Word, typed


def fired(machine: Walker, args: Sequence[Any], line: int) -> Any:
    """``fire.Fire(function)``, ``fire.Fire({"train": function})``, ``fire.Fire()``"""
    words = list(machine.given.words or ())
    what = args[0] if args else machine.script.names
    if isinstance(what, dict):
        chosen = what.get(words[0].text) if words else None
        what, words = (chosen if chosen is not None else next(iter(what.values()), None)), words[1:]
    if not isinstance(what, Function):
        return Unknown("Fire()", line)
    found, places = options(words)
    known = {*what.parameters, *(a.arg for a in what.node.args.kwonlyargs)}
    given: dict[str, Any] = {}
    for name, (values, at) in found.items():
        contrary = name.startswith("no") and name[2:] in known and not values
        value = not contrary if not values else _literal(values[0])
        given[name[2:] if contrary else name] = value
        any_name = what.node.args.kwarg is not None
        machine.given.tell(at, f"--{name}", value, declared=name in known or contrary or any_name)
    lines = {name: at for name, (_, at) in found.items()}
    ready = Function(what.node, what.env, lines=lines)
    return machine.apply(ready, [_literal(word) for word in places], given, line)


def _literal(word: Word) -> Any:
    """As fire reads it: a Python value if it is one."""
    if not word.known:
        return Unknown(word.text, word.line)
    try:
        return ast.literal_eval(word.text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return typed(word.text) if word.text.startswith("[") else word.text


def preset(machine: Walker, function: Function) -> tuple[dict[str, Any], dict[str, int]]:
    """What click's decorators give a function, with the lines; typer's app remembers its function."""
    state: list[Call] = []
    for decorator in getattr(function.node, "decorator_list", ()):
        call = machine.value(decorator, function.env) if isinstance(decorator, ast.Call) else None
        if isinstance(call, Call) and call.name in ("click.option", "click.argument"):
            state.append(_clicked(call))
        elif isinstance(call, Call) and call.last == "command" and "Typer" in dotted(call.of):
            call.of.attrs["command"] = function
    if not state:
        return {}, {}
    words = list(machine.given.words or ())
    values, _ = parsed(machine, Call("parser", function.node.lineno, state=state), words)
    return values.attrs, values.lines


def _clicked(call: Call) -> Call:
    names = [name for name in call.args if isinstance(name, str)]
    more = {key: call.kwargs[key] for key in ("default", "type", "required", "nargs") if key in call.kwargs}
    plain = [name for name in names if not name.startswith("-")]
    flags = [name for name in names if name.startswith("-")]
    if call.name == "click.argument":
        return Call(
            "add_argument",
            call.line,
            names[:1],
            {**more, "required": True} if "default" not in more else more,
        )
    if flags and "/" in flags[0]:
        flags = [flags[0].partition("/")[0].strip()]
        more["action"] = "BooleanOptionalAction"
    elif call.kwargs.get("is_flag"):
        more["action"] = "store_true"
    elif call.kwargs.get("multiple"):
        more["action"] = "append"
    if "type" not in more and isinstance(default := more.get("default"), (int, float)):
        more["type"] = Module(type(default).__name__)
    if plain:
        more["dest"] = plain[0]
    return Call("add_argument", call.line, flags or names, more)


def typed_function(machine: Walker, function: Function, line: int) -> Any:
    """``typer.run(function)``: its parameters by name, type and default."""
    arguments = function.node.args
    parameters = [*arguments.posonlyargs, *arguments.args]
    missing = len(parameters) - len(arguments.defaults)
    defaults = [None] * missing + list(arguments.defaults)
    pairs = [
        *zip(parameters, defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    state = [_parameter(machine, one, default, function) for one, default in pairs if one.arg != "self"]
    values, _ = parsed(machine, Call("parser", line, state=state), list(machine.given.words or ()))
    return machine.apply(
        Function(function.node, function.env, values.attrs, lines=values.lines), [], {}, line
    )


def _parameter(machine: Walker, one: ast.arg, default: ast.expr | None, function: Function) -> Call:
    kind = ast.unparse(one.annotation) if one.annotation is not None else "str"
    value = machine.value(default, function.env) if default is not None else Unknown(one.arg, one.lineno)
    said = _annotated(machine, one.annotation, function.env)
    flags: list[Any] = list(said.args) if said is not None else []
    positional = default is None and (said is None or said.last == "Argument")
    if isinstance(value, Call) and value.last in ("Option", "Argument"):
        flags, positional = list(value.args[1:]), value.last == "Argument"
        first = value.args[0] if value.args else value.kwargs.get("default", Unknown(one.arg, one.lineno))
        value = Unknown(one.arg, one.lineno) if isinstance(first, (Attr, Module)) or first is ... else first
    names = [flag.partition("/")[0] for flag in flags if isinstance(flag, str) and flag.startswith("-")]
    more: dict[str, Any] = {"default": value, "dest": one.arg}
    name = next((name for name in ("bool", "float", "int") if name in kind.lower()), "str")
    if name == "bool":
        more["action"] = "BooleanOptionalAction"
    elif name != "str":
        more["type"] = Module(name)
    if positional:
        return Call("add_argument", one.lineno, [one.arg], {key: more[key] for key in more if key != "dest"})
    return Call("add_argument", one.lineno, names or [f"--{one.arg.replace('_', '-')}"], more)


def _annotated(machine: Walker, annotation: ast.expr | None, env: Env) -> Call | None:
    """The ``typer.Option`` inside of ``Annotated[…]``."""
    if not isinstance(annotation, ast.Subscript) or not ast.unparse(annotation.value).endswith("Annotated"):
        return None
    inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else []
    found = [machine.value(one, env) for one in inner[1:] if isinstance(one, ast.Call)]
    return next((one for one in found if isinstance(one, Call) and one.last in ("Option", "Argument")), None)
