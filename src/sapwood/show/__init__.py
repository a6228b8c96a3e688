"""What a person sees: tables, curves, the token mask, the panel of a terminal.

The folder can be called: ``sapwood.show(run)`` shows a run in a notebook.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *arguments: Any, **named: Any) -> None:
        """As `sapwood.page.drawn.report.show`, which lies above this folder and is found by name."""
        import_module("sapwood.page.drawn.report").show(*arguments, **named)


sys.modules[__name__].__class__ = _Callable
