"""Runs as data frames, for a notebook or a script."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sapwood.errors import ConfigError
from sapwood.machine.extras import install
from sapwood.run.query import LAST, RunSummary, find_run, list_runs, read_config, read_events, read_samples
from sapwood.run.query import summarise as summarise_run

if TYPE_CHECKING:
    from pandas import DataFrame


def runs(folder: str | Path = "runs") -> DataFrame:
    """All runs below ``folder``, newest first: a row for each.

    Args:
        folder: where runs are.

    Returns:
        A frame with the columns id, name, path, status, cause, created, base, parent, step, total_steps,
        loss, best_eval_loss, base_eval_loss, last_eval_loss (nats), tokens_per_second, seconds,
        skipped_steps and damaged_lines.

    Raises:
        ConfigError: pandas isn't installed.

    Examples:
        >>> table = sapwood.runs()
        >>> finished = table[table.status == "finished"]
    """
    found = [asdict(run) for run in list_runs(Path(folder))]
    return _frame(found, list(RunSummary.__dataclass_fields__))


class Run:
    """A run to look at, read-only.

    Args:
        name: its id, its name, its folder, or ``last``.
        folder: where runs are.

    Attributes:
        path: the run's folder.

    Raises:
        ConfigError: no run is called that.

    Examples:
        >>> run = sapwood.Run("last")
        >>> run.summary.status
        'finished'
        >>> run.config["lora.rank"]
        8
    """

    def __init__(self, name: str | Path = LAST, folder: str | Path = "runs") -> None:
        self.path = find_run(Path(folder), str(name))

    @property
    def summary(self) -> RunSummary:
        """The run in figures: status, step, losses in nats, tokens a second, seconds."""
        return summarise_run(self.path)

    @property
    def config(self) -> dict[str, Any]:
        """Its config by key path, for example ``lora.rank``."""
        return read_config(self.path)

    def events(self) -> DataFrame:
        """Every event of the run.

        Returns:
            A frame with a row for each event: seq, t (seconds since 1970), step, kind, and what that kind
            has: loss (nats), lr, grad_norm, num_tokens, seconds …; an evaluation's scores by their own
            names.

        Raises:
            ConfigError: pandas isn't installed.
            StorageError: the file of events can't be read.

        Examples:
            >>> events = sapwood.Run("last").events()
            >>> curve = events[events.kind == "stepped"][["step", "loss"]]
        """
        events, _ = read_events(self.path)
        rows: list[dict[str, Any]] = []
        for event in events:
            data = dict(event["data"])
            scores = data.pop("scores", {})
            rows.append({**{key: event[key] for key in ("seq", "t", "step", "kind")}, **data, **scores})
        return _frame(rows, ["seq", "t", "step", "kind"])

    def samples(self) -> DataFrame:
        """Every sample answer of the run.

        Returns:
            A frame with a row for each answer: step, prompt, answer, and what else `Sample` has.

        Raises:
            ConfigError: pandas isn't installed.
            StorageError: the file of samples can't be read.

        Examples:
            >>> answers = sapwood.Run("last").samples()
        """
        return _frame(read_samples(self.path), ["step", "prompt", "answer"])


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> DataFrame:
    try:
        from pandas import DataFrame
    except ModuleNotFoundError:
        raise ConfigError("a data frame needs pandas", "runs", mend=install("pandas")) from None
    return DataFrame(rows, columns=None if rows else columns)
