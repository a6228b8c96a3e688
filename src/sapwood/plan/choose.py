"""Which of a run's plans is taken: what the config asks for, and if it says ``auto``, the fastest that
fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sapwood.adapter.methods import fitting_storages
from sapwood.base.inspect import skeleton
from sapwood.base.storage.storages import candidates, smaller_storages, storage_dtype, with_storage
from sapwood.compute.recompute import OFFLOAD, layers_to_recompute
from sapwood.config.kinds import Storage
from sapwood.config.sections import BaseConfig, RunConfig
from sapwood.machine.device import Device
from sapwood.machine.measure import dtype_name, machine_facts
from sapwood.plan.memory import (
    MARGIN,
    MemoryPlan,
    Workload,
    base_size,
    fewest_recomputed,
    plan_memory,
    workload,
)
from sapwood.plan.shapes import shapes_of
from sapwood.prepare.examples import Examples
from sapwood.prepare.study import Study
from sapwood.show.figures import size


@dataclass(frozen=True, slots=True)
class MemoryChoice:
    """The plan of a run, the base's config that it stands for, why it is that one, and the others that were
    weighed."""

    plan: MemoryPlan
    base: BaseConfig
    why: str
    others: tuple[MemoryPlan, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return self.plan.to_json() | {"why": self.why, "others": [other.to_json() for other in self.others]}

    def lines(self) -> list[str]:
        """A line, and a table of storages with the one that is taken marked."""
        plan = self.plan
        verdict = "fits" if plan.fits else "does NOT fit"
        need, room = size(plan.peak), size(plan.available)
        head = f"memory     about {need} at most: {verdict} in the {room} available; {self.why}"
        rows = sorted([plan, *self.others], key=lambda row: row.peak, reverse=True)
        return [head, *(_row(row, row is plan) for row in rows)]


def _row(plan: MemoryPlan, chosen: bool) -> str:
    layers = f"{plan.recomputed} of {plan.layers} layers recomputed"
    layers += ", inputs in RAM" if plan.offloaded else ""
    verdict, mark = "fits" if plan.fits else "too much", "▸" if chosen else " "
    return f"         {mark} {plan.storage:<6} {layers:<30} {size(plan.peak):>9}  {verdict}"


def choose_plan(study: Study, config: RunConfig, device: Device) -> MemoryChoice:
    """The plan that a run follows on ``device``.

    Storages are tried in order of their speed on this machine. In each storage, as few layers are recomputed
    as memory allows. If a GPU holds none of them so, the layers' inputs may go to RAM. If nothing fits, the
    smallest plan is taken, and says so.

    Raises:
        ConfigError: a storage that this base can't be held in.
    """
    spec, layers = study.spec, config.train.gradient_checkpointing
    network = skeleton(spec)
    shapes, work = shapes_of(network), workload(study, config, network, device)
    named = config.base.storage != "auto"
    order: Sequence[Storage] = (config.base.storage,) if named else candidates(spec, config.base, device)
    if not named and (fitting := fitting_storages(config.lora)) is not None:
        suited = fitting[0]
        order = [storage for storage in order if storage in suited] or suited

    def planned(base: BaseConfig) -> MemoryPlan:
        way = base_size(spec, base)
        if layers == "auto":
            return fewest_recomputed(shapes, work, way)
        twice = layers_to_recompute(layers, shapes.layers)
        return plan_memory(shapes, work, way, twice, offload=layers == OFFLOAD)

    bases = [with_storage(spec, config.base, storage, device) for storage in order]
    tried = [(planned(base), base) for base in bases]
    fitting = sorted((one for one in tried if one[0].fits), key=lambda one: one[0].offloaded > 0)
    plan, base = fitting[0] if fitting else min(tried, key=lambda one: one[0].peak)
    alternatives: set[Storage] = {
        *order,
        *candidates(spec, config.base, device),
        *smaller_storages(spec, base, device),
        "fp32",
        "bf16",
    }
    others = [
        plan_memory(shapes, work, base_size(spec, with_storage(spec, config.base, storage, device)), count)
        for storage in sorted(alternatives)
        for count in (0, shapes.layers)
        if (storage, count) != (plan.storage, plan.recomputed)
    ]
    return MemoryChoice(plan, base, _why(plan, [one for one, _ in tried], named), tuple(others))


def _why(plan: MemoryPlan, tried: Sequence[MemoryPlan], named: bool) -> str:
    if named:
        return f"{plan.storage}, as the config says"
    first = tried[0]
    if plan is first:
        return f"{plan.storage} is the fastest here"
    room = size(MARGIN * plan.available)
    return f"{first.storage} would be faster, and needs {size(first.peak)} of the {room} that may be filled"


def settled(config: RunConfig, choice: MemoryChoice, device: Device) -> RunConfig:
    """The config with what ``auto`` means on this machine, so that a resumed run needn't measure again, and
    find something else."""
    train = config.train
    if train.gradient_checkpointing == "auto":
        layers = OFFLOAD if choice.plan.offloaded else choice.plan.recomputed
        train = train.model_copy(update={"gradient_checkpointing": layers})
    if train.threads is None:
        train = train.model_copy(update={"threads": machine_facts(device).get("threads")})
    return config.model_copy(update={"base": choice.base, "train": train})


def settings_line(config: RunConfig) -> str:
    """What computes a run, in words. ``config`` has no ``auto`` left."""
    base, train = config.base, config.train
    products = "fp32" if base.products == "fp32" else dtype_name(storage_dtype(base))
    threads = f", {train.threads} thread{'s' * (train.threads != 1)}" if train.threads is not None else ""
    layers = train.gradient_checkpointing
    count = "all" if layers is True or layers == OFFLOAD else layers or "no"
    twice = f"{count} layers computed twice{', with their inputs in RAM' if layers == OFFLOAD else ''}"
    return f"computes   weights in {base.storage}, products in {products}{threads}, {twice}"


def cheaper(study: Study, config: RunConfig, device: Device) -> list[str]:
    """Up to three changes that need less memory, the cheapest first, each with what it would need. ``config``
    has no ``auto`` left."""
    spec = study.spec
    network = skeleton(spec)
    shapes, work = shapes_of(network), workload(study, config, network, device)
    layers = layers_to_recompute(config.train.gradient_checkpointing, shapes.layers)
    moved = config.train.gradient_checkpointing == OFFLOAD
    found: list[tuple[str, float]] = []

    def propose(
        text: str,
        work: Workload,
        base: BaseConfig = config.base,
        layers: int = layers,
        moved: bool = moved,
    ) -> None:
        found.append((text, plan_memory(shapes, work, base_size(spec, base), layers, offload=moved).peak))

    row = max(16, int(Examples.of(study.data.train).lengths.max()))
    if row < work.pack.tokens:  # the same curve, somewhat slower
        pack = config.pack.model_copy(update={"length": row})
        propose(
            f"pack.length={row}", workload(study, config.model_copy(update={"pack": pack}), network, device)
        )
    if layers < shapes.layers:
        propose("train.gradient_checkpointing=true", work, layers=shapes.layers)
    elif not moved and not device.is_cpu:
        propose("train.gradient_checkpointing=offload", work, moved=True)
    fitting = fitting_storages(config.lora)
    for storage in smaller_storages(spec, config.base, device):
        if fitting is not None and storage not in fitting[0]:
            continue
        propose(f"base.storage={storage}", work, with_storage(spec, config.base, storage, device))
    if config.lora.rank > 1 and config.lora.on_linears and config.lora.method != "ia3":
        rank = config.lora.rank // 2
        propose(f"lora.rank={rank}", replace(work, adapter=work.adapter * rank / config.lora.rank))
    half = replace(work.pack, tokens=work.pack.tokens // 2, targets=work.pack.targets // 2, kept_scores=0)
    propose("a smaller base.model, or shorter rows", replace(work, pack=half))
    return [f"{text} (about {size(need)})" for text, need in found[:3]]
