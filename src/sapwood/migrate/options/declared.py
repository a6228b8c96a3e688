"""argparse's own parser, made of a script's ``add_argument`` calls, reads the command; nothing is run."""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Sequence
from typing import Any, NoReturn

from sapwood.migrate.options.given import Given
from sapwood.migrate.script.found import Walker
from sapwood.migrate.script.values import Call, Function, Object, Unknown, dotted, is_plain
from sapwood.migrate.shell.words import Word

GROUPS = ("add_argument_group", "add_mutually_exclusive_group")
_CONST = {"store_true": True, "store_false": False}


class Refused(Exception):
    """argparse would end the program."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refused(message)


class _Keep(argparse.Action):
    """Writes down what was given, and by which of the option's names."""

    def __init__(self, option_strings: Sequence[str], dest: str, kind: str = "store", **more: Any) -> None:
        super().__init__(option_strings, dest, default=argparse.SUPPRESS, **more)
        self.kind = kind

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        held: dict[str, tuple[Any, str]] = vars(namespace)
        before = held[self.dest][0] if self.dest in held else None
        if self.kind == "const":
            values = self.const
        elif self.kind == "count":
            values = (before or 0) + 1
        elif self.kind == "switch":
            values = not (option_string or "").startswith("--no-")
        elif self.kind in ("append", "extend"):
            values = [*(before or []), *([values] if self.kind == "append" else values)]
        held[self.dest] = (values, option_string or "")


def root(parser: Any) -> Any:
    """The parser that a group of options belongs to."""
    while isinstance(parser, Call) and parser.last in GROUPS and isinstance(parser.of, Call):
        parser = parser.of
    return parser


def parsed(
    machine: Walker, parser: Call, words: list[Word], *, tell: bool = True
) -> tuple[Object, list[Word]]:
    """What ``parse_args`` returns, and the words that it knows no option for."""
    real, declared, names = _Parser(add_help=False), list[Call](), dict[str, Any]()
    _declare(machine, real, parser, declared, names)
    for call in declared:
        names.setdefault(_dest(call), _default(call))
    try:
        found, rest = real.parse_known_args([word.text for word in words])
    except (Refused, argparse.ArgumentError, ValueError, TypeError, AttributeError, RecursionError):
        found, rest = argparse.Namespace(), [word.text for word in words]
    values, lines = names, dict[str, int]()
    for dest, held in vars(found).items():
        if not isinstance(held, tuple):  # the name of a subcommand
            values[dest] = held
            continue
        text, option = held
        call = next((one for one in declared if _dest(one) == dest), None)
        line = _line(words, option, text)
        values[dest], lines[dest] = _typed(machine, call, text, words, line), line
        if tell:
            machine.given.tell(line, option or dest, values[dest], declared=True)
    left = [word for word in words if word.text in rest]
    if tell:
        _tell_rest(machine.given, left)
    return Object("args", values, parsed=machine.given.words is None, lines=lines), left


def _tell_rest(given: Given, left: Sequence[Word]) -> None:
    for at, word in enumerate(left):
        if word.text.startswith("-") or at == 0 or not left[at - 1].text.startswith("-"):
            after = left[at + 1].text if at + 1 < len(left) and not left[at + 1].text.startswith("-") else ""
            given.tell(word.line, word.text, after, declared=False)


def _declare(
    machine: Walker, real: argparse.ArgumentParser, parser: Call, declared: list[Call], names: dict[str, Any]
) -> None:
    for parent in parser.kwargs.get("parents") or ():
        if isinstance(parent, Call):
            _declare(machine, real, parent, declared, names)
    for call in parser.state:
        if call.last == "set_defaults":
            names.update(call.kwargs)
        elif _add(real, call):
            declared.append(call)
    sub = next((c for c in machine.script.calls if c.last == "add_subparsers" and c.of is parser), None)
    if sub is None:
        return
    dest = sub.kwargs.get("dest")
    below = real.add_subparsers(
        dest=dest if isinstance(dest, str) else argparse.SUPPRESS, parser_class=_Parser
    )
    chosen = {word.text for word in machine.given.words or ()}
    for call in machine.script.calls:
        name = call.args[0] if call.args else None
        if call.last == "add_parser" and call.of is sub and isinstance(name, str):
            inner = below.add_parser(name, add_help=False)
            own = (declared, names) if name in chosen else (list[Call](), dict[str, Any]())
            _declare(machine, inner, call, *own)


def _add(real: argparse.ArgumentParser, call: Call) -> bool:
    """Whether it could be declared."""
    flags = [name for name in call.args if isinstance(name, str)]
    if not flags:
        return False
    optional = flags[0].startswith("-")
    more: dict[str, Any] = {"dest": _dest(call)} if optional else {}
    action = call.kwargs.get("action", "store")
    kind = action if isinstance(action, str) else dotted(action).rpartition(".")[2]
    nargs = call.kwargs.get("nargs")
    if kind in ("store_true", "store_false", "store_const", "append_const"):
        more |= {"kind": "const", "nargs": 0, "const": _CONST.get(kind, call.kwargs.get("const"))}
    elif kind == "count":
        more |= {"kind": "count", "nargs": 0}
    elif kind == "BooleanOptionalAction":
        flags = [*flags, *(f"--no-{name[2:]}" for name in flags if name.startswith("--"))]
        more |= {"kind": "switch", "nargs": 0}
    elif isinstance(nargs, (str, int)):
        more |= {"kind": kind if kind in ("append", "extend") else "store", "nargs": nargs}
        if nargs == "?":
            more["const"] = call.kwargs.get("const")
    else:
        more |= {"kind": kind if kind in ("append", "extend") else "store"}
        if not optional:
            more["nargs"] = "?"
    try:
        real.add_argument(*(flags if optional else [_dest(call)]), action=_Keep, **more)
    except (ValueError, TypeError, argparse.ArgumentError):
        return False
    return True


def _dest(call: Call) -> str:
    given = call.kwargs.get("dest")
    names = [name for name in call.args if isinstance(name, str)]
    long = next((name for name in names if name.startswith("--")), names[0])
    return given if isinstance(given, str) else long.lstrip("-").replace("-", "_")


def _default(call: Call) -> Any:
    if "default" in call.kwargs:
        return call.kwargs["default"]
    action = call.kwargs.get("action")
    if action in _CONST:
        return action == "store_false"
    names = [name for name in call.args if isinstance(name, str)]
    needed = call.kwargs.get("required") or (
        not names[0].startswith("-") and call.kwargs.get("nargs") not in ("?", "*")
    )
    return Unknown(f"the option {names[0]}", call.line) if needed else None


def _line(words: Sequence[Word], option: str, text: Any) -> int:
    wanted = option or (text if isinstance(text, str) else "")
    named = [word.line for word in words if word.text.partition("=")[0] == wanted or word.text == wanted]
    return named[-1] if named else words[0].line if words else 0


def _typed(machine: Walker, call: Call | None, text: Any, words: Sequence[Word], line: int) -> Any:
    if isinstance(text, list):
        return [_typed(machine, call, one, words, line) for one in text]
    if not isinstance(text, str):
        return text
    unknown = {word.text for word in words if not word.known}
    if any(text == one or one.endswith(f"={text}") for one in unknown):
        return Unknown(text, line)
    return converted(machine, call.kwargs.get("type") if call is not None else None, text, line)


def converted(machine: Walker, kind: Any, text: str, line: int) -> Any:
    """What ``type(text)`` gives; Unknown if that isn't known."""
    if isinstance(kind, Function):
        return machine.apply(kind, [text], {}, line)
    name = dotted(kind).rpartition(".")[2] if kind is not None else "str"
    try:
        if name in ("str", "Path", "FileType", "STRING", "Choice", "File", "PurePath"):
            return text
        if name in ("int", "float", "INT", "FLOAT"):
            return int(text) if name in ("int", "INT") else float(text)
        if name == "bool":
            return bool(text)
        if "bool" in name.lower():
            return {"true": True, "yes": True, "1": True, "t": True, "y": True, "on": True}.get(
                text.lower(), False
            )
        value: Any = json.loads(text) if name == "loads" else ast.literal_eval(text)
        return value if name in ("loads", "literal_eval", "eval") and is_plain(value) else Unknown(text, line)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return Unknown(text, line)
