"""Curves as SVG, for tables, reports and notebooks: no script, and the colours of the page around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sapwood.page.drawn.markup import Safe, el
from sapwood.show.plot import smoothed

MARGIN = (8, 14, 26, 48)  # top, right, bottom, left


@dataclass(frozen=True, slots=True)
class Line:
    """A curve. kind: raw, smooth, held or base, each a class of the style sheet; or a number for a colour."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    kind: str = "smooth"
    dots: bool = False


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


def chart(lines: Sequence[Line], *, width: int = 760, height: int = 300, label: str = "") -> Safe:
    """Curves over one another with axes and a legend."""
    top, right, bottom, left = MARGIN
    shown = [line for line in lines if len(line.y)]
    if not shown:
        return Safe("")
    xs = np.concatenate([np.asarray(line.x, np.float64) for line in shown])
    ys = np.concatenate([np.asarray(line.y, np.float64) for line in shown])
    x0, x1, y0, y1 = (float(v) for v in (xs.min(), xs.max(), ys.min(), ys.max()))
    x1, y1 = (x1 if x1 > x0 else x0 + 1), (y1 if y1 > y0 else y0 + 1)
    y0, y1 = y0 - 0.04 * (y1 - y0), y1 + 0.04 * (y1 - y0)

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + (width - left - right) * (x - x0) / (x1 - x0),
            top + (height - top - bottom) * (y1 - y) / (y1 - y0),
        )

    drawn: list[Safe] = []
    for tick in ticks(y0, y1):
        _, y = at(x0, tick)
        drawn.append(el("line", x1=left, x2=width - right, y1=round(y, 1), y2=round(y, 1), cls="grid"))
        drawn.append(el("text", f"{tick:g}", x=left - 6, y=round(y + 4, 1), text_anchor="end"))
    for tick in ticks(x0, x1):
        x, _ = at(tick, y0)
        drawn.append(el("text", f"{tick:g}", x=round(x, 1), y=height - 8, text_anchor="middle"))
    for line in shown:
        places = [at(x, y) for x, y in zip(line.x, line.y, strict=True)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        drawn.append(el("polyline", points=points, fill="none", cls=f"line {line.kind}"))
        if line.dots:
            drawn += [
                el("circle", cx=round(x, 1), cy=round(y, 1), r=3, cls=f"dot {line.kind}") for x, y in places
            ]
    picture = el(
        "svg", drawn, viewBox=f"0 0 {width} {height}", cls="chart", role="img", aria_label=label or None
    )
    legend = el("p", [el("span", line.name, cls=f"key {line.kind}") for line in shown], cls="legend")
    return el("figure", picture, legend)


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
