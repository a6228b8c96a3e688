"""A run: curves, answers, log, config and proof, with buttons that stop the run or resume it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from nicegui import background_tasks, ui

from sapwood.errors import SapwoodError
from sapwood.page.drawn import parts
from sapwood.page.drawn.markup import Safe, el, join
from sapwood.page.live import LiveRun, Seen
from sapwood.page.screens import answers, facts
from sapwood.page.screens.plots import Plots
from sapwood.page.shell import View, block, button, frame, guarded, head, problem
from sapwood.show.figures import duration, number, size

EVERY = 0.5  # seconds between two looks
TABS = ("curves", "answers", "log", "config", "proof")


async def build(view: View, id: str, tab: str = "curves") -> None:
    w = view.words
    path = view.state.places.run(id)
    if path is None:
        with frame(view, "home", id):
            block(parts.empty(w("run.none"), id, el("a", w("home.title"), href="/", cls="btn")))
        return
    try:
        live = await asyncio.to_thread(view.state.runs.get, path)
    except SapwoodError as error:
        with frame(view, "home", id):
            block(problem(error))
        return
    background_tasks.create(look_ahead(live))  # a long log is read while the browser loads the page
    screen = Screen(view, live, tab if tab in TABS else "curves")
    with frame(view, "home", live.name):
        screen.build()
    ui.timer(EVERY, screen.look)


async def look_ahead(live: LiveRun) -> None:
    with suppress(SapwoodError):
        await asyncio.to_thread(live.look)


class Screen:
    """The screen of one run in one browser, with what its viewer chose."""

    def __init__(self, view: View, live: LiveRun, tab: str) -> None:
        self.view, self.live, self.tab = view, live, tab
        self._changed = -1
        self._condition = ""
        self._known: tuple[int, str, str] | None = None  # what title and figures were drawn of
        self._refresh: Callable[[Seen], None] = lambda seen: None

    def build(self) -> None:
        w, id = self.view.words, self.live.path.name
        with ui.element("div").classes("run-head"):
            self._title = block(head(self.live.name, w("wait")))
            self._buttons = ui.element("div").classes("actions")
        self._tiles = block(Safe(""))
        tabs = [
            el("a", w(f"tab.{name}"), href=f"/run/{id}?tab={name}",
               aria_current="page" if name == self.tab else None)
            for name in TABS
        ]  # fmt: skip
        rows = el("a", w("tab.rows"), href=f"/data?run={id}")
        block(el("nav", tabs, rows, cls="tabs", aria_label=w("run")))
        build: dict[str, Callable[[], Callable[[Seen], None]]] = {
            "curves": lambda: Plots(self.view, self.live).build(),
            "answers": lambda: answers.build(self.view, self.live),
            "log": lambda: facts.log(self.view, self.live),
            "config": lambda: facts.config(self.view, self.live),
            "proof": lambda: facts.proof(self.view, self.live),
        }
        self._refresh = build[self.tab]()

    async def look(self) -> None:
        try:
            seen = await asyncio.to_thread(self.live.look)
        except SapwoodError:
            return
        self._show(seen)

    def _show(self, seen: Seen) -> None:
        known = (seen.changed, seen.pulse.condition, parts.why(self.view.words, seen))
        if known != self._known:
            self._known = known
            self._title.show(self._head(seen))
            self._tiles.show(self._figures(seen))
        condition = f"{seen.pulse.condition} {seen.pulse.why}"
        if condition != self._condition:
            self._condition = condition
            self._actions(seen)
        if seen.changed != self._changed or self.tab in ("curves", "log"):
            self._changed = seen.changed
            self._refresh(seen)

    def _head(self, seen: Seen) -> Safe:
        w, summary = self.view.words, seen.summary
        said = parts.why(w, seen)
        below = [parts.status(w, seen), el("code", summary.id), el("span", summary.base)]
        return join([head(summary.name, below), el("p", said, cls="notice") if said else None])

    def _actions(self, seen: Seen) -> None:
        w, view, summary = self.view.words, self.view, seen.summary
        act = view.state.actions
        self._buttons.clear()
        with self._buttons:
            if not view.read_only:
                if seen.pulse.condition == "hung" and seen.pulse.why == "frozen":
                    button(w("wake"), guarded(lambda: act.wake(self.live.path)))
                if seen.pulse.condition in ("running", "hung"):
                    button(w("stop"), guarded(lambda: act.stop(self.live.path)), kind="strong")
                elif seen.pulse.condition in ("stopped", "died", "failed"):
                    button(w("resume"), guarded(lambda: act.resume(self.live.path)), kind="strong")
            block(
                el(
                    "span",
                    el("a", w("nav.chat"), href=f"/chat?with={summary.id}", cls="btn"),
                    el("a", w("nav.ship"), href=f"/ship?run={summary.id}", cls="btn"),
                    el("a", w("nav.compare"), href=f"/compare?runs={summary.id}", cls="btn"),
                    el("a", w("report"), href=f"/report/{summary.id}.html", cls="btn", download=True),
                    cls="links",
                )
            )

    def _figures(self, seen: Seen) -> Safe:
        w, run = self.view.words, seen.summary
        planned = self.live.planned
        peaks = self.live.stepped("peak_bytes")
        peak = float(peaks.max()) if len(peaks) else None
        left = w("left", time=duration(seen.left)) if seen.left is not None else ""
        plan = w("planned", size=size(planned)) if planned else ""
        return parts.tiles(
            [
                (w("progress"), parts.progress(run.step, run.total_steps, seen.pulse.condition), left),
                (w("loss"), number(run.loss, 3), ""),
                (
                    w("held"),
                    parts.held_out(w, run.base_eval_loss, run.best_eval_loss),
                    w("before.at", loss=number(run.base_eval_loss, 3)),
                ),
                (w("speed"), number(run.tokens_per_second, 0), w("tokens.second")),
                (w("time"), duration(run.seconds), ""),
                (w("memory"), parts.memory(peak), plan),
            ]
        )
