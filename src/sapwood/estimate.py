"""What a run will need, before a weight is loaded: time and memory.

Floating-point operations are counted from the model's shapes and the packs of the first steps; the machine's
matrix rate is measured. The two factors below were fitted to runs on CPUs (`bench/`), and the range that is
printed is as honest as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sapwood.config import RunConfig
from sapwood.model.base import count_parameters
from sapwood.model.machine import available_memory, fastest_dtype
from sapwood.model.storages import (
    choose_storage,
    compute_dtype,
    dtype_name,
    smaller_storages,
    unpacked_bytes,
    weight_bytes,
)
from sapwood.study import Study
from sapwood.track.figures import duration, size
from sapwood.train.loop import pack_examples
from sapwood.train.optim import MOMENTS
from sapwood.train.schedule import members, plan_steps
from sapwood.types import Cursor, Pack

EFFICIENCY = 0.28  # of the matrix rate, over everything that isn't a product
BASELINE_BYTES = 560e6  # Python with torch, transformers and peft imported
SAMPLED_STEPS = 8


@dataclass(frozen=True, slots=True)
class Estimate:
    """seconds: training and evaluation, without sample answers. peak_bytes: resident memory of the process.

    fill: share of the packs' room that holds tokens; saved: share of tokens not computed thanks to prefixes.
    """

    seconds: float
    seconds_per_step: float
    peak_bytes: float
    available_bytes: int
    parameters: int
    storage: str
    longest_pack: int
    fill: float
    saved: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        fits = "fits" if self.peak_bytes < 0.9 * self.available_bytes else "does NOT fit"
        full, saved = f"{100 * self.fill:.0f} %", f"{100 * self.saved:.0f} %"
        step = f"{self.seconds_per_step:.1f} s a step"
        need, have = size(int(self.peak_bytes)), size(self.available_bytes)
        return [
            f"packs      {full} full; {saved} of the tokens are shared beginnings, computed once",
            f"time       about {duration(self.seconds)} ({step}) on this machine when idle",
            f"memory     about {need} in {self.storage}: {fits} in the {have} to be had",
        ]


def estimate(study: Study, config: RunConfig) -> Estimate:
    """Time and memory of a run. Takes about half a second, for the measurement of the machine."""
    _, facts = fastest_dtype()
    config = _chosen(study, config)
    rates = facts.get("gflops", {})
    dtype = dtype_name(compute_dtype(config.base))
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
    longest = max(len(pack.ids) for pack in [*packs, *measured])
    return Estimate(
        seconds=per_step * schedule.total_steps + evaluation,
        seconds_per_step=per_step,
        peak_bytes=_peak(study, config, longest),
        available_bytes=available_memory(),
        parameters=linear + embedding,
        storage=config.base.storage,
        longest_pack=longest,
        fill=computed / (len(packs) * config.pack.length),
        saved=1 - computed / chosen,
    )


def cheaper(study: Study, config: RunConfig) -> list[str]:
    """Up to three changes that need less memory, the cheapest first, each with what it would need."""
    config = _chosen(study, config)
    longest = _longest(study, config)
    row = max(len(example) for example in study.data.train)
    train = config.train.model_copy(update={"gradient_checkpointing": True})
    rank = max(1, config.lora.rank // 2)
    smaller = config.lora.model_copy(update={"rank": rank})
    found: list[tuple[str, float]] = []

    def propose(text: str, changed: RunConfig, tokens: int) -> None:
        found.append((text, _peak(study, changed, tokens)))

    if row < longest:
        propose(f"pack.length={max(16, row)}", config, row)  # the same curve, somewhat slower
    if not config.train.gradient_checkpointing:
        text, changed = "train.gradient_checkpointing=true", config.model_copy(update={"train": train})
        propose(text, changed, longest)
    for storage in smaller_storages(study.spec, config.base) if config.lora.method != "full" else ():
        base = config.base.model_copy(update={"storage": storage})
        propose(f"base.storage={storage}", config.model_copy(update={"base": base}), longest)
    if rank < config.lora.rank and config.lora.on_linears and config.lora.method != "ia3":
        propose(f"lora.rank={rank}", config.model_copy(update={"lora": smaller}), longest)
    propose("a smaller base.model, or shorter rows", config, max(16, row // 2))
    return [f"{text} (about {size(int(need))})" for text, need in found[:3]]


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


def peak_bytes(study: Study, config: RunConfig) -> float:
    """Resident memory of the process at its highest, in a storage that isn't ``auto``."""
    return _peak(study, config, _longest(study, config))


def _chosen(study: Study, config: RunConfig) -> RunConfig:
    """``config`` with the storage that ``auto`` stands for."""
    changed = config.model_copy
    base = choose_storage(
        study.spec, config.base, lambda base: peak_bytes(study, changed(update={"base": base}))
    ).config
    return changed(update={"base": base})


def _longest(study: Study, config: RunConfig) -> int:
    return max(len(pack.ids) for step in _first_steps(study, config) for pack in step)


def _peak(study: Study, config: RunConfig, longest: int) -> float:
    text = study.spec.hf_config.get_text_config()
    width = compute_dtype(config.base).itemsize
    weights = weight_bytes(study.spec, config.base) + unpacked_bytes(study.spec, config.base)
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    attention = (heads + 2 * (getattr(text, "num_key_value_heads", None) or heads)) * head_dim
    # what a layer keeps for its backward pass, in elements a token: norms, residuals, q k v, output, MLP
    kept = 10 * text.hidden_size + 4 * attention + 5 * text.intermediate_size
    layers = 1.5 if config.train.gradient_checkpointing else text.num_hidden_layers
    per_token = width * (kept * layers + (text.hidden_size * text.num_hidden_layers if layers < 2 else 0))
    trained = _trained_bytes(study, config, attention + heads * head_dim)
    return BASELINE_BYTES + weights + trained + per_token * longest + 160e6


def _trained_bytes(study: Study, config: RunConfig, attention: int) -> float:
    """Weight, gradient and moments of what is trained. ``attention``: widths of a layer's q, k, v, output."""
    text, lora, kind = study.spec.hf_config.get_text_config(), config.lora, MOMENTS[config.train.optimizer]
    each = 8 + len(kind.names) * (1 if kind.blocks else 4)
    if lora.method == "full":
        return (each - 4) * float(sum(count_parameters(study.spec)))  # the weight is the base's own
    if lora.lead:  # of keys and values for each layer, or of embeddings
        return each * lora.lead * float(max(text.hidden_size, text.num_hidden_layers * attention))
    rank = 1 if lora.method == "ia3" else lora.rank
    per_layer = 4 * text.hidden_size + attention + 3 * text.intermediate_size
    return each * rank * float(per_layer) * text.num_hidden_layers
