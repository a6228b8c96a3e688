"""Reading runs: find one, list them, follow one, compare several. Nothing here writes, so anyone may look."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sapwood.errors import ConfigError, StorageError, brief
from sapwood.run.events import EventRecord, Tally, valid
from sapwood.run.lines import read_lines
from sapwood.run.lock import is_locked, why_it_ended
from sapwood.run.store import CONFIG, EVENTS, RUN, SAMPLES, STATUS

LAST = "last"
TRACKERS = "trackers"  # in a run: what was sent to each, and how it is seen; beside the runs: what they share
SEE = "see"


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run in figures. What isn't known yet is None; losses are in nats.

    Attributes:
        status: running, finished, stopped, failed, crashed (says running, but nobody holds it) or unknown.
        cause: what is known of a crash.
        step: the last optimizer step; ``total_steps``: as planned.
        base_eval_loss: held-out loss before training, at step 0: the base's, or that of the adapter that the
            run goes on from (`lora.start_from`).
        seconds: time spent in steps and evaluations, over all resumes.
        skipped_steps: whose loss or gradient was no number (`train.on_nan`).
        damaged_lines: lines of events.jsonl that couldn't be read.
    """

    id: str
    name: str
    path: Path
    status: str
    cause: str | None
    created: str
    base: str
    parent: str | None
    step: int
    total_steps: int | None
    loss: float | None
    best_eval_loss: float | None
    base_eval_loss: float | None
    last_eval_loss: float | None
    tokens_per_second: float | None
    seconds: float
    skipped_steps: int
    damaged_lines: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs side by side. ``config`` maps each key path that differs to its value in each run, in their order;
    a key that a run's config doesn't have is None."""

    runs: tuple[RunSummary, ...]
    config: Mapping[str, tuple[Any, ...]]


def run_folders(root: Path) -> list[Path]:
    """Runs, oldest first, by the time in run.json: copying changes a folder's own times."""
    runs = [path for path in root.iterdir() if _is_run(path)] if root.is_dir() else []
    return sorted(runs, key=lambda path: (str(_read_json(path / RUN).get("created", "")), path.name))


def find_run(root: Path, text: str) -> Path:
    """The run that a person means: its full id, its path, a beginning of its id that no other has, its name,
    or ``last``, the newest.

    Raises ConfigError naming the runs that ``text`` could mean, or the nearest ones.
    """
    if text and _is_run(Path(text)):
        return Path(text)
    runs = run_folders(root)
    if not runs:
        raise ConfigError("no runs yet", str(root), mend="`sapwood train CONFIG` makes one")
    ids = {path.name: path for path in runs}
    if text in ids:
        return ids[text]
    if text == LAST:
        return runs[-1]
    named = [path for path in runs if _read_json(path / RUN).get("name") == text]
    matches = named or [path for path in runs if text and path.name.startswith(text)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        listed = ", ".join(path.name for path in reversed(matches))
        raise ConfigError(
            f"{text} means {len(matches)} runs", str(root), f"newest first: {listed}", "give the id"
        )
    near = difflib.get_close_matches(text, [*ids, *_names(runs)], n=3, cutoff=0.5)
    mend = f"did you mean {' or '.join(near)}?" if near else f"the newest is {runs[-1].name}"
    raise ConfigError(f"no run is called {text!r}", str(root), mend=mend)


def list_runs(root: Path) -> list[RunSummary]:
    """All runs below ``root``, newest first."""
    return [summarise(path) for path in reversed(run_folders(root))]


def summarise(run: Path) -> RunSummary:
    """One run in figures. Raises StorageError if ``run`` holds none."""
    found = standing(run)
    lines = read_lines(run / EVENTS)
    events = valid(lines.records)
    tally = Tally()
    tally.add(events)
    return summary_of(found, tally, lines.garbage + len(lines.records) - len(events))


@dataclass(frozen=True, slots=True)
class Standing:
    """What a run's small files say: ``about`` of run.json, ``status`` of status.json, and who holds it."""

    path: Path
    about: Mapping[str, Any]
    status: Mapping[str, Any]
    held: bool

    @property
    def facts(self) -> Mapping[str, Any]:
        return self.about.get("facts", {})

    @property
    def crashed(self) -> bool:
        """Whether the run's status says running, but no process holds the run."""
        return self.status.get("status") == "running" and not self.held


def standing(run: Path) -> Standing:
    """Raises StorageError if ``run`` holds none."""
    about = _read_json(run / RUN)
    if not about:
        raise StorageError(
            "not a run", str(run), f"it has no readable {RUN}", "`sapwood runs` lists the runs"
        )
    held = is_locked(run)  # before the status, so that a run which ends in between has its final status
    return Standing(run, about, _read_json(run / STATUS), held)


def summary_of(found: Standing, tally: Tally, damaged_lines: int) -> RunSummary:
    """One run in figures, of which ``tally`` has summed up the events."""
    run, about, status = found.path, found.about, found.status
    return RunSummary(
        id=run.name,
        name=str(about.get("name", run.name)),
        path=run,
        status="crashed" if found.crashed else str(status.get("status", "unknown")),
        cause=why_it_ended(run) if found.crashed else None,
        created=str(about.get("created", "")),
        base=str(found.facts.get("base", "")),
        parent=about.get("parent"),
        step=tally.step,
        total_steps=status.get("total_steps", found.facts.get("total_steps")),
        loss=tally.loss,
        best_eval_loss=tally.best_loss,
        base_eval_loss=tally.base_loss,
        last_eval_loss=tally.held_loss,
        tokens_per_second=tally.tokens_per_second,
        seconds=tally.step_seconds + tally.eval_seconds,
        skipped_steps=tally.skipped,
        damaged_lines=damaged_lines,
    )


def read_events(run: Path, offset: int = 0) -> tuple[list[EventRecord], int]:
    """Events of a run from byte ``offset`` on, and the offset for the next call.

    A line that is still being written waits for the next call; a damaged line is skipped (`RunSummary` counts
    them). After a resume the file may be shorter than ``offset``: reading goes on from its end.
    """
    lines = read_lines(run / EVENTS, offset)
    return valid(lines.records), lines.next_offset


def read_samples(run: Path) -> list[dict[str, Any]]:
    """All sample answers of a run, oldest first, as written by `RunStore.record`."""
    return list(read_lines(run / SAMPLES).records)


def boards(run: Path) -> dict[str, str]:
    """For each tracker that was told of the run, the command (or the sentence) that shows its curves."""
    told = {path.stem: _read_json(path).get(SEE) for path in sorted((run / TRACKERS).glob("*.json"))}
    return {name: see for name, see in told.items() if isinstance(see, str)}


def read_config(run: Path) -> dict[str, Any]:
    """The run's config as plain data, flattened to key paths, whatever version wrote it."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    from sapwood.config.file import flatten

    try:
        tree = YAML(typ="safe", pure=True).load((run / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, YAMLError) as error:
        raise StorageError("config can't be read", str(run / CONFIG), brief(error)) from None
    return flatten(cast("dict[str, Any]", tree)) if isinstance(tree, dict) else {}


def compare_runs(paths: Sequence[Path]) -> Comparison:
    """Figures of several runs, and the config keys in which they differ."""
    configs = [read_config(path) for path in paths]
    keys = list(dict.fromkeys(key for config in configs for key in config))
    rows = {key: tuple(config.get(key) for config in configs) for key in keys}
    differing = {key: values for key, values in rows.items() if any(value != values[0] for value in values)}
    return Comparison(tuple(summarise(path) for path in paths), differing)


# --- inside -----------------------------------------------------------------------------------------------


def _is_run(path: Path) -> bool:
    return (path / RUN).is_file()


def _names(runs: Sequence[Path]) -> list[str]:
    return list(dict.fromkeys(str(_read_json(path / RUN).get("name", "")) for path in runs))


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is none, so that one damaged run can't hide the others."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
