"""Ship: export an adapter for another program, see its check as a picture, and read how to use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from nicegui import ui

from sapwood.adapter.facts import ADAPTER_DIR
from sapwood.errors import SapwoodError
from sapwood.page.drawn import parts
from sapwood.page.drawn.markup import Safe, el, join
from sapwood.page.live import title_of
from sapwood.page.shell import View, block, button, frame, guarded, head, tell
from sapwood.page.work.jobs import Job
from sapwood.run.query import run_folders
from sapwood.show.figures import size, visible
from sapwood.types import CHECK, Kind

EVERY = 1.0
TYPES = ("F16", "Q8_0")


async def build(view: View, name: str) -> None:
    w, places = view.words, view.state.places
    finished = [path for path in reversed(run_folders(places.runs)) if (path / ADAPTER_DIR).is_dir()]
    run = places.run(name) or (finished[0] if finished else None)
    with frame(view, "ship", w("nav.ship")):
        block(head(w("nav.ship"), w("ship.sub")))
        if run is None:
            block(
                parts.empty(
                    w("ship.empty"), w("ship.empty.how"), el("a", w("home.title"), href="/", cls="btn")
                )
            )
            return
        names = {path.name: title_of(path) for path in (run, *finished)}
        field = ui.select(names, value=run.name, label=w("run"))
        field.props("outlined dense").on_value_change(lambda e: ui.navigate.to(f"/ship?run={e.value}"))
        screen = Screen(view, run)
        screen.build()
    ui.timer(EVERY, screen.look)


class Screen:
    def __init__(self, view: View, run: Path) -> None:
        self.view, self.run = view, run

    def build(self) -> None:
        w, act = self.view.words, self.view.state.actions
        if not self.view.read_only:
            with ui.element("section").classes("card"):
                block(el("h2", w("ship.make")))
                with ui.element("div").classes("toolbar"):
                    kinds = {kind: w(f"ship.{kind}") for kind in get_args(Kind)}
                    kind = (
                        ui.toggle(kinds, value="gguf-adapter")
                        .props("no-caps unelevated dense")
                        .classes("toggle")
                    )
                    file_type = (
                        ui.toggle(list(TYPES), value="F16")
                        .props("no-caps unelevated dense")
                        .classes("toggle")
                    )
                    button(
                        w("ship.go"),
                        guarded(lambda: act.export(self.run, kind.value, file_type.value)),
                        kind="strong",
                    )
        self._jobs = block(Safe(""))
        self._made = block(Safe(""))
        if not self.view.read_only:
            with ui.element("section").classes("card"):
                block(join([el("h2", w("ship.push")), el("p", w("ship.push.how"), cls="quiet")]))
                with ui.element("div").classes("toolbar"):
                    repo = ui.input(label="ORG/NAME").props("outlined dense").classes("search-field")
                    button(w("ship.dry"), lambda: self._dry(str(repo.value or "")))
        self._pushed = block(Safe(""))
        self.look()

    def _dry(self, repo: str) -> None:
        try:
            self.view.state.actions.dry_push(self.run, repo)
        except SapwoodError as error:
            tell(error)

    def look(self) -> None:
        jobs = [job for job in self.view.state.jobs.all() if job.title == self.run.name]
        exports = [job for job in jobs if job.verb == "export" and job.state != "done"]
        self._jobs.show(join([_job(self.view, job) for job in exports[:3]]))
        self._made.show(_made(self.view, self.run))
        pushes = [job for job in jobs if job.verb == "push"]
        self._pushed.show(_push(self.view, pushes[0]) if pushes else Safe(""))


def _job(view: View, job: Job) -> Safe:
    w = view.words
    status = el("span", w(f"job.{job.state}"), cls=f"status job-{job.state}")
    said = el("pre", visible(job.said()), cls="log", tabindex=0) if job.state in ("failed", "lost") else None
    return el(
        "div",
        el("p", status, " ", el("a", " ".join(job.words[2:6]), href=f"/job/{job.id}")),
        said,
        cls="card",
    )


def _made(view: View, run: Path) -> Safe:
    """Every published export, with the result of its check."""
    w = view.words
    found = sorted((run / "exports").glob(f"*/{CHECK}"))
    if not found:
        return el("p", w("ship.none"), cls="quiet")
    return join([_export(view, file) for file in found])


def _export(view: View, file: Path) -> Safe:
    w = view.words
    try:
        check: dict[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return Safe("")
    files = sorted(one for one in file.parent.rglob("*") if one.is_file())
    listed = [[el("code", str(one.relative_to(file.parent))), size(one.stat().st_size)] for one in files]
    verdict = el("span", w("ship.passed") if check["passed"] else w("ship.failed"),
                 cls=f"status {'finished' if check['passed'] else 'failed'}")  # fmt: skip
    facts = w(
        "ship.facts", same=check["same_ids"], prompts=check["prompts"],
        stops=check["positions"] - check["stop_flips"], positions=check["positions"],
    )  # fmt: skip
    return el(
        "section",
        el("h2", file.parent.name, " ", verdict),
        gauge(view, check),
        el("p", facts, cls="quiet"),
        el("h3", w("ship.use")),
        parts.code(str(check.get("use", "")), w("copy")),
        el(
            "details",
            el("summary", w("ship.files", n=len(files))),
            parts.table([w("file"), w("size")], listed),
        ),
        el("p", el("code", str(file.parent)), cls="quiet"),
        cls="card",
    )


def gauge(view: View, check: dict[str, Any]) -> Safe:
    """A line with three differences of log p: that of the format alone, of the export, the allowed one."""
    w = view.words
    most = 1.15 * max(check["limit"], check["difference"], 1e-9)
    width, left = 520, 12

    def at(value: float) -> float:
        return round(left + (width - 2 * left) * value / most, 1)

    marks = [
        (check["format_difference"], "format", w("ship.format")),
        (check["difference"], "export", w("ship.export")),
        (check["limit"], "limit", w("ship.limit")),
    ]
    drawn: list[Safe] = [el("line", x1=left, x2=width - left, y1=26, y2=26, cls="axis")]
    drawn.append(el("line", x1=left, x2=at(check["difference"]), y1=26, y2=26, cls="export"))
    drawn += [
        el("circle", cx=at(value), cy=26, r=6 if kind == "export" else 4, cls=kind)
        for value, kind, _ in marks
    ]
    picture = el(
        "svg", drawn, viewBox=f"0 0 {width} 52", cls="gauge", role="img", aria_label=w("ship.picture")
    )
    legend = [el("span", f"{name} {value:.4f}", cls=f"key {kind}") for value, kind, name in marks]
    return el("figure", el("p", w("ship.picture"), cls="quiet"), picture, el("p", legend, cls="legend"))


def _push(view: View, job: Job) -> Safe:
    """The files that a push would send, and the command that sends them."""
    w = view.words
    told: Any = job.result()
    if job.state != "done" or not isinstance(told, dict):
        return _job(view, job)
    rows = [
        [el("code", one["name"]), size(one["size"]), el("code", one["sha256"][:16])] for one in told["files"]
    ]
    return join(
        [
            el("h2", w("ship.would", repo=told["repo"])),
            parts.table([w("file"), w("size"), "sha256"], rows),
            el(
                "details", el("summary", "README.md"), el("pre", visible(told["card"]), cls="log", tabindex=0)
            ),
            parts.code(f"sapwood push {job.title} {told['repo']}", w("copy")),
        ]
    )
