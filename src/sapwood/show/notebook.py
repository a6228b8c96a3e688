"""The loss curve in a Jupyter notebook, redrawn while the training runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sapwood.config.sections import RunConfig
from sapwood.errors import ConfigError
from sapwood.run.query import LAST, find_run
from sapwood.show.plot import loss_curve
from sapwood.types import Event, Stepped

INTERVAL = 3.0  # seconds between two drawings, each of which takes a few tenths
DPI = 100


class LiveCurve:
    """What `finetune` and `resume` take as ``watch`` in a notebook: ``finetune(config, LiveCurve(config))``.

    Raises ConfigError if IPython isn't installed.
    """

    def __init__(self, config: RunConfig) -> None:
        try:
            from IPython.display import Image, display
        except ModuleNotFoundError:
            mend = "run it in Jupyter, or `pip install ipykernel`"
            raise ConfigError("there is no notebook to draw in", "LiveCurve", "no IPython", mend) from None
        self._image, self._display = Image, display
        self._runs = Path(config.save.dir)
        self._run: Path | None = None
        self._handle: Any = None
        self._drawn_at = 0.0

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if isinstance(event, Stepped) and now - self._drawn_at < INTERVAL:
            return
        self._drawn_at = now
        self._run = self._run or find_run(self._runs, LAST)
        picture = self._image(loss_curve(self._run, DPI))
        if self._handle is None:
            self._handle = self._display(picture, display_id=True)
        else:
            self._handle.update(picture)
