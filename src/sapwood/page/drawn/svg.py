"""Curves as SVG, for tables, reports and notebooks: no script, and the colours of the page around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sapwood.page.drawn.markup import Safe, el
from sapwood.show.plot import smoothed

Kind = Literal["raw", "smooth", "held", "base", "plain", "planned"]
GRID = 1000  # of a chart in both directions; the browser stretches it to the room that there is


@dataclass(frozen=True, slots=True)
class Line:
    """A curve, or a level from its left end to its right one (base, planned). ``kind`` gives its colour."""

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    kind: Kind
    dots: bool = False

    @classmethod
    def level(cls, name: str, x: NDArray[np.float64], y: float, kind: Kind) -> Line:
        """``x``: of the curves that it goes across."""
        ends = np.array([x.min(), x.max()]) if len(x) else np.zeros(0)
        return cls(name, ends, np.full(len(ends), y), kind)


def thin(
    x: NDArray[np.float64], y: NDArray[np.float64], most: int = 1500
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most ``most`` points with the same outline: of each part its lowest and its highest value, in order.

    Values that are no numbers are left out.
    """
    good = np.isfinite(y) & np.isfinite(x)
    x, y = x[good], y[good]
    if len(y) <= most:
        return x, y
    edges = np.linspace(0, len(y), most // 2 + 1).astype(np.int64)
    chosen: list[int] = []
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        part = y[start:stop]
        chosen += sorted({start + int(part.argmin()), start + int(part.argmax())})
    return x[chosen], y[chosen]


def smooth(
    x: NDArray[np.float64], y: NDArray[np.float64], share: float, most: int = 600
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A Gaussian average whose width is ``share`` of the curve; long curves as means of ``most`` parts."""
    good = np.isfinite(y) & np.isfinite(x)
    x, y = x[good], y[good]
    if len(y) > most:
        edges = np.linspace(0, len(y), most + 1).astype(np.int64)
        counts = np.diff(edges)
        x, y = np.add.reduceat(x, edges[:-1]) / counts, np.add.reduceat(y, edges[:-1]) / counts
    if len(y) < 3 or share <= 0:
        return x, y
    return x, smoothed(y.tolist(), max(0.5, share * len(y)))


def sparkline(values: Sequence[float], width: int = 120, height: int = 28) -> Safe:
    """A curve without axes; nothing if there are fewer than two values."""
    finite = np.array([v for v in values if math.isfinite(v)], np.float64)
    if len(finite) < 2:
        return Safe("")
    _, y = smooth(np.arange(len(finite), dtype=np.float64), finite, 0.03, most=60)
    low, high = float(y.min()), float(y.max())
    span = high - low or 1.0
    points = " ".join(
        f"{2 + (width - 4) * i / (len(y) - 1):.1f},{2 + (height - 4) * (high - v) / span:.1f}"
        for i, v in enumerate(y.tolist())
    )
    return el(
        "svg",
        el("polyline", points=points, fill="none"),
        cls="spark",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        aria_hidden="true",
    )


def chart(
    lines: Sequence[Line], *, label: str = "", title: str = "", axis: str = "", bottom: float | None = None
) -> Safe:
    """Curves over one another with axes and a legend, as wide as the room that they are put in.

    axis: what stands below the numbers from left to right. bottom: where the scale begins, if that isn't the
    lowest value.
    """
    shown = [line for line in lines if len(line.y)]
    if not shown:
        return Safe("")
    xs, ys = (np.concatenate([getattr(line, axis) for line in shown]) for axis in ("x", "y"))
    x0, x1 = _span(float(xs.min()), float(xs.max()))
    y0, y1 = _span(float(ys.min()), float(ys.max()))
    y0, y1 = y0 - 0.04 * (y1 - y0) if bottom is None else bottom, y1 + 0.04 * (y1 - y0)

    def across(x: Any) -> Any:
        return (x - x0) / (x1 - x0)

    def down(y: Any) -> Any:
        return (y1 - y) / (y1 - y0)

    drawn: list[Safe] = []
    for tick in ticks(y0, y1):
        at = round(GRID * down(tick), 1)
        drawn.append(el("line", x1=0, x2=GRID, y1=at, y2=at, cls="grid"))
    for line in shown:
        places = np.stack([across(line.x), down(line.y)], 1) * GRID
        points = [f"{x:.1f},{y:.1f}" for x, y in places.tolist()]
        drawn.append(el("polyline", points=" ".join(points), fill="none", cls=f"line {line.kind}"))
        if line.dots:  # a circle would be stretched, the round ends of a line are not
            drawn += [el("polyline", points=f"{at} {at}", cls=f"dot {line.kind}") for at in points]
    numbers = [
        el("span", axis, cls="axis") if axis else None,
        *(el("span", f"{y:,g}", cls="y", style=f"top:{100 * down(y):.2f}%") for y in ticks(y0, y1)),
        *(el("span", f"{x:,g}", cls="x", style=f"left:{100 * across(x):.2f}%") for x in ticks(x0, x1)),
        *(el("span", line.name, cls="level", style=f"top:{100 * down(line.y[0]):.2f}%")
          for line in shown if line.kind == "base"),
    ]  # fmt: skip
    lying = {"viewBox": f"0 0 {GRID} {GRID}", "preserveAspectRatio": "none"}
    picture = el("svg", drawn, cls="chart", aria_hidden="true", **lying)
    named = [line for line in shown if line.name and line.kind != "base"]
    keys = [el("span", line.name, cls=f"key {line.kind}") for line in named]
    return el(
        "figure",
        el("h3", title) if title else None,
        el("p", keys, cls="legend") if keys else None,
        el("div", picture, numbers, cls="plot", role="img", aria_label=label or title),
    )


def _span(low: float, high: float) -> tuple[float, float]:
    """Both, or what lies around a value that is alone."""
    room = 0.0 if high > low else abs(low) / 2 or 1.0
    return low - room, high + room


def bars(histogram: Sequence[Sequence[int]], cut: int, label: str, width: int = 520) -> Safe:
    """A histogram of lengths, its bins named by their upper bounds; ``cut``: the longest that is accepted."""
    if not histogram:
        return Safe("")
    height, bottom = 120, 22
    most = max(count for _, count in histogram)
    step = width / max(6, len(histogram) + 1)
    drawn: list[Safe] = []
    for i, (bound, count) in enumerate(histogram):
        tall = (height - bottom - 16) * count / most
        drawn.append(
            el(
                "rect",
                x=round(i * step + 3, 1),
                y=round(height - bottom - tall, 1),
                width=round(step - 6, 1),
                height=round(max(1.0, tall), 1),
                rx=2,
                cls="bar over" if bound > cut else "bar",
            )
        )
        middle = round(i * step + step / 2, 1)
        drawn.append(el("text", f"≤{bound}", x=middle, y=height - 6, text_anchor="middle"))
        drawn.append(
            el("text", f"{count:,}", x=middle, y=round(height - bottom - tall - 4, 1), text_anchor="middle")
        )
    under = sum(bound <= cut for bound, _ in histogram)
    x = round(under * step, 1)
    drawn.append(el("line", x1=x, x2=x, y1=4, y2=height - bottom, cls="cut"))
    drawn.append(el("text", label, x=x + 5, y=14, cls="cut"))
    return el("svg", drawn, viewBox=f"0 0 {width} {height}", cls="chart bars", role="img", aria_label=label)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between ``low`` and ``high``."""
    if not high > low:
        return [low]
    raw = (high - low) / most
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(s * scale for s in (1, 2, 5, 10) if s * scale >= raw)
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, math.floor(high / step) + 1)]
