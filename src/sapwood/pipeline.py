"""The page everyone reads first: one config in, one adapter out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sapwood.adapter.attach import attach_lora
from sapwood.adapter.folder import save_adapter
from sapwood.answers.speaker import TORCH
from sapwood.base.load import load_base
from sapwood.compute.lacking import device_notes
from sapwood.config.doubts import doubts, refuse_model_folder
from sapwood.config.file import dump_config
from sapwood.config.sections import RunConfig
from sapwood.machine.device import Device
from sapwood.machine.measure import machine_facts, measure_when_idle, measured_busy
from sapwood.machine.signals import stop_signals
from sapwood.plan.advice import with_advice
from sapwood.plan.choose import choose_plan, settings_line, settled
from sapwood.plan.time import Correction, Estimate, Pace, estimate
from sapwood.prepare.given import Rows, config_of
from sapwood.prepare.study import DATA, Study, save_study, study_config
from sapwood.run.identity import identity_of, read_about
from sapwood.run.store import RunStore, keeping_status, open_run
from sapwood.show.plot import keep_curve
from sapwood.trackers.follow import followed
from sapwood.train.checkpoint import share_state
from sapwood.train.explosion import LossWatch
from sapwood.train.loop import train
from sapwood.train.measures import Evaluator, measure_of
from sapwood.train.processes.follow import answered_by, invite, kernels_of, loading, sampler_of
from sapwood.train.processes.shard import refuse_division
from sapwood.train.processes.world import ALONE, World, partners
from sapwood.train.rehearse import rehearse
from sapwood.train.saving import (
    SaveClock,
    insist,
    kept_when_lost,
    leave_best,
    require_room,
    save_and_stop,
    try_to_save,
)
from sapwood.train.schedule import plan_steps
from sapwood.train.start import say, start_or_resume
from sapwood.train.threads import Threads
from sapwood.train.trial import tried
from sapwood.types import Adapter, BaseSpec, Event, Stepped, Stop

log = logging.getLogger("sapwood")
Watcher = Callable[[Event], object]
"""A function that sees every event after it is recorded. If it returns a `Stop`, the run is saved and
ended."""
Teller = Callable[[str], None]
"""A function that takes a sentence for the user: how long the run will take, what computes it."""


def finetune(
    config: RunConfig | Mapping[str, Any] | None = None,
    watch: Watcher | None = None,
    spill: Path | None = None,
    *,
    data: Rows | None = None,
    evaluators: Sequence[Evaluator] = (),
    **sections: Any,
) -> Adapter:
    """Train an adapter as ``config`` says, in a new run directory below ``config.save.dir``.

    Data are prepared and proved before any weight is loaded, so a bad row costs seconds. At the end the curve
    is drawn into the run's loss.png.

    Args:
        config: a `RunConfig`, a mapping of its sections, or nothing: then ``sections`` are keyword arguments.
        watch: sees every event after it is recorded. If it returns a `Stop`, the run is saved and stopped.
        spill: takes the finished adapter if the run's own disk is full.
        data: rows in memory (mappings, a data frame, a `datasets.Dataset`) or the names of files, in place of
            ``data.train``.
        evaluators: called at each evaluation with the model as it stands. Their numbers join its scores.
        sections: sections of the config, each a mapping, in place of ``config``.

    Raises:
        ConfigError: a key is unknown, or a value is out of its bounds.
        DataError: a row can't be trained on.
        ModelError: the base is missing, damaged, or can't be trained in this way.
        StorageError: the disk can't take the run.
        NumericsError: a loss or a gradient is no number.
        OutOfMemoryError: no way to compute a step fits in memory.
        Stopped: a signal or a watcher asked for it; the run is saved and resumable.

    Examples:
        >>> rows = [{"prompt": f"Tree {i}?", "completion": "Water it well."} for i in range(12)]
        >>> adapter = sapwood.finetune(
        ...     data=rows, base={"model": "builtin:smollm2"}, train={"max_steps": 2}, eval={"samples": 0}
        ... )
        >>> adapter.path.name
        'adapter'
    """
    settled = config_of(config, data, sections)
    adapter = train_study(settled, study_config(settled), watch, spill, evaluators=evaluators)
    keep_curve(adapter.path.parent)
    return adapter


def say_lacks(device: Device, spec: BaseSpec) -> None:
    """What a person should know of the GPU before weights are loaded, at a start and at a resume."""
    for note in device_notes(device, spec.hf_config):
        log.warning("%s", note)


def train_study(
    config: RunConfig,
    study: Study,
    watch: Watcher | None = None,
    spill: Path | None = None,
    world: World = ALONE,
    evaluators: Sequence[Evaluator] = (),
    tell: Teller = log.info,
) -> Adapter:
    """`finetune`, for a caller that has already made the study, for example to show it. If several processes
    share the run, the first one calls this function, and the others call `follow`."""
    refuse_model_folder(config)
    for doubt in [*doubts(config), *study.spec.notes]:
        log.warning("%s", doubt)
    study, config = tried(study, config)
    if why := study.facts["proof"]["trial"]["why"]:
        log.warning("each row has a forward pass of its own: %s", why)
    device = world.device(config.base.device_map)
    say_lacks(device, study.spec)
    measure_when_idle(device)
    choice = choose_plan(study, config, device)
    asked, config = config, settled(config, choice, device)
    refuse_division(config, world)
    expected = estimate(study, config, device)
    tell(settings_line(config))
    tell(expected.time_line())
    answers = answered_by(study, config, device, world)
    if study.probes:
        tell(f"samples    answered by {answers}")
    facts = {**study.facts, "total_steps": expected.steps, "machine": machine_facts(device)}
    facts |= {
        "identity": identity_of(config),
        "kernels": kernels_of(world, device),
        "memory": choice.to_json(),
        "estimate": expected.to_json(),
        "answers": answers,
    }
    watch_threads = asked.train.threads is None and world.size == 1 and measured_busy(device)
    with open_run(
        Path(config.save.dir), name=config.name, config_yaml=dump_config(config), facts=facts
    ) as run:
        save_study(run.path / DATA, study)
        return train_run(
            run, config, study, device, watch, spill, world=world, evaluators=evaluators, tell=tell,
            expected=expected, watch_threads=watch_threads,
        )  # fmt: skip


def train_run(
    run: RunStore,
    config: RunConfig,
    study: Study,
    device: Device,
    watch: Watcher | None,
    spill: Path | None = None,
    notes: Sequence[str] = (),
    world: World = ALONE,
    evaluators: Sequence[Evaluator] = (),
    tell: Teller = log.info,
    expected: Estimate | None = None,
    watch_threads: bool = False,
) -> Adapter:
    """Train from the newest checkpoint, or from the start, to the finished adapter.

    notes: sentences that go into the run's log, after the log is cut back to the checkpoint.
    expected: the estimate of the run's time. One forward pass and the first steps correct it.
    watch_threads: the number of threads was measured on a busy machine, and is to be measured again when
    the machine is idle.
    """
    total_steps, keep = plan_steps(len(study.data.train), config.train).total_steps, config.save.keep
    with keeping_status(run), stop_signals() as stop, with_advice(run, study, config, device), partners():
        invite(world, config, study)
        with loading(world, config, device) as place:
            base = load_base(study.spec, config.base, device)
            model = attach_lora(base, config.lora, config.train.seed)
            base, model = place(base, model)
        require_room(run.path, model, keep + bool(study.data.eval))
        correction = None if expected is None else Correction(expected, Pace.of(study, config, device))
        timed = None if correction is None or world.size > 1 else correction.worth_a_pass
        pack, seconds = rehearse(model, study.data, config, timed)
        if correction is not None and seconds is not None:
            tell(correction.tried(pack, seconds))
        state = start_or_resume(run, model, config, study.spec, notes)
        share_state(world, model, state)
        sampler = sampler_of(base, model, study, config, read_about(run.path)["facts"].get("answers", TORCH))
        measure = measure_of(evaluators, model, study, config.data.system, world)
        clock, losses = SaveClock(config.save, total_steps), LossWatch()
        threads = Threads(run, config.train.threads, device, watch=watch_threads)
        threads.begin(state.step)
        lost = kept_when_lost(run, model, state, keep, world)
        with lost, partners(), followed(run, config.track) as look_after_trackers:
            for event in train(model, study.data, state, config, sampler, world, measure):
                run.record(event)
                look_after_trackers(event.step)
                if watch is not None and isinstance(watch(event), Stop):
                    stop.asked = True
                sooner = threads.stepped(event.step, tell) if isinstance(event, Stepped) else 1.0
                if correction is not None and (line := correction.seen(event, sooner)) is not None:
                    tell(line)
                if isinstance(event, Stepped):
                    if (text := event.skipped or losses.warning(event)) is not None:
                        say(run, event.step, text)
                    if world.any(bool(stop)):
                        save_and_stop(run, model, state, keep, world)
                if clock.due(event, state):
                    try_to_save(run, model, state, keep)
        if config.keeps_best:
            leave_best(run, model, state)

        def save(place: Path) -> Adapter:
            return save_adapter(place, model, base, study.renderer, study.facts, config, state.losses)

        return insist(save, run.path, None if spill is None else spill / run.id, stop=lambda: bool(stop))
