"""``sapwood track``: tell trackers of a run, afterwards or (for `sapwood train`) meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sapwood.config.file import load_config
from sapwood.config.sections import TrackConfig
from sapwood.errors import ConfigError, SapwoodError
from sapwood.machine.system import step_back
from sapwood.run import query
from sapwood.run.files import to_json
from sapwood.run.store import CONFIG
from sapwood.trackers.follow import POLITE, until_stdin_ends
from sapwood.trackers.send import send_run


def track_run(name: str, runs: Path, settings: list[str], *, as_json: bool) -> None:
    """Tell each tracker what it hasn't been told yet. If one fails, the others are still told.

    ``settings``: overrides of the run's own ``track`` section.
    """
    run = query.find_run(runs, name)
    track = _settings(run, settings)
    if not track.to:
        raise ConfigError("no tracker is named", str(run), mend=f"sapwood track {run} --to tensorboard")
    told: list[dict[str, object]] = []
    failed: list[SapwoodError] = []
    for tracker in track.to:
        try:
            place, events = send_run(run, tracker, **_how(track))
        except SapwoodError as error:
            failed.append(error)
            continue
        told.append({"tracker": tracker, "place": place, "events": events})
        if not as_json:
            print(f"{tracker:<12} {events:,} events to {place}" if place else f"{tracker:<12} nothing new")
            if see := query.boards(run).get(tracker):
                print(f"{'':<12} {see}")
    if as_json:
        print(to_json({"run": str(run), "trackers": told}), end="")
    if len(failed) == 1:
        raise failed[0]
    if failed:
        raise SapwoodError([problem for error in failed for problem in error.problems])


def follow_run(run: Path, settings: list[str]) -> None:
    """One tracker, until stdin ends: what `sapwood train` starts beside itself."""
    more = until_stdin_ends()
    step_back(POLITE)
    track = _settings(run, settings)
    for tracker in track.to:
        send_run(run, tracker, **_how(track), more=more)


def _how(track: TrackConfig) -> dict[str, Any]:
    return {"project": track.project, "cloud": track.mode == "cloud", "every": track.every}


def _settings(run: Path, settings: list[str]) -> TrackConfig:
    return load_config(run / CONFIG, settings).track
