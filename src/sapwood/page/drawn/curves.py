"""The curves of a run: as charts that stand still, and as ECharts takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapwood.page.drawn.markup import Safe, el
from sapwood.page.drawn.svg import Kind, Line, chart, smooth, thin
from sapwood.page.drawn.texts import Words
from sapwood.page.live import AXES, LiveRun

Points = NDArray[np.float64]
PALETTE = ("#2f7d4f", "#b7791f", "#2f6f9f", "#9b4f96", "#b3473f", "#4f7f7a", "#7a6a2f", "#5b5fc7")
PALETTE_DARK = ("#6cc28d", "#e0a94a", "#6fb3e0", "#cf8fca", "#e5827a", "#7fc0b9", "#c2ae62", "#9a9df0")
MOST = 1200  # points of a curve that are sent
SMALL = ("lr", "grad_norm", "rate", "peak_bytes")
DOTS = 60  # evaluations that are shown one by one
STYLES: dict[str, dict[str, Any]] = {
    "raw": {"width": 1, "opacity": 0.35, "silent": True},
    "smooth": {"width": 2.2},
    "held": {},
    "plain": {"width": 1.5},
}


@dataclass(frozen=True, slots=True)
class Ink:
    """Colours of a chart."""

    text: str
    grid: str
    lines: tuple[str, ...]
    paper: str

    def of_kind(self, kind: Kind) -> str:
        """The colour of a curve of that kind; the style sheet has the same."""
        places: dict[Kind, int] = {"raw": 0, "smooth": 0, "held": 1, "base": 1, "plain": 2, "planned": 4}
        return self.lines[places[kind]]

    @classmethod
    def of(cls, dark: bool) -> Ink:
        if dark:
            return cls("#a9b3ab", "#2a302c", PALETTE_DARK, "#171b18")
        return cls("#59625c", "#e7e9e4", PALETTE, "#ffffff")


@dataclass(frozen=True, slots=True)
class Choice:
    """How a person wants to see curves. window: the part of the x axis that is seen, or all of it."""

    axis: str = "step"
    smoothing: float = 0.02
    log: bool = False
    window: tuple[float, float] | None = None


def frame(ink: Ink, choice: Choice, w: Words, *, small: bool = False) -> dict[str, Any]:
    """A chart without its curves."""
    text = {"color": ink.text, "fontSize": 11}
    x: dict[str, Any] = {
        "type": "value", "min": "dataMin", "max": "dataMax", "axisLabel": {**text, "hideOverlap": True},
        "splitLine": {"show": False}, "axisLine": {"lineStyle": {"color": ink.grid}},
        "axisTick": {"show": False},
    }  # fmt: skip
    y: dict[str, Any] = {
        "type": "log" if choice.log and not small else "value", "scale": True,
        "axisLabel": text, "splitLine": {"lineStyle": {"color": ink.grid}}, "splitNumber": 3 if small else 5,
        "axisLine": {"show": False}, "axisTick": {"show": False},
    }  # fmt: skip
    tooltip = {
        "trigger": "axis", "confine": True, "backgroundColor": ink.paper, "borderColor": ink.grid,
        "textStyle": {"color": ink.text, "fontSize": 12}, "axisPointer": {"lineStyle": {"color": ink.text}},
    }  # fmt: skip
    options: dict[str, Any] = {
        "animation": False, "xAxis": x, "yAxis": y, "tooltip": tooltip,
        "textStyle": {"fontFamily": "inherit"},
        "grid": {"left": 8, "right": 14, "top": 28, "bottom": 6 if small else 38, "containLabel": True},
        "series": [],
    }  # fmt: skip
    if small:
        return options | {"title": {"textStyle": {**text, "fontWeight": 600}, "left": 4, "top": 0}}
    x |= {"name": w(f"axis.{choice.axis}"), "nameLocation": "middle", "nameGap": 24, "nameTextStyle": text}
    zoom = [{"type": "inside", "filterMode": "none", "throttle": 60}]
    swatch = {"icon": "roundRect", "itemWidth": 14, "itemHeight": 3}
    return options | {
        "legend": {"left": 8, "top": 0, "right": 60, "textStyle": text, "type": "scroll", **swatch},
        "dataZoom": zoom,
        "toolbox": {
            "right": 4, "top": -4, "itemSize": 13, "iconStyle": {"borderColor": ink.text},
            "feature": {
                "dataZoom": {"yAxisIndex": "none", "title": {"zoom": w("zoom"), "back": w("zoom.back")}},
            },
        },
    }  # fmt: skip


def line(name: str, points: tuple[Points, Points], color: str, **more: Any) -> dict[str, Any]:
    """A curve as ECharts takes it."""
    data = np.stack(points, 1).round(6).tolist() if len(points[0]) else []
    style = {"width": more.pop("width", 2), "color": color, "opacity": more.pop("opacity", 1.0)}
    return {
        "type": "line", "name": name, "data": data, "showSymbol": False, "lineStyle": style,
        "itemStyle": {"color": color}, "emphasis": {"disabled": True}, **more,
    }  # fmt: skip


def losses(run: LiveRun, choice: Choice, w: Words) -> list[Line]:
    """Loss, its average, the held-out loss, and its level before training."""
    x, y = _within(run.stepped(choice.axis), run.stepped("loss"), choice.window)
    found = [
        Line(w("loss.nats"), *thin(x, y, MOST), "raw"),
        Line(w("loss.smooth"), *smooth(x, y, choice.smoothing, MOST), "smooth"),
    ]
    hx, hy = run.held(choice.axis), run.held("loss")
    good = np.isfinite(hy)
    hx, hy = hx[good], hy[good]
    if len(hy):
        every = np.concatenate([found[0].x, hx])
        found.append(Line(w("held"), hx, hy, "held", dots=len(hy) <= DOTS))
        found.append(Line.level(f"{w('before')} {hy[0]:.3f}", every, float(hy[0]), "base"))
    return found


def still_losses(run: LiveRun, choice: Choice, w: Words) -> Safe:
    """The large chart without a script, as a report has it."""
    drawn = chart(losses(run, choice, w), label=w("curves.label"), axis=w(f"axis.{choice.axis}"))
    return el("section", drawn, cls="main-chart")


def still_small(run: LiveRun, choice: Choice, w: Words) -> Safe:
    """The smaller charts without a script."""

    def drawn(name: str) -> Safe:
        bottom = 0.0 if name == "peak_bytes" else None
        return chart(small(run, name, choice), title=w(f"curve.{name}"), bottom=bottom)

    return el("div", [el("section", drawn(name), cls="small-chart") for name in SMALL], cls="small-charts")


def small(run: LiveRun, name: str, choice: Choice) -> list[Line]:
    """One of the smaller curves; of memory in GB, with what the plan said."""
    scale = 1e9 if name == "peak_bytes" else 1.0
    x, y = _within(run.stepped(choice.axis), run.stepped(name) / scale, choice.window)
    drawn = Line("", *thin(x, y, MOST // 2), "plain")
    if name == "peak_bytes" and (planned := run.planned):
        return [drawn, Line.level("", drawn.x, planned / scale, "planned")]
    return [drawn]


def series(lines: Sequence[Line], ink: Ink) -> list[dict[str, Any]]:
    """Curves as ECharts takes them. A level belongs to the curve before it."""
    found: list[dict[str, Any]] = []
    for one in lines:
        color = ink.of_kind(one.kind)
        if one.kind not in ("base", "planned"):
            style = STYLES[one.kind] | ({"showSymbol": True, "symbolSize": 7} if one.dots else {})
            found.append(line(one.name, (one.x, one.y), color, **style))
        elif len(one.y):
            label = {
                "formatter": one.name,
                "color": color,
                "position": "insideMiddleTop",
                "show": bool(one.name),
            }
            found[-1]["markLine"] = {
                "symbol": "none", "silent": True, "data": [{"yAxis": float(one.y[0])}],
                "lineStyle": {"color": color, "type": "dashed"}, "label": label,
            }  # fmt: skip
    return found


def room(run: LiveRun) -> dict[str, float]:
    """The scale of the memory's curve: from nothing to what was used or planned, in GB."""
    used = run.stepped("peak_bytes")
    most = max(float(np.nanmax(used)) if len(used) else 0.0, run.planned or 0.0) / 1e9
    return {"min": 0, "max": round(1.15 * most, 1) or 1.0}


def together(runs: Sequence[LiveRun], choice: Choice, ink: Ink, w: Words) -> list[dict[str, Any]]:
    """Several runs over one another, each in a colour of its own: the loss drawn through, held-out dotted."""
    found: list[dict[str, Any]] = []
    for i, run in enumerate(runs):
        color, name = ink.lines[i % len(ink.lines)], run.look().summary.name
        x, y = _within(run.stepped(choice.axis), run.stepped("loss"), choice.window)
        found.append(line(name, smooth(x, y, choice.smoothing, MOST), color))
        hx, hy = run.held(choice.axis), run.held("loss")
        good = np.isfinite(hy)
        held = line(f"{name} · {w('held')}", (hx[good], hy[good]), color, width=1.2, showSymbol=True)
        held["lineStyle"]["type"] = "dotted"
        found.append(held)
    return found


def _within(x: Points, y: Points, window: tuple[float, float] | None) -> tuple[Points, Points]:
    """The part that is seen, and a little more, so that a pan has something to show."""
    if window is None or not len(x):
        return x, y
    low, high = window
    room = high - low
    first, last = np.searchsorted(x, [low - room, high + room])
    outside = np.unique([0, len(x) - 1])  # the ends stay, or the axis would shrink
    chosen = np.unique(np.concatenate([outside, np.arange(first, last)]))
    return x[chosen], y[chosen]


def axis_of(text: str | None) -> str:
    return text if text in AXES else "step"
