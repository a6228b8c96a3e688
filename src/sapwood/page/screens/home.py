"""Home: every run with its status, the trainings that wait, and the models in the caches."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from nicegui import background_tasks, ui

from sapwood.base.sources import list_models
from sapwood.errors import SapwoodError
from sapwood.page.drawn import parts
from sapwood.page.drawn.markup import Child, Safe, el, join
from sapwood.page.drawn.svg import sparkline
from sapwood.page.live import LiveRun, Seen, title_of
from sapwood.page.shell import View, block, button, frame, guarded, head
from sapwood.page.work.jobs import Job
from sapwood.show.figures import UNKNOWN, duration, number, size, visible

EVERY = 0.8  # seconds between two looks
AFTER = 1.0  # seconds after which the disk is looked through
ORDER = ("date", "name", "status", "held", "speed")


async def build(view: View, sort: str = "date") -> None:
    w, state = view.words, view.state
    with frame(view, "home", w("home.title")):
        block(head(w("home.title")))
        tiles = block(Safe(""))
        with ui.element("div").classes("toolbar"):
            block(_sorts(view, sort))
            block(
                join(
                    [
                        el("a", w("compare.chosen"), href="/compare", cls="btn", id="compare-chosen"),
                        el("a", w("nav.new"), href="/new", cls="btn strong"),
                    ]
                ),
                "right",
            )
        table = block(Safe(""))
        queue = ui.element("div")
        models = block(_models(view, None))
        shown: list[tuple[str, ...]] = []
        disk: dict[str, Any] = {}

        async def look() -> None:
            found = await asyncio.to_thread(state.runs.all)
            jobs = state.jobs.all()
            tiles.show(_tiles(view, found, jobs, disk))
            table.show(_table(view, found, sort))
            waiting = [job for job in jobs if _shows(job)]
            key = tuple(f"{job.id} {job.state}" for job in waiting)
            if shown != [key]:
                shown[:] = [key]
                _queue(view, queue, waiting)

        table.show(el("p", w("wait"), cls="quiet", role="status"))
        background_tasks.create(asyncio.to_thread(state.runs.all))  # read while the browser loads the page
        ui.timer(EVERY, look)

        async def measure() -> None:
            """Let a background process look through the caches, after the screen is shown."""
            with suppress(SapwoodError):
                disk.update(await state.desk.ask("on_disk", runs=str(state.places.runs)))
            models.show(_models(view, disk))

        ui.timer(AFTER, measure, once=True)


def _sorts(view: View, sort: str) -> Safe:
    w = view.words
    links = [
        el("a", w(f"sort.{name}"), href=f"/?sort={name}", aria_current="true" if name == sort else None)
        for name in ORDER
    ]
    return el("p", el("span", w("sort")), links, cls="sorts")


def _tiles(view: View, found: list[tuple[LiveRun, Seen]], jobs: list[Job], disk: Mapping[str, Any]) -> Safe:
    w = view.words
    going = sum(seen.pulse.condition == "running" for _, seen in found)
    ill = sum(seen.pulse.condition in ("hung", "died", "failed") for _, seen in found)
    waiting = sum(job.state == "waiting" and job.verb == "train" for job in jobs)
    runs = view.state.places.runs
    free = shutil.disk_usage(next(p for p in (runs, *runs.parents) if p.is_dir())).free
    return parts.tiles(
        [
            (w("tile.runs"), str(len(found)), w("tile.ill", n=ill) if ill else ""),
            (w("tile.running"), str(going), w("tile.waiting", n=waiting) if waiting else ""),
            (w("tile.memory"), *_memory(view)),
            (w("tile.disk.used"), *_disk(view, free, disk)),
        ]
    )


def _disk(view: View, free: int, disk: Mapping[str, Any]) -> tuple[str, str]:
    """The disk space that runs and caches take, once it is known, and the free space."""
    if not disk:
        return UNKNOWN, view.words("tile.disk.free", free=size(free))
    used, kept = disk["runs"], disk["caches"]
    return size(used + kept), view.words("tile.disk.of", runs=size(used), caches=size(kept), free=size(free))


def _memory(view: View) -> tuple[str, str]:
    import psutil

    found = psutil.virtual_memory()
    return size(found.available), view.words("tile.of", total=size(found.total))


def _table(view: View, found: list[tuple[LiveRun, Seen]], sort: str) -> Safe:
    w = view.words
    if not found:
        start = el("a", w("nav.new"), href="/new", cls="btn strong")
        return parts.empty(w("home.empty"), w("home.empty.how"), start)
    columns = [
        el("span", w("choose"), cls="hidden"), w("run"), w("status"), w("progress"), w("curve"), w("loss"),
        w("held"), w("speed"), w("time"),
    ]  # fmt: skip
    rows = [_row(view, live, seen) for live, seen in _sorted(found, sort)]
    return parts.table(columns, rows, cls="runs wide", label=w("home.title"))


def _sorted(found: list[tuple[LiveRun, Seen]], sort: str) -> list[tuple[LiveRun, Seen]]:
    keys: dict[str, Callable[[Seen], Any]] = {
        "name": lambda s: s.summary.name.lower(),
        "status": lambda s: (s.pulse.condition != "running", s.pulse.condition),
        "held": lambda s: s.summary.best_eval_loss if s.summary.best_eval_loss is not None else float("inf"),
        "speed": lambda s: -(s.summary.tokens_per_second or 0.0),
    }
    return sorted(found, key=lambda pair: keys[sort](pair[1])) if sort in keys else found


def _row(view: View, live: LiveRun, seen: Seen) -> list[Child]:
    w, run = view.words, seen.summary
    base = Path(run.base).name or run.base
    name = join(
        [
            el("a", run.name, href=f"/run/{run.id}", cls="name"),
            el("small", f"{base} · {_when(run.created)}", cls="quiet"),
        ]
    )
    left = seen.left
    spent = el("span", duration(run.seconds) if run.seconds else UNKNOWN)
    time = (
        join([w("left", time=duration(left)), el("small", spent, cls="quiet")]) if left is not None else spent
    )
    choose = el(
        "input", type="checkbox", value=run.id, data_choose=True, aria_label=w("choose.run", run=run.name)
    )
    ill = parts.why(w, seen) if seen.pulse.condition in ("hung", "died", "failed") else ""
    return [
        choose,
        name,
        join([parts.status(w, seen), el("small", ill, cls="quiet why") if ill else None]),
        parts.progress(run.step, run.total_steps, seen.pulse.condition),
        sparkline(live.losses()),
        number(run.loss, 3),
        parts.held_out(w, run.base_eval_loss, run.best_eval_loss),
        number(run.tokens_per_second, 0),
        time,
    ]


def _when(created: str) -> str:
    try:
        return datetime.fromisoformat(created).astimezone().strftime("%m-%d %H:%M")
    except ValueError:
        return ""


def _shows(job: Job) -> bool:
    """Whether a job is a training that waits, that starts, or whose start failed."""
    if job.verb not in ("train", "resume"):
        return False
    return job.state in ("waiting", "lost", "working") or (
        job.state == "failed" and job.code not in (75, 130, 143)
    )


def _queue(view: View, place: ui.element, jobs: list[Job]) -> None:
    w, state = view.words, view.state
    place.clear()
    if not jobs:
        return
    with place:
        block(el("h2", w("queue")))
        for job in jobs[:12]:
            with ui.element("div").classes("job"):
                block(
                    join(
                        [
                            el("span", w(f"job.{job.state}"), cls=f"status job-{job.state}"),
                            el("a", job.title or job.id, href=f"/job/{job.id}", cls="name"),
                        ]
                    )
                )
                if job.state == "waiting" and not view.read_only:
                    button(
                        w("queue.remove"),
                        guarded(lambda job=job: state.actions.may() or state.jobs.cancel(job)),
                    )
                if job.state == "lost" and not view.read_only:
                    button(
                        w("queue.again"),
                        guarded(lambda job=job: state.actions.may() or state.jobs.again(job)),
                    )


def _models(view: View, disk: Mapping[str, Any] | None) -> Safe:
    """The built-in models; what the hubs' caches hold; the adapters that were trained here."""
    w = view.words
    found = disk or {"held": (), "trained": ()}  # not looked yet, or the helper failed
    rows: list[list[Child]] = [
        [el("b", model.name), w("held.model"), size(model.size),
         f"{w('here') if model.path is not None else w('there')} · {model.licence}"]
        for model in list_models()
    ]  # fmt: skip
    rows += [
        [el("b", visible(one["name"])), w(f"held.{one['kind']}"), size(one["size"]), w("here")]
        for one in found["held"]
    ]
    rows += [
        [_adapter(view, one["run"]), w("held.adapter"), size(one["size"]), w("held.trained")]
        for one in found["trained"]
    ]
    wait = el("p", w("models.looking"), cls="quiet", role="status") if disk is None else None
    return join([el("h2", w("models")), parts.table([w("model"), w("kind"), w("size"), ""], rows), wait])


def _adapter(view: View, run: str) -> Safe:
    """A run's adapter, with links to what can be done with it."""
    return el("a", title_of(view.state.places.runs / run), href=f"/ship?run={run}", cls="name inline")
