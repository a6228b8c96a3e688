"""The live panel of a training: bar, loss curve, figures. Rich draws it again whenever it likes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.panel import Panel as Frame
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sapwood.show.curve import Drawing, curve
from sapwood.show.figures import UNKNOWN, change, duration, number, size, steps
from sapwood.types import Evaluated, Stepped

if TYPE_CHECKING:
    from sapwood.show.console import Pace

HISTORY = 400  # steps that the curve shows
CURVE_HEIGHT = 5
FIRST = 20  # steps that the curve has room for, even if there are fewer
MOST_COLUMNS = 100


class Panel:
    """State of the panel. The training's thread changes it, and rich's thread draws it."""

    def __init__(self, title: str, total_steps: int, pace: Pace) -> None:
        self._title = title
        self._total = total_steps
        self._pace = pace
        self._losses: list[float] = []
        self._last: Stepped | None = None
        self._held_out = ""
        self.finished = False
        self.doing = ""

    def stepped(self, event: Stepped) -> None:
        self._pace.stepped(event)
        if event.skipped is None:
            self._losses = [*self._losses[1 - HISTORY :], event.loss]
        self._last = event

    def evaluated(self, event: Evaluated, base_loss: float | None) -> None:
        self._held_out = number(event.loss)
        if event.step == 0:
            self._held_out += " (before training)"
        elif base_loss is not None:
            self._held_out += f" ({change(event.loss, base_loss)})"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width, MOST_COLUMNS)
        rows = [self._bar(), self._curve(width - 4, options.ascii_only), self._figures()]
        yield Frame(
            Group(*rows), title=Text(self._title), title_align="left", width=width, border_style="green"
        )

    def _bar(self) -> Table:
        step = self._last.step if self._last else 0
        left = self._pace.left()
        ahead = "done" if self.finished else f"left {duration(left)}" if left is not None else "first step …"
        ahead = self.doing or ahead
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True)
        text = f"step {steps(step, self._total)}  {100 * step // max(1, self._total)} %  {ahead}"
        grid.add_row(ProgressBar(total=self._total, completed=step, complete_style="green"), text)
        return grid

    def _curve(self, width: int, ascii_only: bool) -> Text:
        """The recent losses, with the highest and the lowest of what is drawn in front."""
        margin = max((len(number(loss, 2)) for loss in self._losses), default=0) + 1
        drawn = self._drawn(width - margin, ascii_only)
        if drawn is None:
            return Text("")
        labels = [number(drawn.high, 2), *[""] * (CURVE_HEIGHT - 2), number(drawn.low, 2)]
        text = Text("\n", no_wrap=True)
        for label, line in zip(labels, drawn.lines, strict=True):
            text.append(label.rjust(margin - 1) + " ", "dim").append(line + "\n", "green")
        return text

    def _drawn(self, width: int, ascii_only: bool) -> Drawing | None:
        room = min(FIRST, max(2, self._total))
        return curve(self._losses, width, CURVE_HEIGHT, at_least=room, ascii_only=ascii_only)

    def _figures(self) -> Text:
        last = self._last
        text = _named(("loss", number(last.loss if last else None)), ("held-out", self._held_out or UNKNOWN))
        if last:
            rate = number(last.num_tokens / last.seconds, 0) if last.seconds else UNKNOWN
            figures = (("lr", f"{last.lr:.1e}"), ("tokens/s", rate), ("peak memory", size(last.peak_bytes)))
            text.append("\n").append_text(_named(*figures))
        return text


def _named(*figures: tuple[str, str]) -> Text:
    parts = [Text.assemble((f"{name} ", "dim"), (value, "bold")) for name, value in figures]
    return Text("   ").join(parts)
