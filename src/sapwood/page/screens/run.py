"""A run: curves, answers, log, config and proof, with buttons that stop the run or resume it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from nicegui import background_tasks, ui

from sapwood.errors import SapwoodError
from sapwood.page.drawn import curves, parts
from sapwood.page.drawn.markup import Safe, el, join
from sapwood.page.live import LiveRun, Seen
from sapwood.page.screens import answers, facts
from sapwood.page.shell import Block, View, block, button, chart, frame, guarded, head, problem
from sapwood.show.figures import duration, number, size

EVERY = 0.4  # seconds between two looks
# Seconds between two drawings: a browser without a graphics card takes 15 ms of a processor for a chart, and
# the training wants them. What came sooner is drawn at a later look.
LARGE, SMALL = 0.75, 5.0
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


@dataclass(frozen=True, slots=True)
class _Drawn:
    """When charts were drawn last, and of how many events."""

    at: float = -math.inf
    events: int = -1


class Screen:
    """The screen of one run in one browser, with what its viewer chose."""

    def __init__(self, view: View, live: LiveRun, tab: str) -> None:
        self.view, self.live, self.tab = view, live, tab
        self.choice = curves.Choice()
        self._changed = -1
        self._drawn = {LARGE: _Drawn(), SMALL: _Drawn()}
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
            "curves": self._curves,
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
        planned = _planned(self.live)
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
                    w("base.at", loss=number(run.base_eval_loss, 3)),
                ),
                (w("speed"), number(run.tokens_per_second, 0), w("tokens.second")),
                (w("time"), duration(run.seconds), ""),
                (w("memory"), parts.memory(peak), plan),
            ]
        )

    # --- curves -------------------------------------------------------------------------------------------

    def _curves(self) -> Callable[[Seen], None]:
        w, ink = self.view.words, curves.Ink.of(self.view.dark)
        controls(self.view, self.choice, self._choose)
        self._main = chart(curves.frame(ink, self.choice, w), "main-chart")
        self._main.props(f'role=img aria-label="{w("curves.label")}"')
        self._main.on("chart:datazoom", self._zoomed, throttle=0.15, leading_events=False)
        self._small: dict[str, ui.echart] = {}
        with ui.element("div").classes("small-charts"):
            for name in curves.SMALL:
                options = curves.frame(ink, self.choice, w, small=True)
                options["title"]["text"] = w(f"curve.{name}")
                self._small[name] = chart(options, "small-chart")
        return self._keep_up

    def _keep_up(self, seen: Seen) -> None:
        """Draw the charts if the run has new events. The small ones come with the large one, so that the
        browser paints once, or when nothing has happened for a while."""
        now, new = time.monotonic(), seen.changed
        large, small = self._drawn[LARGE], self._drawn[SMALL]
        if draws := new != large.events and now - large.at >= LARGE:
            self._drawn[LARGE] = _Drawn(now, new)
            self._draw_main()
        if new != small.events and now - small.at >= SMALL and (draws or now - large.at >= SMALL):
            self._drawn[SMALL] = _Drawn(now, new)
            self._draw_small()

    def _draw(self) -> None:
        self._draw_main()
        self._draw_small()

    def _draw_main(self) -> None:
        ink = curves.Ink.of(self.view.dark)
        self._main.options["series"] = curves.losses(self.live, self.choice, ink, self.view.words)
        self._main.update()

    def _draw_small(self) -> None:
        ink = curves.Ink.of(self.view.dark)
        for name, drawn in self._small.items():
            if name == "peak_bytes":
                drawn.options["yAxis"] |= curves.room(self.live, _planned(self.live))
            drawn.options["series"] = curves.small(self.live, name, self.choice, ink, _planned(self.live))
            drawn.update()

    def _choose(self, choice: curves.Choice) -> None:
        self.choice = choice
        w, ink = self.view.words, curves.Ink.of(self.view.dark)
        for drawn, small in ((self._main, False), *((c, True) for c in self._small.values())):
            title = drawn.options.get("title")
            drawn.options.update(curves.frame(ink, choice, w, small=small))
            if title:
                drawn.options["title"] = title
        self._draw()

    def _zoomed(self, event: Any) -> None:
        """After a zoom, send more points of the visible part."""
        window = window_of(event.args, self.live.stepped(self.choice.axis))
        choice = curves.Choice(self.choice.axis, self.choice.smoothing, self.choice.log, window)
        if choice.window != self.choice.window and len(self.live.stepped("step")) > curves.MOST:
            self.choice = choice
            self._draw()


def window_of(args: dict[str, Any], x: curves.Points) -> tuple[float, float] | None:
    """(first, last) value of the x axis that is visible, from ECharts' event; None if all of it is."""
    told = (args.get("batch") or [args])[0]
    if not len(x):
        return None
    if told.get("startValue") is not None and told.get("start") is None:
        return float(told["startValue"]), float(told["endValue"])
    start, end = float(told.get("start", 0)), float(told.get("end", 100))
    if start <= 0 and end >= 100:
        return None
    low, span = float(x[0]), float(x[-1] - x[0])
    return low + span * start / 100, low + span * end / 100


def controls(view: View, choice: curves.Choice, choose: Callable[[curves.Choice], None]) -> None:
    """Draw the controls of the curves: x axis, smoothing, logarithmic scale."""
    w = view.words
    now = [choice]

    def change(**new: Any) -> None:
        now[0] = replace(now[0], window=None, **new)
        choose(now[0])

    with ui.element("div").classes("toolbar"):
        axes = {name: w(f"axis.{name}") for name in curves.AXES}
        ui.toggle(axes, value=choice.axis, on_change=lambda e: change(axis=curves.axis_of(e.value))).props(
            "no-caps unelevated dense"
        ).classes("toggle")
        with ui.element("label").classes("slider"):
            ui.label(w("smoothing"))
            ui.slider(min=0, max=0.1, step=0.005, value=choice.smoothing).props(
                f'aria-label="{w("smoothing")}"'
            ).on("update:model-value", lambda e: change(smoothing=float(e.args)), throttle=0.1)
        ui.switch(w("log"), value=choice.log, on_change=lambda e: change(log=bool(e.value)))


def _planned(live: LiveRun) -> float | None:
    """The peak memory in bytes that the plan predicted, or None."""
    told: Any = live.about.get("facts", {}).get("memory") or {}
    peak = told.get("peak")
    return float(peak) if isinstance(peak, int | float) else None


__all__ = ["Block", "Screen", "build", "controls", "window_of"]
