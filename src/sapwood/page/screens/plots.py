"""The curves of one run, in one browser, with what its viewer chose."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from nicegui import ui

from sapwood.page.drawn import curves
from sapwood.page.drawn.markup import Safe
from sapwood.page.live import LiveRun, Seen
from sapwood.page.shell import View, block, chart
from sapwood.run.lock import is_locked

# Seconds between two drawings. What came sooner is drawn at a later look.
LARGE, SMALL = 0.75, 5.0


@dataclass(frozen=True, slots=True)
class _Drawn:
    """When charts were drawn last, and of how many events."""

    at: float = -math.inf
    events: int = -1


class Plots:
    """While a run goes on and nobody points at its curves, they are drawn as in a report. Otherwise ECharts
    draws them, with zoom and with figures under the pointer. It takes several times as much of a processor
    for each event, which the training wants.
    """

    def __init__(self, view: View, live: LiveRun) -> None:
        self.view, self.live = view, live
        self.choice = curves.Choice()
        self._pointed = self._zoomed = False
        self._moves: bool | None = None  # ECharts draws; None: nothing is drawn yet
        self._seen: Seen | None = None
        self._large, self._small = _Drawn(), _Drawn()
        self._charts: dict[str, ui.echart] = {}  # made when they are first wanted

    def build(self) -> Callable[[Seen], None]:
        """Returns what shows the run as it was just seen."""
        controls(self.view, self.choice, self._choose)
        with ui.element("div") as place:
            self._losses, self._others = block(Safe("")), block(Safe(""))
            self._moving = ui.element("div")
        for event, pointed in (("mouseenter", True), ("touchstart.passive", True), ("mouseleave", False)):
            place.on(event, partial(self._point, pointed), args=[])
        if not is_locked(self.live.path):  # it doesn't go on: the browser makes charts while the log is read
            self._turn(True)
        return self._keep_up

    def _keep_up(self, seen: Seen) -> None:
        """Draw the charts if the run has new events. The small ones come with the large one, so that the
        browser paints once, or when nothing has happened for a while."""
        self._seen = seen
        moves = self._pointed or self._zoomed or self.choice.log or seen.pulse.condition != "running"
        if moves != self._moves:
            self._turn(moves)
        now, new = time.monotonic(), seen.changed
        if draws := new != self._large.events and now - self._large.at >= LARGE:
            self._large = _Drawn(now, new)
            self._draw_large()
        late = now - self._small.at >= SMALL
        if new != self._small.events and late and (draws or now - self._large.at >= SMALL):
            self._small = _Drawn(now, new)
            self._draw_small()

    def _turn(self, moves: bool) -> None:
        """From a report's charts to those of ECharts, or back."""
        self._moves = moves
        self._moving.set_visibility(moves)
        for still in (self._losses, self._others):
            still.element.set_visibility(not moves)
        if moves and not self._charts:
            self._make_charts()
        self._large = self._small = _Drawn()

    def _make_charts(self) -> None:
        w, ink = self.view.words, curves.Ink.of(self.view.dark)
        with self._moving:
            main = chart(curves.frame(ink, self.choice, w), "main-chart")
            main.props(f'role=img aria-label="{w("curves.label")}"')
            main.on("chart:datazoom", self._zoom, throttle=0.15, leading_events=False)
            self._charts["loss"] = main
            with ui.element("div").classes("small-charts"):
                for name in curves.SMALL:
                    options = curves.frame(ink, self.choice, w, small=True)
                    options["title"]["text"] = w(f"curve.{name}")
                    self._charts[name] = chart(options, "small-chart")

    def _draw_large(self) -> None:
        if not self._moves:
            self._losses.show(curves.still_losses(self.live, self.choice, self.view.words))
            return
        self._show("loss", curves.losses(self.live, self.choice, self.view.words))

    def _draw_small(self) -> None:
        if not self._moves:
            self._others.show(curves.still_small(self.live, self.choice, self.view.words))
            return
        self._charts["peak_bytes"].options["yAxis"] |= curves.room(self.live)
        for name in curves.SMALL:
            self._show(name, curves.small(self.live, name, self.choice))

    def _show(self, name: str, lines: list[curves.Line]) -> None:
        drawn = self._charts[name]
        drawn.options["series"] = curves.series(lines, curves.Ink.of(self.view.dark))
        drawn.update()

    def _draw(self) -> None:
        self._large = self._small = _Drawn()
        if self._seen is not None:
            self._keep_up(self._seen)

    def _point(self, pointed: bool, _: Any = None) -> None:
        self._pointed = pointed
        if pointed:  # what is pointed at answers at once; it stands still again at the next event
            self._draw()

    def _choose(self, choice: curves.Choice) -> None:
        self.choice, self._zoomed = choice, False
        w, ink = self.view.words, curves.Ink.of(self.view.dark)
        for name, drawn in self._charts.items():
            title = drawn.options.get("title")
            drawn.options.update(curves.frame(ink, choice, w, small=name != "loss"))
            if title:
                drawn.options["title"] = title
        self._draw()

    def _zoom(self, event: Any) -> None:
        """After a zoom, send more points of the visible part."""
        window = window_of(event.args, self.live.stepped(self.choice.axis))
        self._zoomed = window is not None
        if window != self.choice.window and len(self.live.stepped("step")) > curves.MOST:
            self.choice = replace(self.choice, window=window)
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
