"""A curve in a terminal, in braille: two dots across and four down in each character."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

BLANK = 0x2800  # braille without a dot; each of its eight dots is a bit above it
UPPER, LOWER = 0x1B, 0xE4  # the bits of the upper two rows of dots, and of the lower two
PLAIN = {(False, False): " ", (True, False): "'", (False, True): ".", (True, True): ":"}


@dataclass(frozen=True, slots=True)
class Drawing:
    """lines: from the top down, all of one width. high, low: the values at the upper and the lower edge."""

    lines: tuple[str, ...]
    high: float
    low: float


def curve(
    values: Sequence[float], width: int, height: int, *, at_least: int = 2, ascii_only: bool = False
) -> Drawing | None:
    """``values`` as a line of ``width`` columns and ``height`` rows, the highest value at the top.

    Fewer than ``at_least`` values leave room on the right; many are averaged, two points to a column. Values
    that aren't finite are left out; None if none is left, or no room.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite or width < 1:
        return None
    from plotille import Canvas

    points = [_mean(finite, i, 2 * width) for i in range(2 * width)] if len(finite) > 2 * width else finite
    high, low = max(points), min(points)
    canvas = Canvas(width, height, xmin=0, ymin=0, xmax=2 * width, ymax=4 * height)  # in dots
    across = (2 * width - 1) / (max(len(points), at_least, 2) - 1)
    up = (4 * height - 1) / ((high - low) or 1.0)
    places = [(i * across, (value - low) * up) for i, value in enumerate(points)]
    for (x0, y0), (x1, y1) in pairwise([places[0], *places]):
        canvas.line(x0, y0, x1, y1)
    drawn = canvas.plot().split("\n")
    lines = tuple("".join(map(_plain, line)) if ascii_only else line for line in drawn)
    return Drawing(lines, high, low)


def _mean(values: Sequence[float], part: int, parts: int) -> float:
    start, stop = part * len(values) // parts, (part + 1) * len(values) // parts
    return sum(values[start:stop]) / (stop - start)


def _plain(cell: str) -> str:
    """A braille character for a terminal that knows ASCII only: where its dots are, above or below."""
    dots = ord(cell) - BLANK
    return PLAIN[dots & UPPER != 0, dots & LOWER != 0]
