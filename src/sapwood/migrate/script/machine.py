"""Walks a script's statements with descriptions of values in place of values. Constants are followed through
variables, functions, dataclasses and argparse, and every call of a library is written down. Nothing is run.
"""

from __future__ import annotations

import ast
from collections import ChainMap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sapwood.migrate.options.functions import preset
from sapwood.migrate.options.given import Given
from sapwood.migrate.script.classes import define
from sapwood.migrate.script.expressions import evaluate
from sapwood.migrate.script.found import Assigned, Env, Formatting, Script, Way
from sapwood.migrate.script.imports import bind_from, bind_import
from sapwood.migrate.script.library import call
from sapwood.migrate.script.loops import elements, rounds
from sapwood.migrate.script.outside import PARSED
from sapwood.migrate.script.values import (
    Attr,
    Call,
    Chat,
    Coded,
    Encoded,
    Field,
    Function,
    Ids,
    Len,
    Mask,
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
from sapwood.migrate.shell.words import Word

MAX_STEPS = 200_000  # statements and expressions that are looked at
MAX_DEPTH = 12  # functions inside functions
MAX_PATHS = 16  # ways through a formatting function
MAX_TURNS = 64  # of a loop over known values


class Returned(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


class Skipped(Exception):
    """`continue`, `break` or `raise`."""


class Machine:
    """One walk. `choices`: what a formatting function supposes at the tests that nothing is known of."""

    def __init__(self, given: Given) -> None:
        self.script = Script()
        self.given = given
        self.globals: Env = ChainMap(self.script.names)
        self.steps = 0
        self.depth = 0
        self.inside: list[str] = []
        self.running: list[int] = []
        self.choices: list[bool] | None = None
        self.supposed: list[tuple[str, bool, int]] = []
        self.key_lines: dict[int, dict[str, int]] = {}
        self.called: set[int] = set()
        self.modules: dict[Path, dict[str, Any]] = {}

    def value(self, node: ast.expr | None, env: Env) -> Any:
        self.steps += 1
        if node is None:
            return None
        if self.steps > MAX_STEPS or self.depth > 200:
            return Unknown(ast.unparse(node)[:80], node.lineno)
        self.depth += 1
        try:
            found = call(self, node, env) if isinstance(node, ast.Call) else evaluate(self, node, env)
            made = isinstance(found, (list, tuple, dict)) and not isinstance(node, (ast.Name, ast.Constant))
            return Unknown(ast.unparse(node)[:80], node.lineno) if made and is_too_much(found) else found
        finally:
            self.depth -= 1

    def run(self, body: Sequence[ast.stmt], env: Env) -> None:
        for statement in body:
            self.steps += 1
            if self.steps <= MAX_STEPS:
                self.statement(statement, env)

    def statement(self, node: ast.stmt, env: Env) -> None:
        do = getattr(self, f"_{type(node).__name__.lower()}", None)
        if do is not None:
            do(node, env)

    # --- names ---------------------------------------------------------------------------------------------

    def _import(self, node: ast.Import, env: Env) -> None:
        bind_import(self, node, env)

    def _importfrom(self, node: ast.ImportFrom, env: Env) -> None:
        bind_from(self, node, env)

    def _assign(self, node: ast.Assign, env: Env) -> None:
        value = self.value(node.value, env)
        for target in node.targets:
            self.bind(target, value, env)

    def _annassign(self, node: ast.AnnAssign, env: Env) -> None:
        if node.value is not None:
            self.bind(node.target, self.value(node.value, env), env)

    def _augassign(self, node: ast.AugAssign, env: Env) -> None:
        load = ast.parse(ast.unparse(node.target), mode="eval").body
        both = ast.copy_location(ast.BinOp(load, node.op, node.value), node)
        ast.fix_missing_locations(both)
        self.bind(node.target, self.value(both, env), env)

    def bind(self, target: ast.expr, value: Any, env: Env) -> None:
        if isinstance(target, ast.Name):
            env[target.id] = value
        elif isinstance(target, ast.Starred):
            self.bind(target.value, value, env)
        elif isinstance(target, (ast.Tuple, ast.List)):
            for inner, part in zip(target.elts, self._apart(value, len(target.elts)), strict=False):
                self.bind(inner, part, env)
        elif isinstance(target, ast.Attribute):
            self._set_attribute(target, value, env)
        elif isinstance(target, ast.Subscript):
            self._set_item(target, value, env)

    def _apart(self, value: Any, count: int) -> list[Any]:
        if isinstance(value, (list, tuple)):
            return list(value) + [Unknown("missing")] * (count - len(value))
        if isinstance(value, Call) and value.last == "from_pretrained":
            return [Attr(value, "model", value.line), Attr(value, "tokenizer", value.line)]
        if isinstance(value, Call):
            return [Attr(value, str(i), value.line) for i in range(count)]
        return [Unknown(f"{dotted(value)}[{i}]") for i in range(count)]

    def _set_attribute(self, target: ast.Attribute, value: Any, env: Env) -> None:
        of = self.value(target.value, env)
        if isinstance(of, (Call, Object)):
            of.attrs[target.attr] = value
        if isinstance(of, Attr) and isinstance(of.of, Call):
            of.of.attrs[f"{of.name}.{target.attr}"] = value
        self.script.assigned.append(Assigned(of, target.attr, value, target.lineno))

    def _set_item(self, target: ast.Subscript, value: Any, env: Env) -> None:
        of = self.value(target.value, env)
        ids = as_ids(of) if not isinstance(of, Coded) else None
        if ids is not None and not isinstance(of, list):
            self.bind(target.value, self._masked(ids, target, value, env), env)
            return
        key = self.value(target.slice, env)
        if isinstance(of, Module) and of.name == "os.environ" and isinstance(key, str):
            self.given.environment[key] = Word(str(value), target.lineno, isinstance(value, str))
        if isinstance(of, dict) and is_too_much(value, of):
            return
        if isinstance(of, dict) and isinstance(key, str):
            of[key] = value
            self.key_lines.setdefault(id(of), {})[key] = target.lineno
        elif isinstance(of, Coded) and isinstance(key, str):
            of.extra[key] = value
        elif isinstance(of, Row) and isinstance(key, str) and isinstance(of.columns, dict):
            of.columns[key] = value

    def _masked(self, ids: Ids, target: ast.Subscript, value: Any, env: Env) -> Ids:
        if isinstance(target.slice, ast.Slice) and target.slice.lower is None:
            mask = Mask(target.lineno, upto=self.value(target.slice.upper, env))
        elif isinstance(target.slice, ast.Compare):
            mask = Mask(target.lineno, equal=self.value(target.slice.comparators[0], env))
        else:
            mask = Mask(target.lineno, upto=Unknown(ast.unparse(target), target.lineno))
        return Ids(ids.parts, ids.cuts, (*ids.masks, mask))

    # --- blocks --------------------------------------------------------------------------------------------

    def _functiondef(self, node: ast.FunctionDef, env: Env) -> None:
        function = Function(node, env)
        if node.decorator_list:
            function.preset, function.lines = preset(self, function)
        env[node.name] = function
        self.script.functions.append(function)

    def _classdef(self, node: ast.ClassDef, env: Env) -> None:
        env[node.name] = made = define(self, node, env)
        self.script.classes.append(made)

    def _if(self, node: ast.If, env: Env) -> None:
        if self.decide(node.test, env):
            self.run(node.body, env)
        else:
            self.run(node.orelse, env)

    def decide(self, test: ast.expr, env: Env) -> bool:
        """The result of a test. If it isn't known, one is supposed, and the supposition is written down."""
        value = self.value(test, env)
        if not isinstance(value, (Unknown, Call, Attr, Field, Len)) and not _symbolic(value):
            self._note_option(test, bool(value), env)
            return bool(value)
        text = ast.unparse(test)
        if isinstance(test, ast.Compare) and "len(" in text and self.choices is not None:
            return True  # the length that is cut
        if self.choices is None:
            self.script.guessed.append((text, test.lineno))
            return True
        for known, answer, _ in self.supposed:
            if known == text:
                return answer
        at = len(self.supposed)
        answer = self.choices[at] if at < len(self.choices) else True
        self.supposed.append((text, answer, test.lineno))
        return answer

    def _note_option(self, test: ast.expr, answer: bool, env: Env) -> None:
        """A test of an option of the command line: the option's default decides."""
        named = [node.value for node in ast.walk(test) if isinstance(node, ast.Attribute)]
        holders = [env.get(node.id) for node in named if isinstance(node, ast.Name)]
        if any(map(_parsed, holders)):
            self.script.optional.append((ast.unparse(test), answer, test.lineno))

    def _for(self, node: ast.For, env: Env) -> None:
        values = self.value(node.iter, env)
        if self.choices is None and ".backward(" in ast.unparse(node):
            self.script.rounds.append((rounds(self, node.iter, env), node.lineno))
        for item in elements(values, node.iter)[:MAX_TURNS]:
            self.bind(node.target, item, env)
            try:
                self.run(node.body, env)
            except Skipped as skipped:
                if skipped.args == ("break",):
                    break
        self.run(node.orelse, env)

    def _while(self, node: ast.While, env: Env) -> None:
        try:
            self.run(node.body, env)
        except Skipped:
            return

    def _with(self, node: ast.With, env: Env) -> None:
        for item in node.items:
            value = self.value(item.context_expr, env)
            if item.optional_vars is not None:
                self.bind(item.optional_vars, value, env)
        self.run(node.body, env)

    def _try(self, node: ast.Try, env: Env) -> None:
        self.run([*node.body, *node.orelse, *node.finalbody], env)

    def _expr(self, node: ast.Expr, env: Env) -> None:
        self.value(node.value, env)

    def _return(self, node: ast.Return, env: Env) -> None:
        raise Returned(self.value(node.value, env))

    def _continue(self, node: ast.Continue, env: Env) -> None:
        raise Skipped("continue")

    def _break(self, node: ast.Break, env: Env) -> None:
        raise Skipped("break")

    def _raise(self, node: ast.Raise, env: Env) -> None:
        raise Skipped("raise")

    # --- functions -----------------------------------------------------------------------------------------

    def apply(self, function: Function, args: Sequence[Any], kwargs: dict[str, Any], line: int) -> Any:
        """What one of the script's own functions returns."""
        if len(self.inside) >= MAX_DEPTH or self.running.count(id(function.node)) > 1:
            return Unknown(f"{function.name}()", line)
        self.called.add(id(function.node))
        env = self._frame(function, args, kwargs)
        self.inside.append(function.name)
        self.running.append(id(function.node))
        try:
            if isinstance(function.node, ast.Lambda):
                return self.value(function.node.body, env)
            self.run(function.node.body, env)
        except Returned as returned:
            return returned.value
        except Skipped as skipped:
            return Unknown(f"{function.name}() ends by {skipped.args[0]}", line)
        finally:
            self.inside.pop()
            self.running.pop()
        return None

    def _frame(self, function: Function, args: Sequence[Any], kwargs: dict[str, Any]) -> Env:
        arguments = function.node.args
        outer = function.env
        env: Env = outer.new_child()
        names = function.parameters
        defaults = dict(
            zip(
                reversed([a.arg for a in (*arguments.posonlyargs, *arguments.args)]),
                reversed(arguments.defaults),
                strict=False,
            )
        )
        defaults |= {a.arg: d for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d}
        for name in (*names, *(a.arg for a in arguments.kwonlyargs)):
            env[name] = (
                self.value(defaults[name], outer) if name in defaults else Unknown(name, function.node.lineno)
            )
        if function.owner is not None:
            env["self"] = function.owner
        env.update(zip(names, args, strict=False))
        env.update({f"\0{name}": line for name, line in function.lines.items()})
        known = {*names, *(a.arg for a in arguments.kwonlyargs)}
        env.update({k: v for k, v in {**function.preset, **kwargs}.items() if k in known})
        if arguments.kwarg is not None:
            whole = {**function.preset, **kwargs}
            env[arguments.kwarg.arg] = {k: v for k, v in whole.items() if k not in known}
        return env

    def format(self, function: Function, columns: dict[str, Any], line: int, *, mapped: bool) -> Formatting:
        """Every way through a formatting function, on a row of which only the columns' names are known."""
        ways: list[Way] = []
        todo: list[list[bool]] = [[]]
        outer = self.choices, self.supposed
        while todo and len(ways) < MAX_PATHS:
            self.choices, self.supposed = todo.pop(0), []
            given = len(self.choices)
            result = self.apply(function, [Row(dict(columns))], {}, line)
            ways.append(Way(tuple(self.supposed), result))
            taken = [answer for _, answer, _ in self.supposed]
            todo += [[*taken[:i], not taken[i]] for i in range(given, len(taken))]
        self.choices, self.supposed = outer
        found = Formatting(function, tuple(ways), line, mapped)
        self.script.formattings.append(found)
        return found


def _parsed(of: Any) -> bool:
    """Whether a command line may change the attributes of a value."""
    return of.parsed if isinstance(of, Object) else isinstance(of, Call) and of.inside == PARSED


def _symbolic(value: Any) -> bool:
    return isinstance(value, (Text, Ids, Coded, Special, Chat, Encoded, Ones, Row, Module))
