"""One walk over all of a file's Python."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from sapwood.migrate.options.given import Given
from sapwood.migrate.script.classes import instance
from sapwood.migrate.script.found import Script
from sapwood.migrate.script.machine import Machine, Returned, Skipped
from sapwood.migrate.script.values import Class, Function


def walk(trees: Sequence[ast.Module], given: Given) -> Script:
    """Walk through the file in its order; then through formatting functions that nothing in the file
    calls."""
    machine = Machine(given)
    for tree in trees:
        for statement in tree.body:
            try:
                machine.statement(statement, machine.globals)
            except (Returned, Skipped):
                continue
    for function in list(machine.script.functions):
        if id(function.node) not in machine.called and _formats(function):
            machine.format(function, {}, function.node.lineno, mapped=False)
    for made in machine.script.classes:
        _instantiated(machine, made)
    for function in list(machine.script.functions):  # for example a `main` that only another file calls
        if id(function.node) not in machine.called and "train" in ast.unparse(function.node):
            machine.apply(function, [], {}, function.node.lineno)
    return machine.script


def _instantiated(machine: Machine, made: Class) -> None:
    """Walk through the methods of a class that trains, if only another file makes an object of it."""
    text = ast.unparse(made.node)
    begin = made.methods.get("__init__")
    used = begin is not None and id(begin.node) in machine.called
    if used or ("from_pretrained" not in text and ".train(" not in text):
        return
    one = instance(machine, made, [], {}, made.node.lineno)
    for method in made.methods.values():
        if id(method.node) not in machine.called and not _formats(method):
            machine.apply(Function(method.node, method.env, owner=one), [], {}, method.node.lineno)


def _formats(function: Function) -> bool:
    """Whether a function makes training text of a row."""
    text = ast.unparse(function.node)
    made = any(
        word in text for word in ("input_ids", "labels", "tokenizer", "'text'", "'prompt'", "'messages'")
    )
    subscript = any(
        isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id in function.parameters
        for node in ast.walk(function.node)
    )
    return made and subscript and "return" in text and 1 <= len(function.parameters) <= 4
