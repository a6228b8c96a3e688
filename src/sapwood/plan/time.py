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
from sapwood.machine.load import BUSY
from sapwood.machine.measure import dtype_name, machine_facts
from sapwood.prepare.study import Study
from sapwood.show.figures import duration
from sapwood.train.loop import pack_examples
from sapwood.train.schedule import Cursor, members, plan_steps
from sapwood.types import Evaluated, Event, Pack, Stepped

EFFICIENCY = 0.28  # of the matrix rate, over everything that isn't a product
SAMPLED_STEPS = 8


@dataclass(frozen=True, slots=True)
class Estimate:
    """seconds: training and evaluation, without sample answers.

    steps: of the run; first: seconds of each of its first ones. rounds: evaluations, each of so many seconds
    as ``evaluation``.
    parameters: of the base; trained: numbers that the method trains.
    fill: share of the packs' room that holds tokens; saved: share of tokens not computed thanks to prefixes.
    load: share of the processors' time that others took while the machine was measured.
    """

    seconds: float
    seconds_per_step: float
    steps: int
    first: tuple[float, ...]
    rounds: int
    evaluation: float
    parameters: int
    trained: int
    fill: float
    saved: float
    load: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        full, saved = f"{100 * self.fill:.0f} %", f"{100 * self.saved:.0f} %"
        share = 100 * self.trained / self.parameters
        return [
            f"trains     {self.trained:,} numbers, {share:.2g} % of the base's {self.parameters:,}",
            f"packs      {full} full; {saved} of the tokens are shared beginnings, computed once",
            self.time_line(),
        ]

    def time_line(self) -> str:
        """How long it takes, and what that figure is worth."""
        head = f"time       about {duration(self.seconds)} ({self.seconds_per_step:.1f} s a step)"
        if self.load < BUSY:
            return f"{head} on this machine, which nobody else keeps busy now"
        return (
            f"{head} beside the other programs of now, which take {100 * self.load:.0f} % of the processors; "
            "less when they end"
        )


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
    evaluation = _flops(measured, linear, embedding) / 2 / rate / EFFICIENCY
    computed = sum(len(pack.ids) for pack in packs)
    chosen = sum(len(study.data.train[i]) for step in _first_members(study, config) for i in step)
    return Estimate(
        seconds=per_step * schedule.total_steps + rounds * evaluation,
        seconds_per_step=per_step,
        steps=schedule.total_steps,
        first=tuple(one / rate / EFFICIENCY for one in flops),
        rounds=rounds,
        evaluation=evaluation,
        parameters=linear + embedding,
        trained=trained_numbers(skeleton(study.spec), config.lora),
        fill=computed / (len(packs) * config.pack.length),
        saved=1 - computed / chosen,
        load=machine_facts(device).get("load", 0.0),
    )


class Correction:
    """The estimate, put right by what the first steps and the first evaluation took."""

    STEPS = 3  # the first of them only warms up

    def __init__(self, expected: Estimate) -> None:
        self._expected = expected
        self._steps: list[float] = []
        self._evaluation: float | None = None
        self._spent = 0.0

    def seen(self, event: Event) -> str | None:
        """A line behind the third step of a run, None behind anything else."""
        if isinstance(event, Evaluated):
            self._spent += event.seconds
            if self._evaluation is None:
                self._evaluation = event.seconds
        if not isinstance(event, Stepped) or len(self._steps) == self.STEPS:
            return None
        if event.step != len(self._steps) + 1:  # a resumed run: it is known how long its steps take
            return None
        self._spent += event.seconds
        self._steps.append(event.seconds)
        if len(self._steps) < self.STEPS or self._expected.steps <= self.STEPS:
            return None
        return f"time       about {duration(self.seconds())} in all, by the first {self.STEPS} steps"

    def seconds(self) -> float:
        """Of the whole run."""
        expected = self._expected
        taken, said = sum(self._steps[1:]), sum(expected.first[1 : len(self._steps)])
        slower = taken / said if said else 1.0
        left = (expected.steps - len(self._steps)) * expected.seconds_per_step * slower
        rounds = expected.rounds - (self._evaluation is not None)
        measure = expected.evaluation * slower if self._evaluation is None else self._evaluation
        return self._spent + left + max(0, rounds) * measure


def packs_a_step(study: Study, config: RunConfig) -> float:
    """On average, over the first steps."""
    steps = _first_steps(study, config)
    return sum(map(len, steps)) / len(steps)


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
