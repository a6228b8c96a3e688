"""How a script trains: what its Trainer is told; its own loop's optimizer, schedule, batches, rounds."""

from __future__ import annotations

from typing import Any

from sapwood.migrate.calls.facts import Facts, first
from sapwood.migrate.convert import CONVERT
from sapwood.migrate.draft import Draft
from sapwood.migrate.keys import apply, apply_all, defaults, table
from sapwood.migrate.script.outside import COMMANDED, PARSED, SHARED
from sapwood.migrate.script.values import Call, Object, is_plain

_DECAY = {
    "AdamW": 0.01,
    "AdamW8bit": 0.01,
    "PagedAdamW": 0.01,
    "PagedAdamW8bit": 0.01,
    "PagedAdamW32bit": 0.01,
}
_SCHEDULES = {
    "get_linear_schedule_with_warmup": "linear", "get_cosine_schedule_with_warmup": "cosine",
    "get_constant_schedule": "constant", "get_constant_schedule_with_warmup": "constant_with_warmup",
    "get_cosine_with_hard_restarts_schedule_with_warmup": "cosine_with_restarts",
    "get_polynomial_decay_schedule_with_warmup": "polynomial", "get_inverse_sqrt_schedule": "inverse_sqrt",
    "get_scheduler": "",
}  # fmt: skip
_RATES = {  # of trl's own settings, if a script says nothing
    "SFTConfig": 2e-5, "RewardConfig": 1e-4,
    **dict.fromkeys(("DPOConfig", "ORPOConfig", "KTOConfig", "CPOConfig", "GRPOConfig"), 1e-6),
}  # fmt: skip
_PREPARE = ("prepare_model_for_kbit_training", "prepare_model_for_int8_training")
_PACKED = ("nf4", "fp4", "int8")
_DEFAULT = ("the other tool's default", "原工具的默认值")


def read_training(draft: Draft, facts: Facts) -> None:
    if facts.arguments is not None:
        if facts.arguments.inside == PARSED:
            draft.unread(
                facts.arguments.line,
                facts.arguments.last,
                "",
                "these come from the command line: set what it gave",
                "这些来自命令行：请把命令行给的值写进配置",
            )
        apply_all(draft, "hf:train", _known_arguments(draft, facts, facts.arguments))
        own = facts.arguments.last
        if "per_device_train_batch_size" not in facts.arguments.kwargs and "**" not in facts.arguments.kwargs:
            draft.micro = 8
        if not facts.arguments.kwargs.keys() & {"gradient_checkpointing", "**"} and own not in ("SFTConfig",):
            draft.default("train.gradient_checkpointing", bool(facts.in_unsloth), "", *_DEFAULT)
        if "**" not in facts.arguments.kwargs:
            if own in _RATES:  # trl changes only this one of transformers' defaults
                draft.default("train.lr", _RATES[own], "", *_DEFAULT)
            defaults(draft, "hf:train")
        draft.settle()
    elif facts.trainer is not None:
        said = "these settings aren't known here: set train", "不知道这些设置：请设置 train"
        given = facts.trainer.kwargs.get("args")
        draft.unread(facts.trainer.lines.get("args", facts.trainer.line), "args", given, *said)
    if facts.trainer is not None:
        apply_all(draft, "hf:trainer", facts.trainer)
        if facts.prefers:
            draft.unread(
                facts.trainer.line,
                facts.trainer.last,
                "",
                "not here: sapwood learns answers, no preferences",
                "这里没有：sapwood 学习回答，不做偏好优化",
            )


def _known_arguments(draft: Draft, facts: Facts, call: Call) -> Call:
    """The call without the fields that a dataclass of the script adds. These fields are followed to their
    use."""
    if call.inside not in (PARSED, COMMANDED):
        return call
    given = facts.trainer.kwargs.get("args") if facts.trainer else None
    own = given.made_by.fields if isinstance(given, Object) and given.made_by is not None else {}
    shared = SHARED in call.attrs
    added = [name for name in call.kwargs if name not in table("hf:train") and (shared or name in own)]
    for name in added:
        said = "the script's own: followed to where it is used", "脚本自己的参数：已跟踪到使用它的地方"
        draft.instead(call.lines.get(name, call.line), name, call.kwargs[name], *said)
    kept = {name: value for name, value in call.kwargs.items() if name not in added}
    return Call(call.name, call.line, kwargs=kept, lines=call.lines, inside=call.inside)


def read_checkpointing(draft: Draft, facts: Facts) -> None:
    """Calls that switch gradient checkpointing on. PEFT's call does so for a packed base, whatever the
    trainer is told."""
    on = facts.calls("gradient_checkpointing_enable")
    if draft.settings.get("base.storage") in _PACKED:
        on += [call for call in facts.calls(*_PREPARE) if _use_checkpointing(call) is True]
    if on:
        CONVERT["checkpointing"](draft, on[0].last, True, on[0].line, "", "")


def _use_checkpointing(call: Call) -> Any:
    return call.kwargs.get("use_gradient_checkpointing", call.args[1] if len(call.args) > 1 else True)


def read_loop(draft: Draft, facts: Facts) -> None:
    """Read the script's own training loop, if no Trainer trains."""
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
    draft.default("train.gradient_checkpointing", False, "", *_DEFAULT)


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
