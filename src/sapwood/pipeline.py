"""The page everyone reads first: one config in, one adapter out."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sapwood.adapter.facts import ADAPTER_DIR
from sapwood.adapter.folder import load_adapter, save_adapter
from sapwood.adapter.model import LoraModel
from sapwood.config.file import dump_config, load_config
from sapwood.config.sections import RunConfig
from sapwood.errors import (
    ConfigError,
    NumericsError,
    OutOfMemoryError,
    Problem,
    SapwoodError,
    Stopped,
    StorageError,
)
from sapwood.machine.measure import fastest_dtype, kernel_facts
from sapwood.machine.signals import stop_signals
from sapwood.plan import cheaper, choose_plan, settled
from sapwood.prepare.study import DATA, Study, fingerprints, load_study, save_study, study_config
from sapwood.run.files import set_aside
from sapwood.run.identity import Change, accept_changes, changes, identity_of, read_about
from sapwood.run.store import RunStore, open_run, package_versions, reopen_run
from sapwood.trackers.follow import followed
from sapwood.train.checkpoint import checkpoints, load_checkpoint, newest_good, share_state
from sapwood.train.explosion import LossWatch
from sapwood.train.loop import train
from sapwood.train.optim import TrainState
from sapwood.train.processes.follow import NOTHING_TO_DO, build, fresh_state, invite, sampler_of
from sapwood.train.processes.shard import refuse_division
from sapwood.train.processes.world import ALONE, World, partners
from sapwood.train.rehearse import out_of_memory, rehearse
from sapwood.train.saving import (
    SaveClock,
    insist,
    kept_when_lost,
    leave_best,
    require_room,
    save_when_stopped,
    try_to_save,
)
from sapwood.train.schedule import plan_steps
from sapwood.train.trial import tried
from sapwood.types import Adapter, Event, Stepped

Watcher = Callable[[Event], None]
UNUSUAL_LR = 0.01
log = logging.getLogger("sapwood")


def finetune(config: RunConfig, watch: Watcher | None = None, spill: Path | None = None) -> Adapter:
    """Train an adapter as ``config`` says, in a new run directory below ``config.save.dir``.

    Data is prepared and proved before any weight is loaded, so a bad row costs seconds. ``watch`` sees every
    event after it is recorded. ``spill`` takes the finished adapter where the run's own disk is full.
    Raises a child of SapwoodError; `Stopped` when a signal asked for it (resumable).
    """
    return train_study(config, study_config(config), watch, spill)


def train_study(
    config: RunConfig,
    study: Study,
    watch: Watcher | None = None,
    spill: Path | None = None,
    world: World = ALONE,
) -> Adapter:
    """`finetune`, for a caller that has shown the study to somebody first. In several processes this is what
    the first one does; the others `follow`."""
    refuse_model_folder(config)
    for doubt in [*doubts(config), *study.spec.notes]:
        log.warning("%s", doubt)
    study = tried(study, config)
    choice = choose_plan(study, config)
    config = settled(config, choice)
    refuse_division(config, world)
    steps = plan_steps(len(study.data.train), config.train).total_steps
    facts = {**study.facts, "total_steps": steps, "machine": fastest_dtype()[1]}
    facts |= {"identity": identity_of(config), "kernels": kernels_of(world), "memory": choice.to_json()}
    with open_run(
        Path(config.save.dir), name=config.name, config_yaml=dump_config(config), facts=facts
    ) as run:
        save_study(run.path / DATA, study)
        return train_run(run, config, study, watch, spill, world=world)


def doubts(config: RunConfig) -> Generator[str]:
    """What is allowed and seldom meant."""
    if config.train.lr > UNUSUAL_LR:
        yield f"train.lr={config.train.lr:g} is far above what is usual for LoRA (5e-5 to 5e-4)"
    if config.lora.method == "pissa" and config.lora.dropout:
        why = "it drops parts of the base, which start in the adapter"
        yield f"lora.dropout={config.lora.dropout:g} with pissa: {why}; lora.dropout=0 is usual"


def refuse_model_folder(config: RunConfig) -> None:
    """Runs are never kept among the files of the base model. Raises ConfigError."""
    model, runs = Path(config.base.model), Path(config.save.dir)
    if model.is_dir() and runs.resolve().is_relative_to(model.resolve()):
        why = "the base is only ever read"
        raise ConfigError("save.dir lies in the base model's folder", "save.dir", why, "name another folder")


def resume(
    path: Path,
    watch: Watcher | None = None,
    *,
    allow: Collection[str] = (),
    spill: Path | None = None,
    world: World = ALONE,
) -> Adapter:
    """Go on with an interrupted run. On the same machine the adapter is, bit for bit, the one that an
    undisturbed run would have given. A finished run is returned as it is.

    ``allow`` names what may differ from the start: keys of the config, ``base_fingerprint``,
    ``template_fingerprint``. Raises StorageError with one line for every other difference.
    """
    notes: list[str] = []
    with reopen_run(path) as run:
        if (adapter := finished_adapter(run, notes)) is not None:
            world.tell(NOTHING_TO_DO)
            return adapter
        config = load_config(path / "config.yaml")
        about = read_about(path)
        now = identity_of(config)
        changed = accept_changes(run, about["facts"].get("identity", now), now, allow)
        study, others = reopen_study(run, config, about["facts"], allow)
        notes += [f"resumed with a change that --allow named: {change}" for change in [*changed, *others]]
        notes += other_machine(about, world)
        return train_run(run, config, study, watch, spill, notes, world)


def finished_adapter(run: RunStore, notes: list[str]) -> Adapter | None:
    """The adapter that an earlier start finished; a damaged one is set aside, to be made again."""
    folder = run.path / ADAPTER_DIR
    if not folder.is_dir():
        return None
    try:
        adapter = load_adapter(folder)
    except StorageError as error:
        aside = set_aside(folder, "damaged")
        what = error.problems[0].what
        notes.append(f"the adapter is damaged ({what}); set aside as {aside.name}, made again")
        return None
    run.set_status("finished")
    return adapter


def reopen_study(
    run: RunStore, config: RunConfig, facts: dict[str, Any], allow: Collection[str]
) -> tuple[Study, list[Change]]:
    """The run's own copy of its data, and what base and template differ in by leave. A run that was killed
    before it had a copy reads the sources again."""
    folder = run.path / DATA
    fresh = not folder.exists() and not checkpoints(run.path)
    study = tried(study_config(config), config) if fresh else load_study(folder, config)
    now = fingerprints(study)
    changed = accept_changes(run, {key: facts[key] for key in now}, now, allow)
    if fresh:
        save_study(folder, study)
    return study, changed


def kernels_of(world: World) -> dict[str, Any]:
    return {**kernel_facts(), "processes": world.size}


def other_machine(about: dict[str, Any], world: World = ALONE) -> list[str]:
    """Bits are promised for the same versions, kernels, threads and number of processes only: a line where
    these differ."""
    then = {**about.get("versions", {}), **about["facts"].get("kernels", {})}
    found = changes(then, {**package_versions(), **kernels_of(world)})
    listed = "; ".join(map(str, found))
    return [f"the last bits may differ from an undisturbed run's: {listed}"] if found else []


def train_run(
    run: RunStore,
    config: RunConfig,
    study: Study,
    watch: Watcher | None,
    spill: Path | None = None,
    notes: Sequence[str] = (),
    world: World = ALONE,
) -> Adapter:
    """From the newest checkpoint, or from the start, to the adapter. ``notes`` go to the log once it is cut
    back to the checkpoint."""
    with status_of(run), stop_signals() as stop, with_advice(run, study, config), partners():
        invite(world, config, study)
        base, model = build(study.spec, config, world)
        require_room(run.path, model, config.save.keep + bool(study.data.eval))
        rehearse(model, study.data, config)
        state = start_or_resume(run, model, config, notes)
        share_state(world, model, state)
        sampler = sampler_of(model, study, config)
        clock = SaveClock(config.save, plan_steps(len(study.data.train), config.train).total_steps)
        losses = LossWatch()
        lost = kept_when_lost(run, model, state, config.save.keep, world)
        with lost, partners(), followed(run, config.track) as look_after_trackers:
            for event in train(model, study.data, state, config, sampler, world):
                run.record(event)
                look_after_trackers(event.step)
                if watch is not None:
                    watch(event)
                if isinstance(event, Stepped):
                    if (text := event.skipped or losses.warning(event)) is not None:
                        say(run, event.step, text)
                    if world.any(bool(stop)):
                        saved = save_when_stopped(run, model, state, config.save.keep)
                        raise stopped(run, state, saved, world)
                if clock.due(event, state):
                    try_to_save(run, model, state, config.save.keep)
        if config.keeps_best:
            leave_best(run, model, state)
        return insist(
            lambda place: save_adapter(place, model, base, study.renderer, study.facts, config, state.losses),
            run.path,
            None if spill is None else spill / run.id,
            stop=lambda: bool(stop),
        )


def stopped(run: RunStore, state: TrainState, saved: bool, world: World) -> Stopped:
    how = "saved" if saved else "not saved: the disk refused; resume goes on from the checkpoint before"
    what = f"stopped after step {state.step}, {how}"
    return Stopped(what, str(run.path), mend=world.resume(run.path))


def start_or_resume(
    run: RunStore, model: LoraModel, config: RunConfig, notes: Sequence[str] = ()
) -> TrainState:
    """A fresh state, or that of the newest checkpoint that verifies."""
    state = fresh_state(model, config)
    checkpoint, damaged = newest_good(run.path)
    if checkpoint is not None:
        run.truncate_events(load_checkpoint(checkpoint, model, state))
    elif damaged:
        raise StorageError(
            "no checkpoint of this run verifies",
            str(run.path),
            "; ".join(damaged),
            "they are set aside; `sapwood resume` once more starts over from the run's own data",
        )
    else:
        run.truncate_events(0)
    for text in [*notes, *damaged]:
        say(run, state.step, text)
    return state


def say(run: RunStore, step: int, text: str) -> None:
    """To the person who watches, and to the one who reads the run later."""
    run.note("note", step, text=text)
    log.warning("%s", text)


@contextmanager
def with_advice(run: RunStore, study: Study, config: RunConfig) -> Generator[None]:
    """Add to an error what only the run knows: its last good checkpoint, or what would fit in memory."""
    try:
        with out_of_memory("a step"):
            yield
    except NumericsError as error:
        kept = checkpoints(run.path)
        last = kept[-1].name if kept else "none: the run had not come to one"
        place = str(kept[-1]) if kept else str(run.path)
        raise NumericsError([*error.problems, Problem(f"last good checkpoint: {last}", place)]) from None
    except OutOfMemoryError as error:
        problem = error.problems[0]
        mend = "cheapest first: " + "; ".join(cheaper(study, config))
        raise OutOfMemoryError(problem.what, problem.where, problem.why, mend) from None


@contextmanager
def status_of(run: RunStore) -> Generator[None]:
    """Keep status.json true: running, then finished, stopped or failed. A disk that refuses it stops
    nothing: the lock and the adapter's folder tell the same."""
    run.set_status("running")
    try:
        yield
    except Stopped:
        with contextlib.suppress(StorageError):
            run.set_status("stopped")
        raise
    except BaseException as error:
        reason = str(error) if isinstance(error, SapwoodError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(StorageError):
            run.set_status("failed", reason=reason)
        raise
    with contextlib.suppress(StorageError):
        run.set_status("finished")
