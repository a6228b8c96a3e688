"""What a script imports: libraries by name; modules that lie beside it are followed like its own lines."""

from __future__ import annotations

import ast
from collections import ChainMap
from pathlib import Path
from typing import Any

from sapwood.errors import DataError
from sapwood.migrate.script.found import Env, Walker
from sapwood.migrate.script.source import read_source
from sapwood.migrate.script.values import Module, Object

MAX_MODULES = 24
MAX_BYTES = 1 << 20
_HERE = "\0folder"  # of a module's names: where it lies


def bind_import(machine: Walker, node: ast.Import, env: Env) -> None:
    for alias in node.names:
        machine.script.imported[alias.name] = node.lineno
        whole = bool(alias.asname) or "." not in alias.name
        known = _module(machine, alias.name, 0, env) if whole else None
        name = alias.name if alias.asname else alias.name.partition(".")[0]
        env[alias.asname or name] = Object(name, known) if known is not None else Module(name)


def bind_from(machine: Walker, node: ast.ImportFrom, env: Env) -> None:
    known = _module(machine, node.module or "", node.level, env)
    for alias in node.names:
        name = f"{node.module or ''}.{alias.name}"
        machine.script.imported[name] = node.lineno
        if known is not None and alias.name == "*":
            env.update({key: value for key, value in known.items() if not key.startswith(("_", "\0"))})
            continue
        inner = None
        if known is None or alias.name not in known:
            inner = _module(machine, name.lstrip("."), node.level, env)
        held = Object(alias.name, inner) if inner is not None else Module(name)
        env[alias.asname or alias.name] = known.get(alias.name, held) if known is not None else held


def _module(machine: Walker, name: str, level: int, env: Env) -> dict[str, Any] | None:
    """The names of a module beside the script; None if none of that name lies there."""
    path = _file(machine, name, level, env)
    if path is None:
        return None
    if path in machine.modules:
        return machine.modules[path]
    if len(machine.modules) >= MAX_MODULES:
        return None
    names: dict[str, Any] = {"__name__": name, _HERE: path.parent}
    machine.modules[path] = names
    script = machine.script
    before = len(script.functions), len(script.classes)
    for tree in _trees(machine, path):
        machine.run(tree.body, ChainMap(names))
    del script.functions[before[0] :]  # a function that the script doesn't name is none of its steps
    del script.classes[before[1] :]
    return names


def _file(machine: Walker, name: str, level: int, env: Env) -> Path | None:
    here = env.get(_HERE)
    if level and isinstance(here, Path):
        folders = [here, *here.parents][level - 1 : level]
    else:
        folders = [home.joinpath(*[".."] * (level - 1)) for home in machine.given.homes]
    stem = name.replace(".", "/")
    for folder in folders:
        for path in (folder / f"{stem}.py", folder / stem / "__init__.py"):
            if stem and path.is_file() and path.stat().st_size <= MAX_BYTES:
                return path.resolve()
    return None


def _trees(machine: Walker, path: Path) -> list[ast.Module]:
    try:
        source = read_source(path)
    except DataError:
        return []
    before = machine.given.pages.add(path, source.lines, source.labels)
    return [ast.increment_lineno(tree, before) for tree in source.trees]
