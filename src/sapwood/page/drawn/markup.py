"""HTML that cannot be broken by what is in it: text is escaped unless `el` itself made it."""

from __future__ import annotations

import html
from collections.abc import Iterable

EMPTY = frozenset({"input", "br", "hr", "img", "path", "circle", "rect", "line", "polyline", "polygon"})


class Safe(str):
    """Markup that `el` or `join` made; anything else is text."""

    __slots__ = ()


Child = str | int | float | None | Iterable["Child"]


def el(tag: str, *children: Child, **attributes: str | int | float | bool | None) -> Safe:
    """An element. ``cls`` is its class, ``data_x`` is ``data-x``; None and False leave an attribute out.

    Raises ValueError if an address isn't one of ours or a web page's.
    """
    said = {name: value for name, value in attributes.items() if value is not None and value is not False}
    told = "".join(_attribute(name, value) for name, value in said.items())
    if tag in EMPTY:
        return Safe(f"<{tag}{told}/>")
    return Safe(f"<{tag}{told}>{join(children)}</{tag}>")


def join(children: Iterable[Child]) -> Safe:
    """Children one behind the other; what isn't `Safe` is escaped."""
    return Safe("".join(_child(child) for child in children))


def text(value: object) -> Safe:
    """A value as text."""
    return Safe(html.escape(str(value)))


def _child(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Safe):
        return child
    if isinstance(child, str | int | float):
        return html.escape(str(child))
    return join(child)


def _attribute(name: str, value: object) -> str:
    name = "class" if name == "cls" else name.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    if name in ("href", "src") and not str(value).startswith(("/", "#", "?", "https://", "data:image/")):
        raise ValueError(f"not an address of ours: {value!r}")
    return f' {name}="{html.escape(str(value))}"'
