"""What the walk through a script found, and what the parts of the walk need of each other."""

from __future__ import annotations

import ast
from collections import ChainMap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sapwood.migrate.options.given import Given
from sapwood.migrate.script.values import Call, Class, Function

Env = ChainMap[str, Any]


@dataclass(frozen=True, slots=True)
class Assigned:
    """``of.name = value``."""

    of: Any
    name: str
    value: Any
    line: int


@dataclass(frozen=True, slots=True)
class Way:
    """One way through a formatting function: what was supposed, and what it returns."""

    supposed: tuple[tuple[str, bool, int], ...]
    result: Any


@dataclass(frozen=True, slots=True)
class Formatting:
    """A function that makes text or ids of a row. mapped: given to map() or a trainer in the script."""

    function: Function
    ways: tuple[Way, ...]
    line: int
    mapped: bool


@dataclass(slots=True)
class Script:
    """Everything that was found. guessed: tests whose result isn't known. optional: tests of options that a
    command line may set, and what their defaults give."""

    calls: list[Call] = field(default_factory=list[Call])
    assigned: list[Assigned] = field(default_factory=list[Assigned])
    undefined: dict[str, int] = field(default_factory=dict[str, int])
    guessed: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    optional: list[tuple[str, bool, int]] = field(default_factory=list[tuple[str, bool, int]])
    imported: dict[str, int] = field(default_factory=dict[str, int])
    formattings: list[Formatting] = field(default_factory=list[Formatting])
    classes: list[Class] = field(default_factory=list[Class])
    rounds: list[tuple[Any, int]] = field(default_factory=list[tuple[Any, int]])  # turns of a training loop
    functions: list[Function] = field(default_factory=list[Function])
    names: dict[str, Any] = field(default_factory=dict[str, Any])
    chats: list[tuple[Any, int]] = field(
        default_factory=list[tuple[Any, int]]
    )  # messages given to a template
    templated: list[Call] = field(default_factory=list[Call])  # the calls of apply_chat_template
    retokenized: list[int] = field(default_factory=list[int])  # templated text that gets special tokens again
    encoded_ids: list[int] = field(default_factory=list[int])  # encode() of a list of ids
    kept: list[Any] = field(default_factory=list[Any])  # dicts whose lines are known by their id


class Walker(Protocol):
    """See `machine.Machine`."""

    script: Script
    given: Given
    key_lines: dict[int, dict[str, int]]
    choices: list[bool] | None
    inside: list[str]
    modules: dict[Path, dict[str, Any]]

    def run(self, body: Sequence[ast.stmt], env: Env) -> None: ...
    def value(self, node: ast.expr | None, env: Env) -> Any: ...
    def decide(self, test: ast.expr, env: Env) -> bool: ...
    def bind(self, target: ast.expr, value: Any, env: Env) -> None: ...
    def apply(self, function: Function, args: Sequence[Any], kwargs: dict[str, Any], line: int) -> Any: ...
    def format(
        self, function: Function, columns: dict[str, Any], line: int, *, mapped: bool
    ) -> Formatting: ...
