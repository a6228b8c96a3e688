"""What an expression of a script can be known to be, without running it.

Plain Python values stand for themselves; the rest is below. `Text` and `Ids` are strings and token lists of
which parts come from the row.
"""

from __future__ import annotations

import ast
from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sapwood.migrate.script.outside import UNSET, sets_training


@dataclass(frozen=True, slots=True)
class Unknown:
    """What couldn't be followed: its source text and its line."""

    text: str
    line: int = 0


@dataclass(frozen=True, slots=True)
class Field:
    """A column of the row, or something below it: ("messages", "*", "content")."""

    path: tuple[str, ...]
    line: int = 0

    @property
    def name(self) -> str:
        return self.path[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Field) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)


@dataclass(frozen=True, slots=True)
class Special:
    """A token by its role (eos, pad, bos, unk) or by its own name."""

    name: str
    line: int = 0


@dataclass(frozen=True, slots=True)
class Chat:
    """What the tokenizer's own template makes of messages: a Field, or a list of dicts."""

    messages: Any
    generation: bool
    line: int = 0


Part = str | Field | Special | Chat | Unknown


@dataclass(frozen=True, slots=True)
class Text:
    """A string in parts."""

    parts: tuple[Part, ...]
    line: int = 0


@dataclass(frozen=True, slots=True)
class Encoded:
    """Ids of a text. specials: the tokenizer may put its begin and end around it; limit: its max_length, and
    cuts: whether truncation was asked for by name; padding: as it was asked for."""

    text: Text
    specials: bool = False
    limit: Any = None
    cuts: bool = False
    padding: Any = None
    line: int = 0


@dataclass(frozen=True, slots=True)
class Filler:
    """``[value] * times``."""

    value: Any
    times: Any
    line: int = 0


@dataclass(frozen=True, slots=True)
class Ids:
    """A list of ids. cut: (at, line) of a slice that keeps its beginning; masks: what became -100."""

    parts: tuple[Encoded | Special | Filler | Unknown, ...]
    cuts: tuple[tuple[Any, int], ...] = ()
    masks: tuple[Mask, ...] = ()


@dataclass(frozen=True, slots=True)
class Mask:
    """Labels set to -100: the first `upto` ids, or those equal to `equal`."""

    line: int
    upto: Any = None
    equal: Any = None


@dataclass(frozen=True, slots=True)
class Len:
    of: Any


@dataclass(slots=True, eq=False)
class Coded:
    """What calling a tokenizer gives; extra: keys that the script adds."""

    ids: Ids
    extra: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Ones:
    """An attention mask."""


@dataclass(frozen=True, slots=True)
class Row:
    """The row that a formatting function gets; columns: those that an earlier function made."""

    columns: Mapping[str, Any]


@dataclass(slots=True, eq=False, repr=False)
class Call:
    """A call of something that isn't defined in the script.

    name: dotted, as it is written after imports are resolved; lines: of each keyword; attrs: what was set on
    the result; columns: of a mapped dataset; state: what methods of it were called (add_argument …).
    """

    name: str
    line: int
    args: list[Any] = field(default_factory=list[Any])
    kwargs: dict[str, Any] = field(default_factory=dict[str, Any])
    lines: dict[str, int] = field(default_factory=dict[str, int])
    of: Any = None
    attrs: dict[str, Any] = field(default_factory=dict[str, Any])
    columns: dict[str, Any] = field(default_factory=dict[str, Any])
    state: list[Call] = field(default_factory=list)
    inside: str = ""

    @property
    def last(self) -> str:
        return self.name.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class Attr:
    """An attribute of something known only by name."""

    of: Any
    name: str
    line: int = 0

    @property
    def dotted(self) -> str:
        return f"{dotted(self.of)}.{self.name}"


@dataclass(frozen=True, slots=True)
class Module:
    """Something imported."""

    name: str


@dataclass(slots=True, eq=False, repr=False)
class Object:
    """An instance with known attributes: of a class of the script, or what argparse returns.

    parsed: a command line may change them. lines: of those that a command line or a config gave.
    """

    name: str
    attrs: dict[str, Any]
    made_by: Class | None = None
    parsed: bool = False
    lines: dict[str, int] = field(default_factory=dict[str, int])

    def items(self) -> dict[str, Any]:
        """The result of ``vars()``, with a library's own defaults."""
        inherited = UNSET if self.made_by is not None and sets_training(self.made_by.parent) else {}
        return {**inherited, **self.attrs}


@dataclass(slots=True, eq=False, repr=False)
class Class:
    """parent: dotted name of a library's class that it is made from.

    lines, kinds: line and annotation of each field.
    """

    node: ast.ClassDef
    fields: dict[str, Any]
    parent: str = ""
    lines: dict[str, int] = field(default_factory=dict[str, int])
    methods: dict[str, Function] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(slots=True, eq=False, repr=False)
class Function:
    """preset: arguments that are given already, and their lines. owner: the object that it is a method of."""

    node: ast.FunctionDef | ast.Lambda
    env: ChainMap[str, Any]
    preset: dict[str, Any] = field(default_factory=dict[str, Any])
    owner: Object | None = None
    lines: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def name(self) -> str:
        return self.node.name if isinstance(self.node, ast.FunctionDef) else "lambda"

    @property
    def parameters(self) -> list[str]:
        arguments = self.node.args
        return [a.arg for a in (*arguments.posonlyargs, *arguments.args) if a.arg not in ("self", "cls")]


MAX_TEXT = 1 << 18  # characters of a text that a script puts together
MAX_HELD, MAX_NESTED = 5_000, 50  # values of a list or dict, with those inside of them
PLAIN = (str, int, float, bool, type(None))


def is_too_much(value: Any, into: Any = None) -> bool:
    """Whether lists and dicts hold more than can be looked through, or hold the list `into` which they are
    put."""
    todo, seen = [(value, 0)], 0
    while todo:
        one, depth = todo.pop()
        seen += 1
        if seen > MAX_HELD or depth > MAX_NESTED or (into is not None and one is into):
            return True
        if isinstance(one, (list, tuple)):
            todo += [(inner, depth + 1) for inner in one]
        elif isinstance(one, dict):
            todo += [(inner, depth + 1) for inner in one.values()]
    return False


def is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(is_plain(v) for v in value.values())
    return isinstance(value, PLAIN)


def dotted(value: Any) -> str:
    """A name for a value that is no plain one."""
    if isinstance(value, Module):
        return value.name
    if isinstance(value, Attr):
        return value.dotted
    if isinstance(value, Call):
        return f"{value.name}()"
    if isinstance(value, Unknown):
        return value.text
    if isinstance(value, (Special, Object, Function)):
        return value.name
    return type(value).__name__


def as_text(value: Any, line: int = 0) -> Text:
    """Anything as a string in parts; neighbouring literals are joined."""
    if isinstance(value, Text):
        return value
    if isinstance(value, (Field, Special, Chat)):
        return Text((value,), line)
    if isinstance(value, PLAIN):
        return Text((str(value),) if value != "" else (), line)
    if isinstance(value, Unknown):
        return Text((value,), line)
    return Text((Unknown(dotted(value), line),), line)


def joined(parts: Iterator[Part], line: int = 0) -> Text:
    """Neighbouring literals become one; a text that grows beyond all measure is unknown."""
    out: list[Part] = []
    size = 0
    for part in parts:
        size += len(part) if isinstance(part, str) else 1
        if size > MAX_TEXT:
            return Text((Unknown("a very long text", line),), line)
        if isinstance(part, str) and out and isinstance(out[-1], str):
            out[-1] += part
        elif part != "":
            out.append(part)
    return Text(tuple(out), line)


def concat(left: Any, right: Any, line: int = 0) -> Text:
    return joined(iter((*as_text(left).parts, *as_text(right).parts)), line)


def plain_text(value: Text) -> str | None:
    """The string, if nothing in it comes from a row."""
    if all(isinstance(part, str) for part in value.parts):
        return "".join(str(part) for part in value.parts)
    return None


def as_ids(value: Any) -> Ids | None:
    """A list of tokens, or None if it isn't one."""
    if isinstance(value, Ids):
        return value
    if isinstance(value, Coded):
        return value.ids
    if isinstance(value, list):
        parts: list[Any] = []
        for item in value:
            if isinstance(item, Special):
                parts.append(item)
            elif isinstance(item, int) and not isinstance(item, bool):
                parts.append(Filler(item, 1))
            elif (inner := as_ids(item)) is not None and len(value) == 1:
                return inner
            else:
                return None
        return Ids(tuple(parts))
    return None
