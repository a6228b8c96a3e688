"""Where a run stands, as pure functions: the order of the rows, the number of steps, the learning rate.

Nothing here remembers anything, which is why a resumed run needs only integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sapwood.config.sections import TrainConfig

INVERSE_SQRT_SCALE = 10_000  # steps, if there is no warm-up to take the scale from (as in transformers)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Position in the data: the order is a pure function of (seed, epoch); ``index`` examples of it are
    done."""

    epoch: int = 0
    index: int = 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """steps_per_epoch optimizer steps go through the data once; total_steps is the whole run."""

    num_examples: int
    batch_size: int
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int


def plan_steps(num_examples: int, config: TrainConfig) -> Schedule:
    """The last step of an epoch takes what is left."""
    per_epoch = math.ceil(num_examples / config.batch_size)
    total = config.max_steps or max(1, math.ceil(per_epoch * config.passes - 1e-9))
    warmup = config.warmup if config.warmup >= 1 else config.warmup * total
    return Schedule(num_examples, config.batch_size, per_epoch, total, min(total, math.ceil(warmup)))


@lru_cache(maxsize=2)
def order(seed: int, epoch: int, num_examples: int) -> NDArray[np.int64]:
    """The permutation of an epoch: a function of (seed, epoch) alone. It is read-only and remembered, because
    every step of the epoch asks for it, and a million examples take 20 ms."""
    permutation = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(num_examples)
    permutation.setflags(write=False)
    return permutation


def members(schedule: Schedule, seed: int, cursor: Cursor) -> tuple[list[int], Cursor]:
    """The examples of the next optimizer step, and where the cursor stands after it."""
    permutation = order(seed, cursor.epoch, schedule.num_examples)
    chosen = permutation[cursor.index : cursor.index + schedule.batch_size].tolist()
    index = cursor.index + len(chosen)
    after = Cursor(cursor.epoch + 1, 0) if index >= schedule.num_examples else Cursor(cursor.epoch, index)
    return chosen, after


def learning_rate(step: int, schedule: Schedule, config: TrainConfig) -> float:
    """The learning rate of the step that follows ``step`` finished steps. It rises linearly in warm-up, from
    above zero. A schedule that falls to zero gets there just after the last step, as in transformers."""
    warmup, total = schedule.warmup_steps, schedule.total_steps
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    match config.schedule:
        case "linear":
            factor = 1 - done
        case "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * done))
        case "cosine-restarts":  # arXiv 1608.03983
            factor = 0.5 * (1 + math.cos(math.pi * (config.cycles * done % 1.0))) if done < 1 else 0.0
        case "polynomial":
            factor = (1 - done) ** config.power
        case "inverse-sqrt":  # never zero; without warm-up it begins to fall after INVERSE_SQRT_SCALE steps
            scale = warmup or INVERSE_SQRT_SCALE
            factor = math.sqrt(scale / (scale + step - warmup))
        case "constant":
            factor = 1.0
    return config.lr * factor
