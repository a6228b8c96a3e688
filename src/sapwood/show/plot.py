"""The loss curve of a run as a picture, drawn without a display."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import SapwoodError
from sapwood.run.files import write_atomic
from sapwood.run.query import EventRecord, read_config, read_events, summarise
from sapwood.run.store import RUN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVE = "loss.png"
log = logging.getLogger("sapwood")
SIZE_INCHES, DPI = (9.0, 5.4), 200  # 1800 px wide, so that it is sharp when shown at 900

GREEN, FAINT, AMBER, INK, QUIET = "#3f7d4e", "#b9d3bf", "#c8702a", "#26302a", "#7a857d"
BODY_FONT = "DejaVu Sans"  # comes with matplotlib
CHINESE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "SimHei",
    "Droid Sans Fallback",
    "AR PL UMing CN",
)


def save_loss_curve(run: Path) -> Path:
    """Draw the curve of ``run`` into its loss.png, and return that path.

    Raises StorageError if ``run`` holds no run, or the disk refuses the picture.
    """
    write_atomic(run / CURVE, loss_curve(run))
    return run / CURVE


def keep_curve(run: Path) -> None:
    """`save_loss_curve` at the end of a run. A picture that fails never spoils the run. Does nothing for a
    folder that is no run: the adapter then went to another disk."""
    if not (run / RUN).is_file():
        return
    try:
        save_loss_curve(run)
    except SapwoodError as error:
        log.warning("%s", error)


def loss_curve(run: Path, dpi: int = DPI) -> bytes:
    """Training loss, held-out loss and learning rate of ``run`` as a PNG. Raises StorageError if ``run``
    holds no run."""
    return _picture(lambda figure, drawable: _draw(figure, run, drawable), dpi)


def curves_together(runs: Sequence[Path], dpi: int = DPI) -> bytes:
    """Training loss (a thin line) and held-out loss (points) of several runs in one PNG, each in a colour of
    its own. Raises StorageError if one of them holds no run."""
    return _picture(lambda figure, drawable: _draw_together(figure, runs, drawable), dpi)


def _picture(draw: Callable[[Figure, Callable[[str], str]], None], dpi: int) -> bytes:
    with _quiet():
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        family, drawable = _fonts()
        with rc_context({"font.family": family, "font.size": 10.5, "axes.unicode_minus": False}):
            figure = Figure(figsize=SIZE_INCHES, dpi=dpi, facecolor="white")
            FigureCanvasAgg(figure)
            draw(figure, drawable)
            picture = io.BytesIO()
            quick = {"compress_level": 3}  # half of the time, a tenth more bytes
            figure.savefig(picture, format="png", metadata={"Software": None}, pil_kwargs=quick)
    return picture.getvalue()


def _draw_together(figure: Figure, runs: Sequence[Path], drawable: Callable[[str], str]) -> None:
    axes = figure.subplots()
    axes.set_ylabel("loss (nats per token)", color=QUIET)
    axes.set_xlabel("optimizer step", color=QUIET)
    for i, run in enumerate(runs):
        color = f"C{i % 10}"
        events, _ = read_events(run)
        steps, evals = _series(events, "stepped"), _series(events, "evaluated")
        values = smoothed([data["loss"] for _, data in steps], max(0.5, len(steps) / 50))
        axes.plot(
            [step for step, _ in steps], values, color=color, label=drawable(_short(summarise(run).name, 40))
        )
        held = [data["loss"] for _, data in evals]
        axes.plot([step for step, _ in evals], held, color=color, linestyle=":", marker="o", markersize=4)
    axes.legend(frameon=False, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e8ece9", linewidth=0.8)


def smoothed(values: Sequence[float], width: float) -> NDArray[np.float64]:
    """A Gaussian average over ``width`` steps to each side; it looks both ways, so it doesn't lag behind."""
    reach = max(1, min(len(values) - 1, round(3 * width)))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    padded = np.pad(np.asarray(values, dtype=np.float64), reach)
    present = np.pad(np.ones(len(values)), reach)
    return np.convolve(padded, kernel, "valid") / np.convolve(present, kernel, "valid")


# --- inside -----------------------------------------------------------------------------------------------


def _draw(figure: Figure, run: Path, drawable: Callable[[str], str]) -> None:
    events, _ = read_events(run)
    steps = _series(events, "stepped")
    evals = _series(events, "evaluated")
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=[5, 1])
    figure.subplots_adjust(left=0.075, right=0.965, top=0.86, bottom=0.095, hspace=0.12)
    _title(figure, run, drawable)
    _draw_losses(loss, steps, evals)
    rate.plot([s for s, _ in steps], [d["lr"] for _, d in steps], color=QUIET, linewidth=1.4)
    rate.set_ylim(bottom=0)
    rate.set_ylabel("lr", color=QUIET)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    rate.yaxis.get_offset_text().set(size=9, color=QUIET)
    rate.locator_params(axis="y", nbins=2)
    rate.set_xlabel("optimizer step", color=QUIET)
    rate.xaxis.get_major_locator().set_params(integer=True)
    for axes in (loss, rate):
        axes.grid(axis="y", color="#e8ece9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=QUIET, length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color("#c9d0cb")
        axes.margins(x=0.02, y=0.08)


def _draw_losses(axes: Axes, steps: list[tuple[int, Any]], evals: list[tuple[int, Any]]) -> None:
    axes.set_ylabel("loss (nats per token)", color=QUIET)
    if not steps and not evals:
        axes.text(0.5, 0.5, "no steps yet", transform=axes.transAxes, ha="center", color=QUIET)
        return
    if steps:
        at, values = [step for step, _ in steps], [data["loss"] for _, data in steps]
        axes.plot(at, values, color=FAINT, linewidth=1.1)
        axes.plot(
            at, smoothed(values, max(0.5, len(values) / 50)), color=GREEN, linewidth=2.4, label="training"
        )
    if evals:
        at, values = [step for step, _ in evals], [data["loss"] for _, data in evals]
        axes.plot(at, values, color=AMBER, linewidth=1.2, marker="o", markersize=5.5, label="held-out")
        _annotate(axes, at, values)
    axes.legend(loc="upper right", frameon=False, labelcolor=INK, handlelength=1.6)


def _annotate(axes: Axes, at: Sequence[int], values: Sequence[float]) -> None:
    """Name the held-out loss before training, and the best."""
    from matplotlib.patheffects import withStroke

    best = min(range(len(values)), key=values.__getitem__)
    marks = {best: f"best {values[best]:.3f}"}
    if at[0] == 0:
        marks[0] = f"before {values[0]:.3f}"
    for index, text in marks.items():
        left = index == 0
        axes.annotate(
            text,
            (at[index], values[index]),
            xytext=(2 if left else 4, 9),
            textcoords="offset points",
            ha="left" if left else "right",
            color=AMBER,
            path_effects=[withStroke(linewidth=3.5, foreground="white")],
        )


def _title(figure: Figure, run: Path, drawable: Callable[[str], str]) -> None:
    about = summarise(run)
    config = read_config(run)
    data = config.get("data.train") or ()
    names = ", ".join(Path(str(path)).name for path in ([data] if isinstance(data, str) else data))
    parts = [about.base or str(config.get("base.model", "")), names]
    figure.text(0.075, 0.945, drawable(_short(about.name, 60)), size=16, weight="bold", color=INK)
    below = "  ·  ".join(_short(part, 60) for part in parts if part)
    figure.text(0.075, 0.9, drawable(below), size=10.5, color=QUIET)


def _series(events: Sequence[EventRecord], kind: str) -> list[tuple[int, Any]]:
    """(step, data) in order, for the events with a loss; if a step occurs twice the later one counts."""
    found = {e["step"]: e["data"] for e in events if e["kind"] == kind and e["data"].get("loss") is not None}
    return sorted(found.items(), key=lambda item: item[0])


def _fonts() -> tuple[list[str], Callable[[str], str]]:
    """The fonts to use, and a function that replaces what they can't draw by an ellipsis."""
    from matplotlib.font_manager import FontProperties, fontManager, get_font

    installed = {font.name for font in fontManager.ttflist}
    family = [BODY_FONT, *[name for name in CHINESE_FONTS if name in installed][:1]]
    faces = [get_font(fontManager.findfont(FontProperties(family=[name]))) for name in family]

    def drawable(text: str) -> str:
        text = text.replace("$", r"\$")  # otherwise matplotlib sets it as mathematics
        shown = [c if any(face.get_char_index(ord(c)) for face in faces) else "…" for c in text]
        return "".join(b for a, b in pairwise(["", *shown]) if not a == b == "…")

    return family, drawable


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


@contextmanager
def _quiet() -> Generator[None]:
    """Matplotlib speaks of font caches and missing glyphs; a picture at the end of a run must not."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
