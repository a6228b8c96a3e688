"""From a run's directory to a tracker. The code is the same while the run goes on, and long after the run.

Points go out at least once. Once the tracker has closed well, what was sent is remembered, so that a resumed
run continues there. A tracker that broke is told everything again, under the same id.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sapwood.errors import SapwoodError, brief
from sapwood.run.files import to_json, write_atomic
from sapwood.run.query import (
    SEE,
    TRACKERS,
    EventRecord,
    read_config,
    read_events,
    read_samples,
    summarise,
)
from sapwood.scores import perplexity
from sapwood.trackers.tracker import Figures, Subject, Tracker, open_tracker

SENT_KINDS = ("stepped", "evaluated")

Sent = dict[str, int]  # the last step that was sent, by kind of event


def send_run(
    run: Path,
    name: str,
    *,
    project: str,
    cloud: bool,
    every: int = 1,
    more: Callable[[], bool] = lambda: False,
) -> tuple[str | None, int]:
    """Tell a tracker all that it hasn't been told of a run.

    Args:
        run: the run's folder.
        name: of the tracker.
        project: what the tracker calls the collection of runs.
        cloud: whether data may leave this machine.
        every: of the steps, only each so-many-th is told; every evaluation is.
        more: waits a little; False once the run writes no more.

    Returns:
        Where the tracker keeps it (None if there was nothing to tell), and how many events it was told.

    Raises:
        SapwoodError: the tracker's library isn't installed, or it failed.
    """
    sent, offset, told = _read_sent(run, name), 0, 0
    tracker: Tracker | None = None
    finished = False
    try:
        while True:
            going = more()
            events, offset = read_events(run, offset)
            finished = finished or any(event["kind"] == "finished" for event in events)
            new = [event for event in events if event["step"] > sent.get(event["kind"], math.inf)]
            new = [event for event in new if event["kind"] != "stepped" or event["step"] % every == 0]
            if tracker is None and (new or going):
                tracker = open_tracker(name, subject_of(run, name, project=project, cloud=cloud))
            for event in new:
                assert tracker is not None
                _tell(tracker, run, event)
                sent[event["kind"]] = event["step"]
            told += len(new)
            if not going:
                break
        if tracker is None:
            return None, 0
        tracker.close(finished)
    except SapwoodError:
        raise
    except Exception as error:  # a library may raise anything: its name and its sentence are told
        why = f"{type(error).__name__}: {brief(error, 300)}"
        raise SapwoodError(f"{name} failed", str(run), why, f"sapwood track {run} --to {name}") from error
    _remember(_sent_file(run, name), {**sent, SEE: tracker.see})
    return tracker.place, told


def subject_of(run: Path, name: str, *, project: str, cloud: bool) -> Subject:
    """What a tracker is told about a run before its first event."""
    about = summarise(run)
    config = {key: value for key, value in read_config(run).items() if value is not None}
    shared = run.parent / TRACKERS / name
    return Subject(about.id, about.name, project, config, run, shared, cloud)


def figures_of(event: EventRecord) -> dict[str, float]:
    """An event as points of curves, under the names that SwanLab's and transformers' users know."""
    data = event["data"]
    if event["kind"] == "stepped":
        seconds = data.get("seconds")
        found = {
            "train/loss": data.get("loss"),
            "train/learning_rate": data.get("lr"),
            "train/grad_norm": data.get("grad_norm"),
            "train/epoch": data.get("epoch"),
            "train/tokens_per_second": data["num_tokens"] / seconds if seconds else None,
            "system/peak_gigabytes": data["peak_bytes"] / 1e9 if data.get("peak_bytes") else None,
        }
    else:
        loss = data.get("loss")
        found = {"eval/loss": loss, "eval/perplexity": None if loss is None else perplexity(loss)}
        found |= {f"eval/{name}": value for name, value in data.get("scores", {}).items()}
    return {key: float(value) for key, value in found.items() if value is not None}


# --- inside -----------------------------------------------------------------------------------------------


def _tell(tracker: Tracker, run: Path, event: EventRecord) -> None:
    figures: Figures = figures_of(event)
    if figures:
        tracker.figures(event["step"], event["t"], figures)
    if event["kind"] == "evaluated":
        answers = [sample for sample in read_samples(run) if sample.get("seq") == event["seq"]]
        if answers:
            tracker.samples(event["step"], event["t"], answers)


def _remember(path: Path, sent: Mapping[str, int | str]) -> None:
    with contextlib.suppress(OSError):  # write_atomic says what is wrong with the folder
        path.parent.mkdir(exist_ok=True)
    write_atomic(path, to_json(sent))


def _sent_file(run: Path, name: str) -> Path:
    return run / TRACKERS / f"{name}.json"


def _read_sent(run: Path, name: str) -> Sent:
    sent: Mapping[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        sent = json.loads(_sent_file(run, name).read_bytes())
    steps = {kind: sent.get(kind, -1) if isinstance(sent, dict) else -1 for kind in SENT_KINDS}
    return {kind: step if isinstance(step, int) else -1 for kind, step in steps.items()}
