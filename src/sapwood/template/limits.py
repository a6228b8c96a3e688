"""What a template from strangers may make in one operation.

A watchdog can't act inside a single call into C, so an operation whose result would be huge is refused before
it runs. The watchdog (`sapwood.template.jinja`) stops a template that piles up many small results.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any

from jinja2 import Environment
from jinja2.nodes import EvalContext
from jinja2.runtime import Context, LoopContext

MAX_TEXT = 64_000_000  # characters that one rendering may write, or one operation make
WIDTH = re.compile(r"[%:<>^=.]\d{7,}")  # of a field in a format string
LOOP_FACTS = frozenset({"index", "index0", "first", "last", "length"})
FILTERS = ("center", "format", "indent", "join", "replace")


class TemplateFault(Exception):
    """The template can't render these messages; str() says why."""


def limit(environment: Any) -> None:
    """Bound products, powers, formats, and those methods and filters of text whose result can be far larger
    than the text."""
    environment.intercepted_binops = frozenset({"*", "**", "%"})
    binops = {"*": _times, "**": _power, "%": _remainder}
    environment.binop_table = {**environment.binop_table, **binops}
    inner = environment.call

    def call(context: Any, function: Any, *args: Any, **named: Any) -> Any:
        method = getattr(function, "__wrapped__", function)  # the sandbox wraps str.format
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            _refuse_growth(getattr(method, "__name__", ""), owner, [*args, *named.values()])
        return inner(context, function, *args, **named)

    environment.call = call
    member = environment.getattr

    def quick_member(owner: Any, name: str) -> Any:
        # The sandbox asks slowly whether a loop's public attributes are safe. They are.
        if type(owner) is LoopContext and name in LOOP_FACTS:
            return getattr(owner, name)
        return member(owner, name)

    environment.getattr = quick_member
    for name in FILTERS:
        environment.filters[name] = _bounded_filter(name, environment.filters[name])


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)  # keeps the mark that asks jinja for its context
    def bounded(*args: Any, **named: Any) -> Any:
        given = [arg for arg in args if not isinstance(arg, Context | EvalContext | Environment)]
        if given:
            _refuse_growth(name, given[0], [*given[1:], *named.values()])
        return function(*args, **named)

    return bounded


def _refuse_growth(name: str, value: Any, args: Sequence[Any]) -> None:
    """Raises TemplateFault if a method or filter of this name would make more than a template may."""
    if name in ("format", "format_map") and WIDTH.search(str(value)):
        raise TemplateFault("it formats with a huge width")
    size = 0
    numbers = [arg for arg in args if isinstance(arg, int)]
    if name in ("center", "ljust", "rjust", "zfill"):
        size = max(numbers, default=0)
    elif name in ("indent", "expandtabs"):
        size = max(numbers, default=8) * (str(value).count("\n") + str(value).count("\t") + 1)
    elif name == "replace" and len(args) >= 2:
        size = str(value).count(str(args[0])) * len(str(args[1]))
    elif name == "join":
        items, between = (
            (args[0], value) if isinstance(value, str) and args else (value, args[0] if args else "")
        )
        size = len(str(between)) * len(items) + _length(items) if isinstance(items, Sized) else 0
    elif name == "translate" and args and isinstance(args[0], Mapping):
        size = len(value) * max([len(str(to)) for to in args[0].values()], default=1)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if size > MAX_TEXT:
        raise TemplateFault(f"{name} would make {size:,} characters")


def _length(items: Any) -> int:
    """Characters of all text in a list."""
    return sum(len(item) for item in items if isinstance(item, str)) if isinstance(items, Iterable) else 0


def _times(left: Any, right: Any) -> Any:
    for many, factor in ((left, right), (right, left)):
        too_long = isinstance(many, Sequence) and isinstance(factor, int) and len(many) * factor > MAX_TEXT
        if too_long:
            raise TemplateFault(f"it repeats something {factor:,} times")
    return left * right


def _power(left: Any, right: Any) -> Any:
    if abs(right) > 64 or abs(left) > 2**64:
        raise TemplateFault("it computes a power that is far too large")
    return left**right


def _remainder(left: Any, right: Any) -> Any:
    if isinstance(left, str) and (WIDTH.search(left) or "*" in left):
        raise TemplateFault("it formats with a huge width")
    return left % right
