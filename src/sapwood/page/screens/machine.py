"""Machine: what `sapwood doctor` finds, which models fit, and links to the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from sapwood.errors import SapwoodError
from sapwood.page.drawn import parts
from sapwood.page.drawn.markup import Child, Safe, el, join
from sapwood.page.shell import View, block, frame, head, problem
from sapwood.show.figures import size

PROJECT = "https://github.com/sapwood-ai/sapwood/blob/main"
DOCUMENTS = (
    ("README", "README"), ("docs/data", "docs.data"), ("docs/tutorial-knobs", "docs.knobs"),
    ("docs/library", "docs.library"), ("docs/scale", "docs.scale"),
)  # fmt: skip

KEYS = (
    ("g h", "home"), ("g n", "new"), ("g d", "data"), ("g c", "compare"), ("g t", "chat"), ("g s", "ship"),
    ("g m", "machine"), ("/", "search"), ("j k", "rows"),
)  # fmt: skip


async def build(view: View) -> None:
    w = view.words
    with frame(view, "machine", w("nav.machine")):
        block(head(w("nav.machine"), w("machine.sub")))
        shown = block(el("p", w("machine.measuring"), cls="quiet", role="status"))
        block(_documents(view))

    async def look() -> None:
        try:
            shown.show(_found(view, await view.state.desk.ask("fits")))
        except SapwoodError as error:
            shown.show(problem(error))

    ui.timer(0.05, look, once=True)


def _found(view: View, facts: Mapping[str, Any]) -> Safe:
    w = view.words
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in facts["matrix_rate"].items())
    figures: list[tuple[str, Child, Child]] = [
        (
            w("machine.processor"),
            facts["processor"],
            w("machine.cores", n=facts["cores"], threads=facts["threads"]),
        ),
        (w("machine.device"), facts["device"], w("machine.dtype", dtype=facts["dtype"])),
        (
            w("machine.memory"),
            size(facts["memory_available"]),
            w("tile.of", total=size(facts["memory_total"])),
        ),
        (w("tile.disk"), size(facts["disk_free"]), w("tile.free")),
        (w("machine.rate"), rates or "-", w("machine.rate.what") if rates else ""),
    ]
    fits = [
        [
            el("code", row["model"]),
            size(row["peak"]),
            _yes(w("machine.fits"), w("new.nofit"), bool(row["fits"])),
        ]
        for row in facts["fits"]
    ]
    hubs = [[name, _yes(w("machine.answers"), w("machine.silent"), up)] for name, up in facts["hubs"].items()]
    checks = [
        [w("machine.kernels"), facts["kernels"] or w("machine.kernels.ok")],
        [w("machine.heap"), facts["heap"] or w("machine.heap.ok")],
        *hubs,
        *([name, number] for name, number in facts["versions"].items()),
        ["Python", facts["python"]],
    ]
    return join(
        [
            parts.tiles(figures),
            el("h2", w("machine.models")),
            parts.table([w("model"), w("memory"), ""], fits),
            el("h2", w("machine.checks")),
            parts.table(["", ""], checks, cls="plain"),
        ]
    )


def _yes(yes: str, no: str, good: bool) -> Safe:
    return el("span", yes if good else no, cls=f"status {'finished' if good else 'stopped'}")


def _documents(view: View) -> Safe:
    w = view.words
    tail = ".zh-CN.md" if w.lang == "zh" else ".md"
    links = [
        el(
            "li",
            el("a", w(name), href=f"{PROJECT}/{path}{tail}", rel="noreferrer", target="_blank", cls="link"),
        )
        for path, name in DOCUMENTS
    ]
    keys = [el("li", el("kbd", key), " ", w(f"keys.{name}")) for key, name in KEYS]
    return join(
        [el("h2", w("machine.documents")), el("ul", links), el("h2", w("keys")), el("ul", keys, cls="checks")]
    )
