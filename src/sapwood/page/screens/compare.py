"""Compare runs: curves over one another, settings that differ, answers, results of `sapwood eval`."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from nicegui import ui

from sapwood.errors import SapwoodError
from sapwood.page.drawn import curves, parts
from sapwood.page.drawn.markup import Child, Safe, el, join
from sapwood.page.drawn.texts import Words
from sapwood.page.live import LiveRun, title_of
from sapwood.page.screens.plots import controls, window_of
from sapwood.page.shell import View, block, button, chart, frame, guarded, head, problem
from sapwood.run.query import compare_runs, run_folders
from sapwood.scores import perplexity
from sapwood.show.figures import UNKNOWN, duration, number, steps, visible

EVERY = 1.0
MOST = 8
EVALUATED = 32  # answers of an evaluation that is started here
FIGURES = {"loss": 4, "chrf": 1, "exact_match": 1, "stopped": 1}


async def build(view: View, names: list[str]) -> None:
    w = view.words
    found: list[LiveRun] = []
    for name in names[:MOST]:
        path = view.state.places.run(name)
        if path is not None:
            try:
                found.append(await asyncio.to_thread(view.state.runs.get, path))
            except SapwoodError as error:
                block(problem(error))
    with frame(view, "compare", w("nav.compare")):
        block(head(w("nav.compare")))
        _choose(view, [run.path.name for run in found])
        if not found:
            block(parts.empty(w("compare.empty"), w("compare.empty.how")))
            return
        screen = Screen(view, found)
        screen.build()
    ui.timer(EVERY, screen.look)


def _choose(view: View, names: list[str]) -> None:
    w = view.words
    every = {path.name: title_of(path) for path in reversed(run_folders(view.state.places.runs))}
    field = ui.select(every, value=names, multiple=True, label=w("compare.runs")).props(
        "outlined dense use-chips"
    )
    field.on_value_change(lambda e: ui.navigate.to(f"/compare?runs={','.join(e.value)}"))


class Screen:
    def __init__(self, view: View, runs: list[LiveRun]) -> None:
        self.view, self.runs = view, runs
        self.choice = curves.Choice()
        self._seen: list[int] = []
        self._jobs: list[str] = []

    def build(self) -> None:
        w, ink = self.view.words, curves.Ink.of(self.view.dark)
        controls(self.view, self.choice, self._choose)
        self._chart = chart(curves.frame(ink, self.choice, w), "main-chart")
        self._chart.props(f'role=img aria-label="{w("curves.label")}"')
        self._chart.on("chart:datazoom", self._zoomed, throttle=0.15, leading_events=False)
        self._figures = block(Safe(""))
        block(el("h2", w("compare.settings")))
        self._settings = block(Safe(""))
        block(el("h2", w("compare.eval")))
        with ui.element("div").classes("actions"):
            if not self.view.read_only:
                for run in self.runs:
                    button(w("compare.measure", run=run.path.name), guarded(partial(self._measure, run.path)))
        self._evals = block(Safe(""))
        block(el("h2", w("tab.answers")))
        self._answers = block(Safe(""))
        self._settings.show(_differing(self.view, [run.path for run in self.runs]))
        self._draw()

    def _measure(self, run: Path) -> None:
        self.view.state.actions.evaluate(run, EVALUATED)

    async def look(self) -> None:
        seen = [(await asyncio.to_thread(run.look)).changed for run in self.runs]
        jobs = [f"{job.id}{job.state}" for job in self.view.state.jobs.all() if job.verb == "eval"]
        if seen != self._seen or jobs != self._jobs:
            self._seen, self._jobs = seen, jobs
            self._draw()

    def _draw(self) -> None:
        w, ink = self.view.words, curves.Ink.of(self.view.dark)
        self._chart.options["series"] = curves.together(self.runs, self.choice, ink, w)
        self._chart.update()
        self._figures.show(_figures(self.view, self.runs))
        self._evals.show(_evals(self.view, self.runs))
        self._answers.show(_answers(self.view, self.runs))

    def _choose(self, choice: curves.Choice) -> None:
        self.choice = choice
        self._chart.options.update(curves.frame(curves.Ink.of(self.view.dark), choice, self.view.words))
        self._draw()

    def _zoomed(self, event: Any) -> None:
        window = window_of(event.args, self.runs[0].stepped(self.choice.axis))
        self.choice = curves.Choice(self.choice.axis, self.choice.smoothing, self.choice.log, window)
        if len(self.runs[0].stepped("step")) > curves.MOST:
            self._draw()


def _figures(view: View, runs: list[LiveRun]) -> Safe:
    w, ink = view.words, curves.Ink.of(view.dark)
    rows: list[list[Child]] = []
    for i, run in enumerate(runs):
        seen = run.look()
        summary = seen.summary
        best = summary.best_eval_loss
        scores = dict(run.scores[-1][1]) if run.scores else {}
        dot = el("i", style=f"background:{ink.lines[i % len(ink.lines)]}", cls="dot")
        rows.append(
            [
                join([dot, el("a", summary.name, href=f"/run/{summary.id}", cls="name inline")]),
                parts.status(w, seen),
                steps(summary.step, summary.total_steps),
                number(summary.loss, 3),
                parts.held_out(w, summary.base_eval_loss, best),
                f"{perplexity(best):.2f}" if best is not None else UNKNOWN,
                f"{scores['chrf']:.1f}" if "chrf" in scores else UNKNOWN,
                number(summary.tokens_per_second, 0),
                duration(summary.seconds),
            ]
        )
    columns = [
        w("run"), w("status"), w("step"), w("loss"), w("held"), w("perplexity"), "chrF", w("speed"),
        w("time"),
    ]  # fmt: skip
    return parts.table(columns, rows, cls="wide", label=w("nav.compare"))


def _differing(view: View, paths: list[Path]) -> Safe:
    w = view.words
    if len(paths) < 2:
        return el("p", w("compare.one"), cls="quiet")
    try:
        found = compare_runs(paths)
    except SapwoodError as error:
        return problem(error)
    if not found.config:
        return el("p", w("compare.same"), cls="quiet")
    rows = [[el("code", key), *(el("code", str(v)) for v in values)] for key, values in found.config.items()]
    return parts.table(
        [w("key"), *(path.name for path in paths)], rows, cls="wide", label=w("compare.settings")
    )


def _evals(view: View, runs: list[LiveRun]) -> Safe:
    """A table of what `sapwood eval` measured for each run: base, adapter, interval of the difference."""
    w = view.words
    rows: list[list[Child]] = []
    for run in runs:
        job = view.state.jobs.of(run.path.name, "eval")
        if job is None:
            continue
        facts: Any = job.result() if job.state == "done" else None
        if not facts:
            rows.append([run.path.name, el("a", w(f"job.{job.state}"), href=f"/job/{job.id}"), "", "", ""])
            continue
        for name, figure in facts["figures"].items():
            digits = FIGURES.get(name, 3)
            interval = figure["difference"]
            low, high = interval["low"], interval["high"]
            sure = w("sure") if low > 0 or high < 0 else w("unsure")
            rows.append(
                [run.path.name, w(f"figure.{name}"), number(figure["base"], digits),
                 number(figure["adapter"], digits),
                 f"{interval['value']:+.{digits}f}  [{low:+.{digits}f}, {high:+.{digits}f}] · {sure}"]
            )  # fmt: skip
    columns = [w("run"), w("figure"), w("base"), w("adapter"), w("difference")]
    return (
        parts.table(columns, rows, cls="wide", label=w("compare.eval"))
        if rows
        else el("p", w("compare.eval.none"), cls="quiet")
    )


def _said(w: Words, run: LiveRun, sample: dict[str, Any]) -> Safe:
    return parts.answer(w, run.look().summary.name, visible(str(sample.get("answer", ""))), sample)


def _answers(view: View, runs: list[LiveRun]) -> Safe:
    """The newest answer of each run to each sample prompt."""
    w = view.words
    newest: dict[str, dict[str, Any]] = {}
    for run in runs:
        for sample in run.samples():
            newest.setdefault(str(sample.get("prompt", "")), {})[run.path.name] = sample
    cards = [
        el(
            "section",
            el("h2", visible(prompt), cls="prompt", dir="auto"),
            el(
                "div",
                [
                    _said(w, run, said[run.path.name])
                    for run in runs
                    if run.path.name in said
                ],
                cls="panes",
            ),
            cls="card",
        )
        for prompt, said in newest.items()
    ]  # fmt: skip
    return join(cards) if cards else el("p", w("answers.none"), cls="quiet")
