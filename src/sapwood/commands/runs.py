"""``sapwood runs``: list them, compare them, as a table, CSV, JSON, or one picture."""

from __future__ import annotations

import csv as csv_format
import io
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from sapwood.errors import ConfigError
from sapwood.run import query
from sapwood.run.files import to_json, write_atomic
from sapwood.run.query import RunSummary
from sapwood.show import tables

ORDERS: dict[str, Callable[[RunSummary], Any]] = {
    "name": lambda run: run.name,
    "status": lambda run: run.status,
    "loss": lambda run: _last_if_unknown(run.loss),
    "held-out": lambda run: _last_if_unknown(run.best_eval_loss),
    "speed": lambda run: -(run.tokens_per_second or 0.0),
    "time": lambda run: -run.seconds,
}


def show_runs(
    names: list[str], runs: Path, *, sort: str, csv: Path | None, plot: Path | None, as_json: bool
) -> None:
    """The named runs side by side, or all of them, in the order of ``sort``: the best first."""
    if sort != "date" and sort not in ORDERS:
        raise ConfigError(f"runs can't be sorted by {sort!r}", "--sort", mend=f"date, {', '.join(ORDERS)}")
    paths = [query.find_run(runs, name) for name in names]
    found = [query.summarise(path) for path in paths] if names else query.list_runs(runs)
    if sort != "date":
        found.sort(key=ORDERS[sort])
    if plot is not None:
        draw(plot, found)
    if csv is not None:
        write_csv(csv, found)
    if csv is None and plot is None:
        _print(found, runs, compare=bool(names), as_json=as_json)


def write_csv(file: Path, found: Sequence[RunSummary]) -> None:
    """One line for each run, with a head; ``-`` is stdout."""
    out = io.StringIO()
    writer = csv_format.writer(out, lineterminator="\n")
    writer.writerow([field.name for field in fields(RunSummary)])
    writer.writerows([list(asdict(run).values()) for run in found])
    if str(file) == "-":
        sys.stdout.write(out.getvalue())
        return
    write_atomic(file, out.getvalue())
    print(f"wrote {len(found)} runs to {file}")


def draw(file: Path, found: Sequence[RunSummary]) -> None:
    from sapwood.show.plot import curves_together

    if not found:
        raise ConfigError("no runs to draw", "--plot", mend="sapwood train CONFIG makes one")
    write_atomic(file, curves_together([run.path for run in found]))
    print(f"drew {len(found)} runs into {file}")


def _print(found: Sequence[RunSummary], runs: Path, *, compare: bool, as_json: bool) -> None:
    figures = [asdict(run) | {"path": str(run.path)} for run in found]
    if compare:
        comparison = query.compare_runs([run.path for run in found])
        if as_json:
            print(to_json({"runs": figures, "config": dict(comparison.config)}), end="")
        else:
            tables.show_comparison(sys.stdout, comparison)
    elif as_json:
        print(to_json(figures), end="")
    elif not found:
        print(f"no runs in {runs} yet: sapwood demo")
    else:
        tables.show_runs(sys.stdout, found)


def _last_if_unknown(value: float | None) -> float:
    return math.inf if value is None else value
