"""The log, the config and the proof of a run, as tabs of its screen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from sapwood.page.drawn import parts
from sapwood.page.drawn.markup import Safe, el, join
from sapwood.page.drawn.shown import config_of, proof_of
from sapwood.page.live import LiveRun, Seen
from sapwood.page.shell import View, block
from sapwood.page.work.jobs import tail
from sapwood.page.work.runner import ERR, OUT
from sapwood.run.lock import holder
from sapwood.run.query import boards
from sapwood.show.figures import visible


def log(view: View, live: LiveRun) -> Callable[[Seen], None]:
    """Draw the output of the command, if the page started the run, and the notes of the run's record."""
    shown = block(Safe(""))

    def refresh(seen: Seen) -> None:
        shown.show(log_of(view, live))

    return refresh


def log_of(view: View, live: LiveRun) -> Safe:
    w = view.words
    pid, id = holder(live.path).get("pid"), live.path.name
    jobs = [
        job
        for job in reversed(view.state.jobs.all())
        if (job.child is not None and job.child == pid)
        or (job.verb == "resume" and job.title == id)
        or (job.verb == "train" and job.code is not None and _told_of(job.path, id))
    ]
    said = "\n".join(visible(job.said()) for job in jobs)
    notes = [
        [
            datetime.fromtimestamp(e["t"]).strftime("%H:%M:%S"),
            str(e["step"]),
            w(f"kind.{e['kind']}"),
            _note(e["data"]),
        ]
        for e in reversed(live.notes)
    ]
    links = [el("li", f"{name}: ", el("code", see)) for name, see in boards(live.path).items()]
    return join(
        [
            el("h2", w("log.said")),
            el("pre", said, cls="log", tabindex=0) if said else el("p", w("log.elsewhere"), cls="quiet"),
            el("h2", w("log.record")),
            parts.table([w("time"), w("step"), w("kind"), ""], notes)
            if notes
            else el("p", w("log.none"), cls="quiet"),
            el("h2", w("trackers")) if links else None,
            el("ul", links) if links else None,
        ]
    )


@cache
def _told_of(job: Path, id: str) -> bool:
    """Whether the output of a finished command names the run. The process that holds a run can't tell,
    because a resumed run is held by another one."""
    return any(id in tail(job / name) for name in (OUT, ERR))


def _note(data: Mapping[str, Any]) -> str:
    return visible("; ".join(f"{key}: {value}" for key, value in data.items() if not isinstance(value, dict)))


def config(view: View, live: LiveRun) -> Callable[[Seen], None]:
    block(config_of(view.words, live.path))
    return lambda seen: None


def proof(view: View, live: LiveRun) -> Callable[[Seen], None]:
    block(proof_of(view.words, live.path))
    return lambda seen: None
