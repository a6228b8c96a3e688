"""Runs as data frames, for a notebook or a script."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sapwood.errors import ConfigError
from sapwood.run.query import LAST, RunSummary, find_run, list_runs, read_config, read_events, read_samples
from sapwood.run.query import summarise as summarise_run

if TYPE_CHECKING:
    from pandas import DataFrame


def runs(folder: str | Path = "runs") -> DataFrame:
    """All runs below ``folder``, newest first: a row for each, its columns those of `RunSummary`.

    Raises ConfigError if pandas isn't installed.
    """
    found = [asdict(run) for run in list_runs(Path(folder))]
    return _frame(found, list(RunSummary.__dataclass_fields__))


class Run:
    """A run to look at, read-only.

    Args:
        name: its id, its name, its folder, or ``last``. Raises ConfigError if nothing is called that.
        folder: where runs are.
    """

    def __init__(self, name: str | Path = LAST, folder: str | Path = "runs") -> None:
        self.path = find_run(Path(folder), str(name))

    @property
    def summary(self) -> RunSummary:
        return summarise_run(self.path)

    @property
    def config(self) -> dict[str, Any]:
        """Its config by key path."""
        return read_config(self.path)

    def events(self) -> DataFrame:
        """A row for each event: seq, t (seconds since 1970), step, kind, and what that kind has: loss, lr,
        grad_norm, num_tokens, seconds …; an evaluation's scores by their own names."""
        events, _ = read_events(self.path)
        rows: list[dict[str, Any]] = []
        for event in events:
            data = dict(event["data"])
            scores = data.pop("scores", {})
            rows.append({**{key: event[key] for key in ("seq", "t", "step", "kind")}, **data, **scores})
        return _frame(rows, ["seq", "t", "step", "kind"])

    def samples(self) -> DataFrame:
        """A row for each sample answer."""
        return _frame(read_samples(self.path), ["step", "prompt", "answer"])


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> DataFrame:
    try:
        from pandas import DataFrame
    except ModuleNotFoundError:
        raise ConfigError("a data frame needs pandas", "runs", mend="python -m pip install pandas") from None
    return DataFrame(rows, columns=None if rows else columns)
