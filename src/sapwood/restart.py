"""Going on with an interrupted run: what must be as it was, and what may differ if the user allows it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from sapwood.adapter.folder import ADAPTER_DIR, load_adapter
from sapwood.config.file import load_config
from sapwood.config.sections import RunConfig
from sapwood.errors import StorageError
from sapwood.machine.device import Device
from sapwood.pipeline import Teller, Watcher, log, say_lacks, train_run
from sapwood.plan.choose import settings_line
from sapwood.prepare.study import DATA, Study, fingerprints, load_study, save_study, study_config
from sapwood.run.files import set_aside
from sapwood.run.identity import Change, accept_changes, changes, identity_of, read_about
from sapwood.run.store import RunStore, package_versions, reopen_run
from sapwood.train.checkpoint import checkpoints
from sapwood.train.measures import Evaluator
from sapwood.train.processes.follow import NOTHING_TO_DO, kernels_of
from sapwood.train.processes.world import ALONE, World
from sapwood.train.trial import tried
from sapwood.types import Adapter


def resume(
    path: Path,
    watch: Watcher | None = None,
    *,
    allow: Collection[str] = (),
    spill: Path | None = None,
    world: World = ALONE,
    evaluators: Sequence[Evaluator] = (),
    tell: Teller = log.info,
) -> Adapter:
    """Go on with an interrupted run. On the same machine the adapter is, bit for bit, the one that an
    undisturbed run would have given. A finished run is returned as it is.

    Args:
        path: the run's folder.
        watch: as in `finetune`.
        allow: what may differ from the start: keys of the config, ``base_fingerprint``,
            ``template_fingerprint``.
        spill: takes the finished adapter if the run's own disk is full.
        world: the processes that share the run; a script of one process leaves it out.
        evaluators: those that the run was started with.
        tell: takes each sentence for the user.

    Raises:
        StorageError: something differs from the start, with a line for each difference; or a file of the run
            is damaged.
        LockedError: another process holds the run.
        Stopped: a signal or a watcher asked for it; the run is saved and resumable.

    Examples:
        >>> adapter = sapwood.resume(sapwood.Run("last").path)
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
        device = world.device(config.base.device_map)
        notes += other_machine(about, world, device)
        say_lacks(device, study.spec)
        tell(settings_line(config))
        return train_run(run, config, study, device, watch, spill, notes, world, evaluators, tell)


def finished_adapter(run: RunStore, notes: list[str]) -> Adapter | None:
    """The adapter that an earlier start finished. A damaged adapter is set aside, and made again."""
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
    """The run's own copy of its data, and the allowed differences of base and template. A run that was killed
    before it had a copy reads the sources again."""
    folder = run.path / DATA
    fresh = not folder.exists() and not checkpoints(run.path)
    study = tried(study_config(config), config)[0] if fresh else load_study(folder, config)
    now = fingerprints(study)
    changed = accept_changes(run, {key: facts[key] for key in now}, now, allow)
    if fresh:
        save_study(folder, study)
    return study, changed


def other_machine(about: dict[str, Any], world: World, device: Device) -> list[str]:
    """A sentence for each of these that differs from the first start: versions, kernels, threads, number of
    processes. The same bits are promised only if all of them are the same."""
    then = {**about.get("versions", {}), **about["facts"].get("kernels", {})}
    found = changes(then, {**package_versions(), **kernels_of(world, device)})
    listed = "; ".join(map(str, found))
    return [f"the last bits may differ from an undisturbed run's: {listed}"] if found else []
