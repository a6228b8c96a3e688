"""The longest pack first: a run that doesn't fit in memory fails in the first minute, not in the third
hour."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from sapwood.adapter.inputs import attending
from sapwood.adapter.model import LoraModel
from sapwood.config.sections import RunConfig
from sapwood.machine.doing import doing
from sapwood.machine.remembered import first_pass_took
from sapwood.machine.shortage import out_of_memory
from sapwood.train.loop import batch_of, forward_loss, pack_examples
from sapwood.train.optim import moment_bytes
from sapwood.train.schedule import Cursor, members, plan_steps
from sapwood.types import Pack, TrainData

MAX_STEPS = 400  # steps whose packs are planned: about a second, and a pack is never longer than pack.length


@doing("trying the longest pack")
def rehearse(
    model: LoraModel, data: TrainData, config: RunConfig, again: Callable[[Pack], bool] | None = None
) -> tuple[Pack, float | None]:
    """Forward and backward over the longest pack, with room for the moments.

    Changes nothing: gradients are dropped, no parameter moves, and the generators are those of before.

    Args:
        again: whether a second pass over that pack is wanted, for its time: the first one also waits for the
            system's memory.

    Returns the pack, and the seconds of its second pass. Raises OutOfMemoryError.
    """
    pack = longest_pack(data, config)
    model = replace(model, neftune=config.train.neftune)
    model.learn()
    with out_of_memory(f"a pack of {len(pack.ids):,} tokens"), torch.random.fork_rng(devices=[]):
        tick = time.monotonic()
        _pass(model, pack, config)
        if not model.backend.device.is_cpu:
            first_pass_took(model.backend.device.name, time.monotonic() - tick)
        if again is None or not again(pack):
            return pack, None
        tick = time.monotonic()
        _pass(model, pack, config)
        return pack, time.monotonic() - tick


def _pass(model: LoraModel, pack: Pack, config: RunConfig) -> None:
    try:
        with attending(model):
            loss = forward_loss(model, batch_of(model, pack))
            (loss.total / max(1, loss.num_targets)).backward()
        float(loss.total.detach())  # a GPU computes behind our back: what follows waits for it
        # The optimizer makes its moments at the first step. They are filled here, because the system only
        # promises memory that nobody writes.
        moments = torch.ones(moment_bytes(model.parameters, config.train) // 4, device=model.device)
        del moments
    finally:
        for parameter in model.parameters.values():
            parameter.grad = None


def longest_pack(data: TrainData, config: RunConfig) -> Pack:
    """The pack with the most tokens among the run's steps (the first few hundred of a long run), the one with
    the most targets among equals."""
    schedule = plan_steps(len(data.train), config.train)
    cursor, packs = Cursor(), list[Pack]()
    for _ in range(min(schedule.total_steps, MAX_STEPS)):
        chosen, cursor = members(schedule, config.train.seed, cursor)
        step = pack_examples([data.train[i] for i in chosen], config)
        packs = [max([*packs, *step], key=lambda pack: (len(pack.ids), len(pack.targets)))]
    return packs[0]
