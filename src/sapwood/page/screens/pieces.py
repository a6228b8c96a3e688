"""Parts of the screen of a new run: the config as text, the settings that fit, faults of an imported file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sapwood.errors import SapwoodError
from sapwood.page import draft
from sapwood.page.drawn import parts
from sapwood.page.drawn.markup import Safe, el, join
from sapwood.page.shell import View
from sapwood.show.figures import size, visible


def written(view: View, settings: Mapping[str, Any], yaml: str) -> Safe:
    w = view.words
    return join(
        [
            el("h2", w("new.yaml")), parts.code(yaml, w("copy")),
            el("h2", w("new.command")), parts.code(draft.command(settings), w("copy")),
        ]
    )  # fmt: skip


def storages(view: View, plan: Mapping[str, Any]) -> Safe:
    """The storages with their peak memory, the largest first, and whether each fits. `sapwood check`
    prints the same table."""
    w = view.words
    rows = [
        [one["storage"], w("new.layers", n=one["recomputed"], of=one["layers"]), size(one["peak"]),
         "✓" if one["fits"] else w("new.nofit")]
        for one in sorted([plan, *plan["others"]], key=lambda one: -one["peak"])
    ]  # fmt: skip
    columns = ["base.storage", w("new.recomputed"), w("memory"), ""]
    return el("details", el("summary", w("new.cheaper")), parts.table(columns, rows))


def report(view: View, report: Mapping[str, Any]) -> Safe:
    """Faults of an imported file, and settings that sapwood couldn't take over, each with its line."""
    w = view.words
    faults = [
        el("li", el("b", fault["name"]), el("code", fault["place"] or ""), el("span", fault["why"]),
           cls=None if fault["level"] == "fault" else "note")
        for fault in report["faults"]
    ]  # fmt: skip
    lost = [
        el(
            "li",
            el("code", line["place"] or ""),
            el("span", f"{line['theirs']} {line['value']}"),
            el("em", line["remark"]),
        )
        for line in report["lines"]
        if line["matters"]
    ]
    return join(
        [
            el(
                "h3",
                w("new.report", kind=report["kind"], n=len(report["settings"]), faults=len(report["faults"])),
            ),
            el("ul", faults, cls="problems soft") if faults else None,
            el("details", el("summary", w("new.lost", n=len(lost))), el("ul", lost, cls="problems soft"))
            if lost
            else None,
        ]
    )


def configs(view: View) -> list[str]:
    """Config files at the top of the page's folders, and in their recipes/."""
    found: list[Path] = []
    for folder in view.state.places.folders[1:]:
        found += [*sorted(folder.glob("*.y*ml")), *sorted(folder.glob("recipes/*.y*ml"))]
    return [draft.near(path) for path in found[:100]]


def line(path: str, number: int, view: View) -> str:
    """Line ``number`` of a file, counted from 1. It is empty if the page may not open the file."""
    try:
        view.state.places.allowed(path, "row")
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            return next(
                (visible(line[:4000].rstrip("\n")) for i, line in enumerate(file, 1) if i == number), ""
            )
    except (SapwoodError, OSError):
        return ""


def first(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) and value else value


def attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;")
