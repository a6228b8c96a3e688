"""How long a run will take, before a weight is loaded.

Floating-point operations are counted from the model's shapes and the packs of the first steps; the machine's
matrix rate is measured. The factors below were measured on CPUs (`bench/costs.py`). `bench/estimate.py`
compares estimates with whole runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sapwood.adapter.methods import trained_numbers
from sapwood.base.inspect import count_parameters, on_meta
from sapwood.base.storage.storages import storage_dtype
from sapwood.compute.recompute import layers_to_recompute
from sapwood.config.sections import RunConfig
from sapwood.machine.device import Device
from sapwood.machine.load import BUSY
from sapwood.machine.measure import dtype_name, machine_facts
from sapwood.prepare.study import Study
from sapwood.show.figures import duration
from sapwood.train.loop import pack_examples
from sapwood.train.schedule import Cursor, members, plan_steps
from sapwood.types import Evaluated, Event, Pack, Stepped

EFFICIENCY = {True: 0.69, False: 0.54}  # share of the matrix rate; by: compiled kernels (native/)?
TWICE = 0.50  # how much longer a step takes if all layers are computed twice
PACK = 130  # a pack's fixed overhead, as the time of so many tokens
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
        """How long the run takes, and how reliable that figure is."""
        about = f"time       about {duration(self.seconds)} ({self.seconds_per_step:.1f} s a step)"
        head = f"{about} without loading and sample answers,"
        if self.load < BUSY:
            return f"{head} on this machine, which does nothing else now"
        return (
            f"{head} beside the other programs of now, which take {100 * self.load:.0f} % of the processors; "
            "less when they end"
        )


@dataclass(frozen=True, slots=True)
class Pace:
    """What a pack takes on a device.

    Attributes:
        rate: operations a second. linear, embedding: parameters of the base.
        layers: of the base; recomputed: how many of them are computed twice.
    """

    rate: float
    linear: int
    embedding: int
    layers: int
    recomputed: int

    @classmethod
    def of(cls, study: Study, config: RunConfig, device: Device) -> Pace:
        rates = machine_facts(device).get("gflops", {})
        dtype = dtype_name(storage_dtype(config.base))
        rate = rates.get(dtype, rates.get("fp32", 0)) * 1e9 or 50e12  # a GPU isn't measured
        layers = study.spec.hf_config.get_text_config().num_hidden_layers
        recomputed = layers_to_recompute(config.train.gradient_checkpointing, layers)
        shapes = count_parameters(study.spec)
        return cls(rate * EFFICIENCY[device.compiled], *shapes, layers, recomputed)

    def step(self, packs: Sequence[Pack]) -> float:
        """Seconds of forward and backward."""
        return self.once(packs) * (1 + TWICE * self.recomputed / self.layers)

    def once(self, packs: Sequence[Pack]) -> float:
        """The same if no layer is computed twice."""
        work = _flops(packs, self.linear, self.embedding) + 4.0 * PACK * len(packs) * self.linear
        return work / self.rate


def estimate(study: Study, config: RunConfig, device: Device) -> Estimate:
    """Time of a run whose config has no ``auto`` left. Takes about half a second, for the measurement of the
    machine."""
    linear, embedding = count_parameters(study.spec)
    schedule = plan_steps(len(study.data.train), config.train)
    pace = Pace.of(study, config, device)
    steps = _first_steps(study, config)
    packs = [pack for step in steps for pack in step]
    first = tuple(map(pace.step, steps))
    per_step = sum(first) / len(first)
    measured = pack_examples(study.data.eval, config) if study.data.eval else []
    rounds = 2 + schedule.total_steps // (config.eval.every or schedule.steps_per_epoch) if measured else 0
    evaluation = pace.once(measured) / 2
    computed = sum(len(pack.ids) for pack in packs)
    chosen = sum(len(study.data.train[i]) for step in _first_members(study, config) for i in step)
    return Estimate(
        seconds=per_step * schedule.total_steps + rounds * evaluation,
        seconds_per_step=per_step,
        steps=schedule.total_steps,
        first=first,
        rounds=rounds,
        evaluation=evaluation,
        parameters=linear + embedding,
        trained=trained_numbers(on_meta(study.spec.hf_config, study.spec.source), config.lora),
        fill=computed / (len(packs) * config.pack.length),
        saved=1 - computed / chosen,
        load=machine_facts(device).get("load", 0.0),
    )


class Correction:
    """The estimate, corrected while the run goes on: by one pass before the first step, and again whenever
    the last steps say otherwise, for example because another program has ended."""

    STEPS = 3  # the first of a run only warms up
    OTHERWISE = 1.15  # factor by which the whole must take longer, or shorter, than was told
    WORTH = 0.02  # share of the run that a pass may take if it only measures the time

    def __init__(self, expected: Estimate, pace: Pace) -> None:
        self._expected = expected
        self._pace = pace
        self._slower = 1.0  # how many times longer than expected, if no step says so
        self._last: deque[tuple[float, float]] = deque(maxlen=self.STEPS)  # (taken, expected) of a step
        self._evaluations: list[float] = []
        self._done, self._since, self._spent = 0, 0, 0.0
        self._told: float | None = None

    def worth_a_pass(self, pack: Pack) -> bool:
        """Whether the run is so long that a pass of its own over ``pack`` is cheap."""
        return self._pace.step([pack]) <= self.WORTH * self._expected.seconds

    def tried(self, pack: Pack, seconds: float) -> str:
        """A line, by what a pass over ``pack`` took."""
        self._slower = seconds / self._pace.step([pack])
        self._told = self.seconds()
        return f"time       about {duration(self._told)} in all, by one pass"

    def seen(self, event: Event, sooner: float = 1.0) -> str | None:
        """A line if there is something to say. sooner: how many times faster this run will make its steps
        behind this one."""
        if isinstance(event, Evaluated):
            self._spent += event.seconds
            self._evaluations.append(event.seconds)
        if not isinstance(event, Stepped) or event.step != self._done + 1:  # a resumed run knows its pace
            return None
        self._step(event.seconds)
        self._last = deque(((taken / sooner, said) for taken, said in self._last), self.STEPS)
        if self._since < self.STEPS or self._expected.steps <= self.STEPS:
            return None
        whole = self.seconds()
        if self._told is not None and 1 / self.OTHERWISE <= whole / self._told <= self.OTHERWISE:
            return None
        which = "first" if self._told is None else "last"
        self._told, self._since = whole, 0
        return f"time       about {duration(whole)} in all, by the {which} {self.STEPS} steps"

    def seconds(self) -> float:
        """Of the whole run."""
        expected = self._expected
        steps = list(self._last)[1:] if self._done <= self.STEPS else self._last
        slower = sum(taken for taken, _ in steps) / sum(said for _, said in steps) if steps else self._slower
        left = (expected.steps - self._done) * expected.seconds_per_step
        rounds = max(0, expected.rounds - len(self._evaluations))
        measure = self._evaluations[-1] if self._evaluations else expected.evaluation * slower
        return self._spent + left * slower + rounds * measure

    def _step(self, seconds: float) -> None:
        first = self._expected.first
        said = first[self._done] if self._done < len(first) else self._expected.seconds_per_step
        self._last.append((seconds, said))
        self._done, self._since, self._spent = self._done + 1, self._since + 1, self._spent + seconds


def step_of(study: Study, config: RunConfig, device: Device) -> tuple[float, float]:
    """Seconds and packs of a step, on average over the first ones. ``config`` has no ``auto`` left."""
    steps, pace = _first_steps(study, config), Pace.of(study, config, device)
    return sum(map(pace.step, steps)) / len(steps), sum(map(len, steps)) / len(steps)


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
