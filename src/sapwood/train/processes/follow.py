"""One run in several processes: what the first process tells the others, and what the others do."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sapwood.adapter.attach import attach_lora
from sapwood.adapter.model import LoraModel
from sapwood.answers.fit import why_not_many, why_not_trained
from sapwood.answers.probes import ids_of, samples_of
from sapwood.answers.speaker import TORCH, llama_name, speaking
from sapwood.base.load import load_base, move
from sapwood.compute.recompute import recompute_layers
from sapwood.config.file import parse_config
from sapwood.config.sections import RunConfig
from sapwood.errors import ModelError, Stopped
from sapwood.machine.device import Device
from sapwood.machine.measure import kernel_facts, set_threads
from sapwood.machine.shortage import out_of_memory
from sapwood.machine.signals import stop_signals
from sapwood.prepare.study import Study, study_files, study_of
from sapwood.serve.load import Loaded
from sapwood.serve.settings import Settings
from sapwood.train.checkpoint import share_state
from sapwood.train.loop import Sampler, train
from sapwood.train.processes.shard import divide_base, mesh_of
from sapwood.train.processes.world import World, partners
from sapwood.train.rehearse import rehearse
from sapwood.train.start import fresh_state
from sapwood.types import Base, BaseSpec, Sample, Stepped

NOTHING_TO_DO = b"{}"  # told in place of an invitation


def follow(world: World) -> None:
    """What every process but the first does: the same steps, each with its own share of the packs. It opens
    no file of the run, so the run's folder is needed on one host only. The model is needed on each host."""
    with stop_signals() as stop, out_of_memory("a step"), partners():
        invitation = world.tell()
        if invitation == NOTHING_TO_DO:
            return
        config, study = accept(world, json.loads(invitation))
        base, model = build(study.spec, config, world, world.device(config.base.device_map))
        rehearse(model, study.data, config)
        state = fresh_state(model, config)
        share_state(world, model, state)
        sampler = sampler_of(base, model, study, config) if model.divided is not None else None
        for event in train(model, study.data, state, config, sampler, world):
            if isinstance(event, Stepped) and world.any(bool(stop)):
                raise Stopped(f"stopped after step {event.step}")


def invite(world: World, config: RunConfig, study: Study) -> None:
    """Tell the other processes what they need: the config, and the examples as they were proven here."""
    if world.size == 1:
        return
    told = {"config": config.model_dump(mode="json"), "base_fingerprint": study.spec.fingerprint}
    world.tell(json.dumps(told | {"files": list(study_files(study))}).encode())
    for content in study_files(study).values():
        world.tell(content)


def accept(world: World, told: dict[str, Any]) -> tuple[RunConfig, Study]:
    """What `invite` told. Raises ModelError if this process finds another base under the same name."""
    config = parse_config(told["config"])
    files = {name: world.tell() for name in told["files"]}
    study = study_of(files, config, Path("the first process"))
    if study.spec.fingerprint != told["base_fingerprint"]:
        what, mend = "the processes have different base models", "copy one of them to every host"
        raise ModelError(what, config.base.model, f"process {world.rank} has another than the first", mend)
    return config, study


@contextmanager
def loading(
    world: World, config: RunConfig, device: Device
) -> Generator[Callable[[Base, LoraModel], tuple[Base, LoraModel]]]:
    """While this context is open, this process may load a base. The context gives a function that puts the
    loaded base and its adapter on this process's device. If the base is to be divided, the processes of a
    host load it one after the other."""
    if config.train.threads is not None:
        set_threads(config.train.threads)
    mesh = mesh_of(world, device) if config.train.shard == "base" and world.size > 1 else None

    def place(base: Base, model: LoraModel) -> tuple[Base, LoraModel]:
        model = replace(model, alone=config.pack.rows == "alone")
        recompute_layers(model.network, config.train.gradient_checkpointing)
        if mesh is not None:
            base, model = divide_base(base, model, mesh)
        move(model.peft, device)
        return base, model

    with world.turn() if mesh is not None else contextlib.nullcontext():
        yield place


def build(spec: BaseSpec, config: RunConfig, world: World, device: Device) -> tuple[Base, LoraModel]:
    """The frozen base with a fresh adapter, on this process's device; divided if the config says so."""
    with loading(world, config, device) as place:
        base = load_base(spec, config.base, device)
        model = attach_lora(base, config.lora, config.train.seed)
        return place(base, model)


def kernels_of(world: World, device: Device) -> dict[str, Any]:
    """What the last bits of a result depend on, besides the versions of the libraries."""
    return {**kernel_facts(device), "processes": world.size}


def sampler_of(
    base: Base, model: LoraModel, study: Study, config: RunConfig, by: str = TORCH
) -> Sampler | None:
    """Answers to the run's probes by the model as it stands. ``by``: who answers, as the run recorded it."""
    if not study.probes:
        return None
    # a divided base is called by its own, which knows the adapter
    loaded = Loaded(base, model if model.divided is None else None, study.renderer, None, "the run")
    settings = Settings(max_new_tokens=config.eval.max_new_tokens)
    who = TORCH if model.divided is not None else by

    def sample() -> Sequence[Sample]:
        threads = torch.get_num_threads()
        ids = ids_of(study.probes)
        with speaking(loaded, config.base, ids, settings, threads=threads, by=who) as speaker:
            return samples_of(speaker, study.probes, "the model")

    return sample


def answered_by(study: Study, config: RunConfig, device: Device, world: World) -> str:
    """Who answers the probes of a run that begins here, for its record."""
    why = why_not_trained(config.lora) or ("several processes share it" if world.size > 1 else "")
    why = why or why_not_many(study.spec, config.base, device)
    return f"{TORCH}: {why}" if why else llama_name()
