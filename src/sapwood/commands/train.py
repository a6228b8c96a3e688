"""``sapwood train``, ``resume`` and ``runs``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

from sapwood.adapter.facts import ADAPTER_DIR
from sapwood.commands.answers import show_answers
from sapwood.config.file import load_config
from sapwood.config.sections import RunConfig
from sapwood.machine.doing import doing
from sapwood.run import query
from sapwood.run.lines import to_line
from sapwood.run.store import RUN
from sapwood.show import tables
from sapwood.show.console import reporter
from sapwood.show.manner import quiet
from sapwood.show.stream import SafeStream
from sapwood.train.processes.world import ALONE, World, join
from sapwood.types import Adapter

if TYPE_CHECKING:
    from sapwood.prepare.study import Study


def train_config(
    path: Path | None, overrides: list[str], *, spill: Path | None = None, as_json: bool
) -> None:
    with join() as world:
        if world.leads:
            run_config(load_config(path, overrides), spill=spill, as_json=as_json, world=world)
        else:
            follow_first(world)


def follow_first(world: World) -> None:
    from sapwood.train.processes.follow import follow

    follow(world)


def run_config(
    config: RunConfig,
    *,
    spill: Path | None = None,
    as_json: bool = False,
    world: World = ALONE,
    settle: Callable[[RunConfig, Study], tuple[RunConfig, str]] | None = None,
) -> Adapter:
    """Study, say what was found, train, sum up. settle: changes the config by what the study found, and says
    so in a line."""
    from sapwood.commands.data import study_lines
    from sapwood.prepare.study import study_config
    from sapwood.train.schedule import plan_steps

    check_run_folder(Path(config.save.dir))
    study = study_config(config)
    with doing("importing torch"):  # and PEFT: a fault in the data is told before
        from sapwood.pipeline import train_study

    config, line = (config, "") if settle is None else settle(config, study)
    if not as_json and not quiet():
        say("\n".join([*study_lines(study, config), *([line] if line else [])]))
    steps = plan_steps(len(study.data.train), config.train).total_steps
    with reporter(sys.stdout, steps, as_json, title=config.name or config.base.model) as shown:
        adapter = train_study(config, study, shown.show, spill, world, tell=ignore if as_json else shown.note)
    conclude(adapter, as_json=as_json)
    return adapter


def resume_run(
    name: str, runs: Path, *, allow: list[str] | None = None, spill: Path | None = None, as_json: bool
) -> None:
    with join() as world:
        if not world.leads:
            follow_first(world)
            return
        from sapwood.restart import resume

        path = query.find_run(runs, name)
        before = query.summarise(path)
        title = before.name or before.id
        with reporter(
            sys.stdout, before.total_steps or 0, as_json, title=title, base_loss=before.base_eval_loss
        ) as shown:
            how = before.status if before.cause is None else f"{before.status}: {before.cause}"
            shown.note(f"resuming {before.id} ({how}; {before.step} steps recorded)")
            adapter = resume(
                path,
                shown.show,
                allow=allow or (),
                spill=spill,
                world=world,
                tell=ignore if as_json else shown.note,
            )
        conclude(adapter, as_json=as_json)


def ignore(text: str) -> None:
    """Does nothing with a sentence: a program finds the same in run.json."""


def say(text: str) -> None:
    """A line on stdout, as long as somebody reads. A reader who leaves stops no training."""
    stream = SafeStream(sys.stdout)
    stream.write(f"{tables.hanging(text)}\n")
    stream.flush()


def conclude(adapter: Adapter, *, as_json: bool) -> None:
    """Sum up a run. If its disk was full, only say where the adapter went."""
    if (adapter.path.parent / RUN).is_file():
        sum_up(adapter.path.parent, as_json=as_json)
    elif as_json:
        say_result(None, adapter.path)
    else:
        say(f"finished; the run's own disk is full, so the adapter went to {adapter.path}")


def say_result(run: Path | None, adapter: Path) -> None:
    """The last line of `--json`: one object a line, as the events before it."""
    say(to_line({"kind": "result", "run": run and str(run), "adapter": str(adapter)}).decode().rstrip())


def sum_up(run: Path, *, as_json: bool) -> None:
    """The curve as a picture, answers before and after, figures, and the commands for what comes next."""
    from sapwood.show.plot import keep_curve

    keep_curve(run)
    if as_json:
        say_result(run, run / ADAPTER_DIR)
    elif quiet():
        say(str(run))
    else:
        out = SafeStream(sys.stdout)
        show_answers(run, out)
        tables.summary(cast("TextIO", out), query.summarise(run))


def check_run_folder(folder: Path) -> None:
    """Fail before anything is read or loaded when the runs can't be written."""
    from sapwood.errors import StorageError

    existing = folder.absolute()
    while not existing.exists() and not existing.is_symlink():
        existing = existing.parent
    if not existing.is_dir():
        raise StorageError(
            f"{existing} is not a folder", "save.dir", "runs are folders below it", "name another folder"
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise StorageError(
            f"can't write to {existing}", "save.dir", mend="name a folder of your own: save.dir=FOLDER"
        )
