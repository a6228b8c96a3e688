"""torch's compiler is imported when something is compiled, and not with PEFT. That saves a fifth of every
start.

PEFT imports bitsandbytes, and one of its modules decorates four functions with `torch.compile`, which imports
the compiler at once. While that module is imported, `torch.compile` waits for the first call.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

MODULE = "bitsandbytes.backends.default.ops"


class CompiledLater(MetaPathFinder):
    """An import hook that finds that one module, once."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            loader.exec_module = _later(loader.exec_module)
        return spec


def _later(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def exec_module(module: ModuleType) -> None:
        import torch

        library: Any = torch
        compile_now = library.compile
        library.compile = _compiling_later(compile_now)
        try:
            execute(module)
        finally:
            library.compile = compile_now

    return exec_module


def _compiling_later(compile_now: Callable[..., Any]) -> Callable[..., Any]:
    def compile_later(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        made: list[Callable[..., Any]] = []

        def call(*given: Any, **named: Any) -> Any:
            if not made:
                made.append(compile_now(function, **options))
            return made[0](*given, **named)

        return call

    return compile_later
