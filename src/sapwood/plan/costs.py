"""Settings that cost much on the machine at hand, each with the figure, and what to type instead.

A recipe is written for the machine of its author: gradient checkpointing for a small GPU, packs of two rows,
one thread. What `auto` would do is known here, so that the difference can be told.
"""

from __future__ import annotations

from sapwood.base.storage.storages import with_storage
from sapwood.config.sections import RunConfig
from sapwood.machine.device import Device
from sapwood.machine.measure import machine_facts, product_rates, rate_with_threads
from sapwood.plan.choose import MemoryChoice, settled
from sapwood.plan.time import Estimate, step_of
from sapwood.prepare.study import Study
from sapwood.show.figures import duration, size

WORTH = 0.10  # share of the run's time, from which a setting is worth a line
USUAL = 1024  # tokens of a pack that wastes little


def costly(
    study: Study, config: RunConfig, choice: MemoryChoice, device: Device, expected: Estimate
) -> list[str]:
    """A sentence for each. config: as it was given, with its ``auto``; expected: of what it means here."""
    resolved = settled(config, choice, device)
    found = [_twice(study, resolved, choice, device, expected), _packs(study, resolved, device, expected)]
    if device.is_cpu:
        found += [_format(study, config, choice, device, expected), _threads(config, device, expected)]
    return [text for text in found if text is not None]


def _twice(
    study: Study, config: RunConfig, choice: MemoryChoice, device: Device, expected: Estimate
) -> str | None:
    """Layers that are computed twice if the memory doesn't ask for it."""
    plan = choice.plan
    once = next((p for p in choice.others if p.storage == plan.storage and not p.recomputed), None)
    if not plan.recomputed or once is None or not once.fits:
        return None
    train = config.train.model_copy(update={"gradient_checkpointing": 0})
    seconds, _ = step_of(study, config.model_copy(update={"train": train}), device)
    less = _less(seconds, expected)
    room = f"{size(once.peak)} of the {size(once.available)} available suffice without"
    return less and (
        f"train.gradient_checkpointing computes {plan.recomputed} of {plan.layers} layers twice, for "
        f"nothing: {room}; about {less} with train.gradient_checkpointing=auto"
    )


def _packs(study: Study, config: RunConfig, device: Device, expected: Estimate) -> str | None:
    """Packs that hold few tokens: each pack costs the same fixed overhead."""
    pack = config.pack.model_copy(update={"length": max(USUAL, config.pack.length)})
    train = config.train.model_copy(update={"micro_batch": None})
    larger = config.model_copy(update={"pack": pack, "train": train})
    (_, now), (seconds, then) = (step_of(study, one, device) for one in (config, larger))
    less = _less(seconds, expected)
    changes = ["train.micro_batch=null"] if config.train.micro_batch is not None else []
    changes += [f"pack.length={pack.length}"] if pack.length > config.pack.length else []
    return less and (
        f"{now:.0f} passes a step, each with few tokens, where {then:.0f} would do: about {less} with "
        f"{' '.join(changes)}, and the steps stay the same"
    )


def _less(step: float, expected: Estimate) -> str | None:
    """``5m10s less (23 %)``: what is saved if a step takes so many seconds. None: not worth a line."""
    share = 1 - step / expected.seconds_per_step
    if share < WORTH:
        return None
    saved = expected.steps * expected.seconds_per_step * share
    return f"{duration(saved)} less ({100 * share:.0f} %)"


def _format(
    study: Study, config: RunConfig, choice: MemoryChoice, device: Device, expected: Estimate
) -> str | None:
    """A dense format that was named although this processor is faster in another."""
    named, facts = config.base.storage, machine_facts(device)
    if named not in ("fp32", "bf16") or named == facts["dtype"]:
        return None
    products = with_storage(study.spec, config.base, named, device).products
    own = product_rates(named)["fp32" if products == "fp32" else named]
    best = max(product_rates(facts["dtype"]).values())
    fits = any(plan.storage == facts["dtype"] and plan.fits for plan in choice.others)
    saved = 1 - own / best
    if saved < WORTH or not fits:
        return None
    return (
        f"base.storage={named} multiplies {best / own:.1f} times slower here than {facts['dtype']}: about "
        f"{duration(expected.seconds * saved)} less ({100 * saved:.0f} %) with base.storage=auto"
    )


def _threads(config: RunConfig, device: Device, expected: Estimate) -> str | None:
    """Fewer threads than help, or more than there are processors for."""
    named, facts = config.train.threads, machine_facts(device)
    if named is None or named == facts["threads"]:
        return None
    name, products = facts["dtype"], facts["products"]
    own, best = (rate_with_threads(name, products, count) for count in (named, facts["threads"]))
    saved = 1 - own / best
    if saved < WORTH:
        return None
    return (
        f"train.threads={named} reaches {100 * own / best:.0f} % of the rate of {facts['threads']}: about "
        f"{duration(expected.seconds * saved)} less ({100 * saved:.0f} %) without it"
    )
