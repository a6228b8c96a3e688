"""Curves for ECharts: what a chart shows, in the colours of the light that is on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapwood.page.drawn.svg import smooth, thin
from sapwood.page.drawn.texts import Words
from sapwood.page.live import AXES, LiveRun

Points = NDArray[np.float64]
PALETTE = ("#2f7d4f", "#b7791f", "#2f6f9f", "#9b4f96", "#b3473f", "#4f7f7a", "#7a6a2f", "#5b5fc7")
PALETTE_DARK = ("#6cc28d", "#e0a94a", "#6fb3e0", "#cf8fca", "#e5827a", "#7fc0b9", "#c2ae62", "#9a9df0")
MOST = 1200  # points of a curve that are sent
SMALL = ("lr", "grad_norm", "rate", "peak_bytes")


@dataclass(frozen=True, slots=True)
class Ink:
    """Colours of a chart."""

    text: str
    grid: str
    lines: tuple[str, ...]
    paper: str

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


def losses(run: LiveRun, choice: Choice, ink: Ink, w: Words) -> list[dict[str, Any]]:
    """Loss, its average, the held-out loss, and where the base stands."""
    x, y = run.stepped(choice.axis), run.stepped("loss")
    x, y = _within(x, y, choice.window)
    green, amber = ink.lines[0], ink.lines[1]
    found = [
        line(w("loss.nats"), thin(x, y, MOST), green, width=1, opacity=0.35, silent=True),
        line(w("loss.smooth"), smooth(x, y, choice.smoothing, MOST), green, width=2.2),
    ]
    hx, hy = run.held(choice.axis), run.held("loss")
    good = np.isfinite(hy)
    hx, hy = hx[good], hy[good]
    if len(hy):
        held = line(w("held"), (hx, hy), amber, showSymbol=True, symbolSize=7)
        if len(hy) > 60:
            held |= {"showSymbol": False}
        base = {"yAxis": float(hy[0]), "name": w("base")}
        held["markLine"] = {
            "symbol": "none", "silent": True, "data": [base], "lineStyle": {"color": amber, "type": "dashed"},
            "label": {"formatter": f"{w('base')} {hy[0]:.3f}", "color": amber, "position": "insideMiddleTop"},
        }  # fmt: skip
        found.append(held)
    return found


def small(run: LiveRun, name: str, choice: Choice, ink: Ink, planned: float | None) -> list[dict[str, Any]]:
    """One of the smaller curves; of memory, with what the plan said."""
    scale = 1e9 if name == "peak_bytes" else 1.0
    x, y = _within(run.stepped(choice.axis), run.stepped(name) / scale, choice.window)
    drawn = line(name, thin(x, y, MOST // 2), ink.lines[2], width=1.5)
    if planned and name == "peak_bytes":
        drawn["markLine"] = {
            "symbol": "none", "silent": True, "data": [{"yAxis": planned / scale}],
            "lineStyle": {"color": ink.lines[4], "type": "dashed"}, "label": {"show": False},
        }  # fmt: skip
    return [drawn]


def room(run: LiveRun, planned: float | None) -> dict[str, float]:
    """The scale of the memory's curve: from nothing to what was used or planned, in GB."""
    used = run.stepped("peak_bytes")
    most = max(float(np.nanmax(used)) if len(used) else 0.0, planned or 0.0) / 1e9
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
