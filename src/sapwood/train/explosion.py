"""A warning for a loss that explodes but stays a number, with earlier figures, so that a person can judge."""

from __future__ import annotations

import statistics
from collections import deque

from sapwood.types import Stepped

WINDOW = 20  # steps that a loss is compared with
ENOUGH = 5  # steps of the window, from which on a loss is compared
FACTOR = 3.0  # times the median of the window, from which a loss explodes
QUIET = 20  # steps after a warning without another


class LossWatch:
    """Sees the loss of each step."""

    def __init__(self) -> None:
        self._window: deque[float] = deque(maxlen=WINDOW)
        self._silent_until = 0

    def warning(self, event: Stepped) -> str | None:
        """A warning after this step; None if the loss is like those before."""
        step, loss = event.step, event.loss
        before = list(self._window)
        self._window.append(loss)
        if len(before) < ENOUGH or step < self._silent_until:
            return None
        middle = statistics.median(before)
        if loss <= FACTOR * middle:
            return None
        self._silent_until = step + QUIET
        compared = f"{loss / middle:.1f} times the median of the {len(before)} steps before it"
        window = f"{middle:.4g}; {min(before):.4g} to {max(before):.4g}"
        return f"loss {loss:.4g} at step {step} is {compared} ({window}): lower train.lr, or look at the rows"
