"""A training loop of the script's own: optimizer, schedule, batches, rounds, seed."""

from __future__ import annotations

from typing import Any

from sapwood.migrate.calls.facts import Facts, first
from sapwood.migrate.convert import CONVERT
from sapwood.migrate.draft import Draft
from sapwood.migrate.keys import apply
from sapwood.migrate.script.values import Call, is_plain

_DECAY = {
    "AdamW": 0.01,
    "AdamW8bit": 0.01,
    "PagedAdamW": 0.01,
    "PagedAdamW8bit": 0.01,
    "PagedAdamW32bit": 0.01,
}
_SCHEDULES = {
    "get_linear_schedule_with_warmup": "linear", "get_cosine_schedule_with_warmup": "cosine",
    "get_constant_schedule": "constant", "get_constant_schedule_with_warmup": "constant",
    "get_cosine_with_hard_restarts_schedule_with_warmup": "cosine_with_restarts",
    "get_polynomial_decay_schedule_with_warmup": "polynomial", "get_inverse_sqrt_schedule": "inverse_sqrt",
    "get_scheduler": "",
}  # fmt: skip
_DEFAULT = ("the default there", "那边的默认值")


def read_loop(draft: Draft, facts: Facts) -> None:
    """Where no Trainer trains."""
    optimizer = facts.optimizer
    if facts.trainer is not None or facts.arguments is not None or optimizer is None:
        return
    _optimizer(draft, optimizer)
    _schedule(draft, facts)
    _batches(draft, facts)
    for count, line in facts.script.rounds[:1]:
        if count is not None:
            apply(draft, "hf:train", "num_train_epochs", count, line, "for")
    for call in facts.calls("set_seed", "manual_seed", "seed_everything")[:1]:
        apply(draft, "hf:train", "seed", first(call, "seed"), call.line, call.last)
    enabled = facts.has("gradient_checkpointing_enable")
    draft.default("train.gradient_checkpointing", enabled, "", *_DEFAULT)


def _optimizer(draft: Draft, call: Call) -> None:
    CONVERT["optimizer"](draft, "optimizer", call.last, call.line, "", "")
    rate = call.kwargs.get("lr", call.args[1] if len(call.args) > 1 else 1e-3)
    apply(draft, "hf:train", "learning_rate", rate, call.lines.get("lr", call.line), "lr")
    decay = call.kwargs.get("weight_decay", _DECAY.get(call.last, 0.0))
    apply(draft, "hf:train", "weight_decay", decay, call.lines.get("weight_decay", call.line), "weight_decay")
    for name in call.kwargs.keys() - {"lr", "weight_decay", "params", "fused", "foreach"}:
        said = "not here; what is trained would differ", "这里没有；训练结果会不同"
        draft.instead(call.lines.get(name, call.line), name, call.kwargs[name], *said, matters=True)


def _schedule(draft: Draft, facts: Facts) -> None:
    made = next(iter(facts.calls(*_SCHEDULES)), None)
    if made is None:
        other = next((c for c in facts.script.calls if "lr_scheduler." in c.name), None)
        if other is not None:
            said = "choose train.schedule and train.warmup", "请选择 train.schedule 与 train.warmup"
            draft.unread(other.line, other.last, "", *said)
        draft.default("train.schedule", "constant", "", *_DEFAULT)
        draft.default("train.warmup", 0, "", *_DEFAULT)
        return
    name = _SCHEDULES[made.last] or first(made, "name")
    CONVERT["schedule"](draft, made.last, name, made.line, "", "")
    place = 2 if made.last == "get_scheduler" else 1
    steps = made.kwargs.get("num_warmup_steps", made.args[place] if len(made.args) > place else 0)
    apply(draft, "hf:train", "warmup_steps", steps, made.lines.get("num_warmup_steps", made.line))


def _batches(draft: Draft, facts: Facts) -> None:
    loaders = facts.calls("DataLoader")
    made = next((c for c in loaders if c.kwargs.get("shuffle") is True), loaders[0] if loaders else None)
    if made is None:
        return
    size: Any = made.kwargs.get("batch_size", made.args[1] if len(made.args) > 1 else 1)
    line = made.lines.get("batch_size", made.line)
    apply(draft, "hf:train", "per_device_train_batch_size", size, line, "batch_size")
    for call in facts.calls("Accelerator"):
        for name in ("gradient_accumulation_steps", "mixed_precision"):
            if name in call.kwargs:
                _accelerated(draft, name, call.kwargs[name], call.lines[name])
    draft.settle()


def _accelerated(draft: Draft, name: str, value: Any, line: int) -> None:
    if name == "gradient_accumulation_steps":
        apply(draft, "hf:train", name, value, line)
    elif value in ("fp16", "bf16"):
        apply(draft, "hf:train", str(value), True, line, name)
    elif not is_plain(value):
        CONVERT["unknown"](draft, name, value, line, "", "")
