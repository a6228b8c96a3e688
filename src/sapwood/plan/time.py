"""How long a run will take, before a weight is loaded.

Floating-point operations are counted from the model's shapes and the packs of the first steps; the machine's
matrix rate is measured. The factor below was fitted to runs on CPUs (`bench/`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sapwood.adapter.methods import trained_numbers
from sapwood.base.inspect import count_parameters, skeleton
from sapwood.base.storage.storages import storage_dtype
from sapwood.config.sections import RunConfig
from sapwood.machine.device import Device
from sapwood.machine.measure import dtype_name, machine_facts
from sapwood.prepare.study import Study
from sapwood.show.figures import duration
from sapwood.train.loop import pack_examples
from sapwood.train.schedule import Cursor, members, plan_steps
from sapwood.types import Pack

EFFICIENCY = 0.28  # of the matrix rate, over everything that isn't a product
SAMPLED_STEPS = 8


@dataclass(frozen=True, slots=True)
class Estimate:
    """seconds: training and evaluation, without sample answers.

    parameters: of the base; trained: numbers that the method trains.
    fill: share of the packs' room that holds tokens; saved: share of tokens not computed thanks to prefixes.
    """

    seconds: float
    seconds_per_step: float
    parameters: int
    trained: int
    fill: float
    saved: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        full, saved = f"{100 * self.fill:.0f} %", f"{100 * self.saved:.0f} %"
        step = f"{self.seconds_per_step:.1f} s a step"
        share = 100 * self.trained / self.parameters
        return [
            f"trains     {self.trained:,} numbers, {share:.2g} % of the base's {self.parameters:,}",
            f"packs      {full} full; {saved} of the tokens are shared beginnings, computed once",
            f"time       about {duration(self.seconds)} ({step}) on this machine when idle",
        ]


def estimate(study: Study, config: RunConfig, device: Device) -> Estimate:
    """Time of a run whose config has no ``auto`` left. Takes about half a second, for the measurement of the
    machine."""
    rates = machine_facts(device).get("gflops", {})
    dtype = dtype_name(storage_dtype(config.base))
    rate = rates.get(dtype, rates.get("fp32", 0)) * 1e9 or 50e12  # a GPU isn't measured
    linear, embedding = count_parameters(study.spec)
    schedule = plan_steps(len(study.data.train), config.train)
    steps = _first_steps(study, config)
    packs = [pack for step in steps for pack in step]
    flops = [_flops(step, linear, embedding) for step in steps]
    per_step = sum(flops) / len(flops) / rate / EFFICIENCY
    measured = pack_examples(study.data.eval, config) if study.data.eval else []
    rounds = 2 + schedule.total_steps // (config.eval.every or schedule.steps_per_epoch) if measured else 0
    evaluation = rounds * _flops(measured, linear, embedding) / 2 / rate / EFFICIENCY
    computed = sum(len(pack.ids) for pack in packs)
    chosen = sum(len(study.data.train[i]) for step in _first_members(study, config) for i in step)
    return Estimate(
        seconds=per_step * schedule.total_steps + evaluation,
        seconds_per_step=per_step,
        parameters=linear + embedding,
        trained=trained_numbers(skeleton(study.spec), config.lora),
        fill=computed / (len(packs) * config.pack.length),
        saved=1 - computed / chosen,
    )


def _first_members(study: Study, config: RunConfig) -> list[list[int]]:
    schedule = plan_steps(len(study.data.train), config.train)
    cursor, out = Cursor(), list[list[int]]()
    for _ in range(min(SAMPLED_STEPS, schedule.total_steps)):
        chosen, cursor = members(schedule, config.train.seed, cursor)
        out.append(chosen)
    return out


def _first_steps(study: Study, config: RunConfig) -> list[list[Pack]]:
    return [
        pack_examples([study.data.train[i] for i in chosen], config)
        for chosen in _first_members(study, config)
    ]


def _flops(packs: Sequence[Pack], linear: int, embedding: int) -> float:
    """Forward, and backward without weight gradients: 4 operations a weight and token; the head only at
    targets."""
    return sum(4.0 * len(pack.ids) * linear + 4.0 * len(pack.targets) * embedding for pack in packs)
