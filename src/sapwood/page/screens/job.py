"""A training that is starting: the output of its command, until its run exists."""

from __future__ import annotations

from nicegui import ui

from sapwood.page.drawn import parts
from sapwood.page.drawn.markup import Safe, el, join
from sapwood.page.shell import View, block, frame, head
from sapwood.page.work.jobs import Job
from sapwood.run.lock import holder
from sapwood.run.query import run_folders
from sapwood.show.figures import visible

EVERY = 0.5


async def build(view: View, id: str) -> None:
    w, jobs = view.words, view.state.jobs
    job = jobs.find(id)
    with frame(view, "home", job.title if job else id):
        if job is None:
            block(parts.empty(w("job.none"), "", el("a", w("home.title"), href="/", cls="btn")))
            return
        shown = block(Safe(""))
        left = [False]

        def look() -> None:
            now = jobs.find(id)
            if now is None or left[0]:
                return
            run = run_of(view, now)
            if run is not None and now.state == "working" and now.verb == "train":
                left[0] = True
                ui.navigate.to(f"/run/{run}")
            shown.show(_shown(view, now, run))

        look()
        ui.timer(EVERY, look)


def run_of(view: View, job: Job) -> str | None:
    """The run that a training made: the run that the process of the training holds, or held last."""
    if job.verb == "resume":
        return job.title
    newest = reversed(run_folders(view.state.places.runs)) if job.child is not None else ()
    return next((run.name for run in newest if holder(run).get("pid") == job.child), None)


def _shown(view: View, job: Job, run: str | None) -> Safe:
    w = view.words
    said = visible(job.said())
    status = el("span", w(f"job.{job.state}"), cls=f"status job-{job.state}")
    link = el("a", w("job.to.run"), href=f"/run/{run}", cls="btn strong") if run else None
    return join(
        [
            head(job.title, status, el("code", f"sapwood {' '.join(job.words)}")),
            el("p", link) if link else None,
            el("h2", w("job.said")),
            el("pre", said or w("wait"), cls="log", tabindex=0),
        ]
    )
