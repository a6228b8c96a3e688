"""HfArgumentParser, TrlParser and tyro: the fields of dataclasses are options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sapwood.migrate.options.given import Given
from sapwood.migrate.options.trl import MODEL, SCRIPT
from sapwood.migrate.script.found import Walker
from sapwood.migrate.script.outside import COMMANDED, PARSED, SHARED, sets_training
from sapwood.migrate.script.values import (
    Call,
    Class,
    Object,
    Unknown,
    dotted,
)
from sapwood.migrate.shell.words import Word, typed

PARSERS = ("HfArgumentParser", "TrlParser", "H4ArgumentParser")
_NUMBERS: dict[str, Any] = {"int": int, "float": float}
Named = dict[str, tuple[Any, int]]


def from_parser(
    machine: Walker, parser: Call, method: str, args: Sequence[Any], kwargs: dict[str, Any]
) -> Any:
    """What a method of such a parser returns: one object for each class."""
    classes = parser.args[0] if parser.args else parser.kwargs.get("dataclass_types", [])
    classes = list(classes) if isinstance(classes, (list, tuple)) else [classes]
    first = args[0] if args else next(iter(kwargs.values()), None)
    if method in ("parse_yaml_file", "parse_json_file"):
        named, rest = _of_file(machine.given, first, parser.line), []
    elif method == "parse_dict" and isinstance(first, dict):
        lines = machine.key_lines.get(id(first), {})
        named, rest = {str(key): (value, lines.get(str(key), 0)) for key, value in first.items()}, []
    else:
        named, rest = _of_command(machine.given, parser.last)
    made = [_made(machine, one, named, classes, parser.line) for one in classes]
    for name, (value, line) in named.items():
        machine.given.tell(line, name, value, declared=any(_has(one, name, classes) for one in classes))
    return (
        (*made, rest)
        if kwargs.get("return_remaining_strings") or method == "parse_known_args"
        else tuple(made)
    )


def one_of(machine: Walker, made: Class, line: int) -> Any:
    """``tyro.cli(Class)``"""
    named, _ = _of_command(machine.given, "tyro")
    for name, (value, at) in named.items():
        machine.given.tell(at, name, value, declared=name in made.fields)
    return _made(machine, made, named, [made], line)


# --- what is given ----------------------------------------------------------------------------------------


def _of_command(given: Given, parser: str) -> tuple[Named, list[Any]]:
    """By name: a config's keys first, which the command's own options take over."""
    words = list(given.words or ())
    out: Named = {}
    if parser == "H4ArgumentParser" and words and not words[0].text.startswith("-"):
        out |= _of_file(given, words[0].text, words[0].line)
        words = words[1:]
    found, rest = options(words)
    if parser == "TrlParser" and "config" in found:
        values, line = found.pop("config")
        out |= _of_file(given, values[0].text if values else "", line)
    for name, (values, line) in found.items():
        out[name] = (_value(given, values), line)
    return out, [given.value(word) for word in rest]


def options(words: Sequence[Word]) -> tuple[dict[str, tuple[list[Word], int]], list[Word]]:
    """``--name value …`` and ``--name=value``, and the words before the first."""
    found: dict[str, tuple[list[Word], int]] = {}
    rest: list[Word] = []
    current: list[Word] = rest
    for word in words:
        if word.text.startswith("--") and len(word.text) > 2:
            name, equals, value = word.text[2:].partition("=")
            current = [Word(value, word.line, word.known)] if equals else []
            found[name.replace("-", "_")] = (current, word.line)
        elif word.text not in (";", "&"):
            current.append(word)
    return found, rest


def _value(given: Given, values: Sequence[Word]) -> Any:
    if not values:
        return True
    read = [typed(word.text) if word.known else Unknown(word.text, word.line) for word in values]
    return read[0] if len(read) == 1 else read


def _of_file(given: Given, name: Any, line: int) -> Named:
    found = given.config(name) if isinstance(name, str) else None
    if found is None:
        text = name if isinstance(name, str) else dotted(name)
        if given.words is not None and name:
            given.tell(line, "config", Unknown(text, line), declared=True)
        return {}
    values, lines = found
    return {key: (value, lines.get(key, line)) for key, value in values.items()}


# --- what becomes of it -----------------------------------------------------------------------------------


def _has(one: Any, name: str, classes: Sequence[Any]) -> bool:
    """Whether an option is a class's: a library's training arguments take what no other class has."""
    if isinstance(one, Class):
        known = _field(one, name) is not None
        return known or (sets_training(one.parent) and not _elsewhere(one, name, classes))
    last = dotted(one).rpartition(".")[2]
    if last in _LIBRARY:
        return name in _LIBRARY[last]
    return not _elsewhere(one, name, classes)


def _elsewhere(one: Any, name: str, classes: Sequence[Any]) -> bool:
    return any(
        (isinstance(other, Class) and _field(other, name) is not None)
        or (not isinstance(other, Class) and name in _LIBRARY.get(dotted(other).rpartition(".")[2], ()))
        for other in classes
        if other is not one
    )


def _is_foreign(one: Any) -> bool:
    """A class of which nothing is known: each option may be its own."""
    name = dotted(one)
    return not isinstance(one, Class) and not sets_training(name) and name.rpartition(".")[2] not in _LIBRARY


_LIBRARY: dict[str, Any] = {"ModelConfig": MODEL, "ScriptArguments": SCRIPT, "SFTScriptArguments": SCRIPT}


def _field(made: Class, name: str) -> str | None:
    """A field's name; ``no_flag`` is its contrary."""
    if name in made.fields:
        return name
    return name[3:] if name.startswith("no_") and name[3:] in made.fields else None


def _made(machine: Walker, one: Any, named: Named, classes: Sequence[Any], line: int) -> Any:
    commanded = machine.given.words is not None or bool(named)
    own = {name: both for name, both in named.items() if _has(one, name, classes)}
    if not isinstance(one, Class):
        last = dotted(one).rpartition(".")[2]
        values = {**_LIBRARY.get(last, {}), **{name: value for name, (value, _) in own.items()}}
        lines = {name: at for name, (_, at) in own.items()}
        inside = COMMANDED if commanded else PARSED
        made = Call(dotted(one), line, kwargs=values if commanded else {}, lines=lines, inside=inside)
        if any(_is_foreign(other) for other in classes):
            made.attrs[SHARED] = True
        return made
    fields, lines = dict(one.fields), dict[str, int]()
    for name, (value, at) in own.items():
        field = _field(one, name) or name
        said = value if field == name else not value
        fields[field], lines[field] = _as_annotated(one.kinds.get(field, ""), said, at), at
    return Object(one.node.name, fields, one, parsed=not commanded, lines=lines)


def _as_annotated(kind: str, value: Any, line: int) -> Any:
    """kind: the annotation, as it is written."""
    if isinstance(value, (Unknown, bool)) or value is None:
        return value
    low = kind.lower()
    if "list[" in low or "tuple[" in low:
        inner = kind[low.index("[") + 1 :]
        return [_as_annotated(inner, one, line) for one in (value if isinstance(value, list) else [value])]
    told = [name for name in ("int", "float", "str", "bool") if name in low]
    if told == ["str"] and not isinstance(value, (list, dict)):
        return value if isinstance(value, str) else str(value)
    do = _NUMBERS.get(told[0]) if len(told) == 1 else None
    try:
        return do(value) if do is not None else value
    except (TypeError, ValueError):
        return Unknown(str(value), line)
