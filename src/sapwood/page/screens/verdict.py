"""The result of the proof of a new run, as markup: its faults, or the run's time and memory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sapwood.errors import SapwoodError
from sapwood.page.drawn import parts
from sapwood.page.drawn.markup import Child, Safe, el, join
from sapwood.page.screens import pieces
from sapwood.page.shell import View
from sapwood.show.figures import duration, size

PLACE = re.compile(r"^(?P<path>[^\s,()]+?):(?P<line>\d+)\b")


def faults(view: View, error: SapwoodError) -> Safe:
    """A list of faults. A fault that names a line of a file also shows that line."""
    lines: list[Child] = []
    for one in error.problems[: error.shown]:
        found = PLACE.match(one.where)
        shown = pieces.line(found["path"], int(found["line"]), view) if found else ""
        lines.append(
            el(
                "li",
                el("b", one.what), el("code", one.where) if one.where else None, el("span", one.why),
                el("em", one.mend) if one.mend else None,
                el("details", el("summary", view.words("new.line")), el("pre", shown, cls="log"))
                if shown else None,
            )
        )  # fmt: skip
    return el("ul", lines, cls="problems", role="alert")


def proven(view: View, found: Mapping[str, Any], rows: Child) -> Safe:
    """Time and memory of a run whose rows are proven. ``rows``: a link to the rows."""
    w, plan, time = view.words, found["memory"], found["estimate"]
    room = w(
        "new.fits" if plan["fits"] else "new.tight", need=size(plan["peak"]), room=size(plan["available"])
    )
    tiles = parts.tiles(
        [
            (w("time"), duration(time["seconds"]), w("new.step", s=f"{time['seconds_per_step']:.1f}")),
            (w("memory"), size(plan["peak"]), room),
            (w("new.trains"), f"{time['trained']:,}", w("new.of", n=f"{time['parameters']:,}")),
        ]
    )
    return join([el("p", el("span", "✓ ", cls="tick"), w("new.proven"), cls="ok"), tiles, el("p", rows)])
