"""A run as one HTML file: curves, answers, proof, config. It opens from disk and runs no script."""

from __future__ import annotations

from pathlib import Path

from sapwood.errors import ConfigError, SapwoodError
from sapwood.page.drawn import curves, parts
from sapwood.page.drawn.markup import Child, Safe, el, join
from sapwood.page.drawn.shown import ASSETS, compared, config_of, proof_of
from sapwood.page.drawn.texts import Words
from sapwood.page.live import LiveRun
from sapwood.run.files import write_atomic
from sapwood.run.query import find_run
from sapwood.show.figures import duration, number

FILE = "report.html"
# A report runs no script and loads no address.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_report(name: str, runs: Path, out: Path | None, lang: str) -> None:
    """`sapwood report`. Raises ConfigError if nothing is called that."""
    if lang not in ("en", "zh"):
        raise ConfigError(f"a report can't be written in {lang!r}", "--lang", mend="choose en or zh")
    run = find_run(runs, name)
    file = out or run / FILE
    write_atomic(file, report_html(run, Words("en" if lang == "en" else "zh")))
    print(f"wrote {file}")


def report_html(run: Path, w: Words) -> str:
    """The whole document, light or dark as its reader's system is."""
    live = LiveRun(run)
    seen = live.look()
    body = join(
        [
            overview(live, w),
            el("h2", w("tab.answers")),
            _answers(live, w),
            el("h2", w("tab.proof")),
            proof_of(w, run),
            el("h2", w("tab.config")),
            config_of(w, run),
        ]
    )
    head = join(
        [
            el("meta", charset="utf-8"),
            Safe(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
            el("meta", name="viewport", content="width=device-width, initial-scale=1"),
            el("title", f"{seen.summary.name} · sapwood"),
            Safe(f"<style>{style()}</style>"),
        ]
    )
    page = el("html", el("head", head), el("body", el("main", body, cls="main")), lang=w.lang_tag)
    return f"<!doctype html>{page}"


def overview(live: LiveRun, w: Words) -> Safe:
    """Status, figures and curves: the part that a notebook shows too."""
    seen = live.look()
    run = seen.summary
    said = parts.why(w, seen)
    figures: list[tuple[str, Child, Child]] = [
        (w("progress"), parts.progress(run.step, run.total_steps, seen.pulse.condition),
         w("left", time=duration(seen.left)) if seen.left is not None else ""),
        (w("loss"), number(run.loss, 3), ""),
        (w("held"), parts.held_out(w, run.base_eval_loss, run.best_eval_loss),
         w("before.at", loss=number(run.base_eval_loss, 3))),
        (w("speed"), number(run.tokens_per_second, 0), ""),
        (w("time"), duration(run.seconds), ""),
    ]  # fmt: skip
    below = [parts.status(w, seen), el("code", run.id), el("span", run.base)]
    return join(
        [
            el("header", el("h1", run.name), el("p", below, cls="sub"), cls="head"),
            el("p", said, cls="notice") if said else None,
            parts.tiles(figures),
            curves.still_losses(live, curves.Choice(), w),
            curves.still_small(live, curves.Choice(), w),
        ]
    )  # fmt: skip


def _answers(live: LiveRun, w: Words) -> Safe:
    samples = live.samples()
    steps = [int(sample["step"]) for sample in samples]
    if not steps:
        return el("p", w("answers.none"), cls="quiet")
    return compared(w, samples, max(steps), dict(live.scores))


def style() -> str:
    """The page's own style sheets, with the light that the system has."""
    frame, pieces = (ASSETS / name for name in ("page.css", "parts.css"))
    text = frame.read_text(encoding="utf-8")
    dark = text.split(':root[data-dark="1"] {', 1)[1].split("}", 1)[0]
    return (
        f"{text}{pieces.read_text(encoding='utf-8')}@media (prefers-color-scheme: dark) {{:root {{{dark}}}}}"
        + EXTRA
    )


EXTRA = (
    "*{box-sizing:border-box}body{margin:0}"
    ".main{max-width:70rem}.copy{display:none}.legend .key:empty{display:none}"
    ".sub>*{margin-right:.3rem}"
)


class Shown:
    """A run in a notebook: `sapwood.show`. It is drawn anew while it goes on, if ``live``."""

    def __init__(self, run: Path, w: Words) -> None:
        self._live, self._words = LiveRun(run), w

    def _repr_html_(self) -> str:
        """A frame of its own, so that no style of it reaches the notebook."""
        import html

        main = el("main", overview(self._live, self._words), cls="main")
        inner = f"<style>{style()}</style><body>{main}</body>"
        return (
            f'<iframe sandbox srcdoc="{html.escape(inner)}" style="width:100%;height:860px;border:0" '
            f'title="sapwood"></iframe>'
        )

    @property
    def goes_on(self) -> bool:
        return self._live.look().pulse.condition in ("running", "hung")


def show(
    run: str | Path = "last", folder: str | Path = "runs", *, live: bool = True, lang: str = "en"
) -> None:
    """Show a run in a Jupyter notebook: status, figures, curves; drawn anew every two seconds as it trains.

    Args:
        run: its id, its name, its folder, or ``last``.
        folder: where runs are.
        live: go on in the background until the run has ended.
        lang: en or zh.

    Raises:
        ConfigError: no run is called that, or there is no notebook.

    Examples:
        >>> sapwood.show("last", live=False)
    """
    try:
        from IPython.display import display
    except ModuleNotFoundError:
        mend = "run it in Jupyter, or `sapwood report` writes a file"
        raise ConfigError(
            "there is no notebook to show the run in", "sapwood.show", "IPython isn't installed", mend
        ) from None
    shown = Shown(find_run(Path(folder), str(run)), Words("zh" if lang == "zh" else "en"))
    handle = display(shown, display_id=True)
    if live and handle is not None and shown.goes_on:
        import threading

        threading.Thread(target=_follow, args=(shown, handle), daemon=True).start()


def _follow(shown: Shown, handle: object, every: float = 2.0) -> None:
    import time

    update = getattr(handle, "update")  # noqa: B009
    while True:
        time.sleep(every)
        try:
            goes_on = shown.goes_on
            update(shown)
        except SapwoodError:  # the run is gone
            return
        if not goes_on:
            return
