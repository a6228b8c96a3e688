"""Rules of the settings: numbers, formats, checkpoints, trackers, rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from sapwood.migrate.rules.rule import Case, Hit, hit, rule
from sapwood.migrate.script.values import Call, Unknown, dotted

_OPTIMIZERS = re.compile(r"8bit|bnb|paged", re.IGNORECASE)


def _at(case: Case, key: str) -> int:
    return case.draft.lines.get(key, 0)


def _peft(case: Case) -> bool:
    method = case.draft.settings.get("lora.method", "lora")
    return method not in ("full",) and (case.facts.adapter is not None or "lora.rank" in case.draft.lines)


def _trainer_wraps(case: Case) -> bool:
    """TRL prepares the base itself if the trainer gets peft_config."""
    trainer = case.facts.trainer
    return trainer is not None and "peft_config" in trainer.kwargs


@rule("adapter-never-attached")
def never_attached(case: Case) -> Iterator[Hit]:
    call = case.facts.adapter
    if call is None or call.last == "get_peft_model" or _trainer_wraps(case):
        return
    if not case.facts.has("get_peft_model", "add_adapter", "PeftModelForCausalLM", "inject_adapter_in_model"):
        yield hit(call.line)


@rule("checkpointing-no-input-grad")
def no_input_grad(case: Case) -> Iterator[Hit]:
    if case.facts.argument("gradient_checkpointing") is not True or not _peft(case) or case.facts.in_unsloth:
        return
    kwargs = case.facts.argument("gradient_checkpointing_kwargs")
    other = isinstance(kwargs, dict) and kwargs.get("use_reentrant") is False
    prepared = case.facts.has(
        "enable_input_require_grads", "prepare_model_for_kbit_training", "prepare_model_for_int8_training"
    )
    if not prepared and not _trainer_wraps(case) and not other:
        yield hit(case.facts.line("gradient_checkpointing"))


@rule("4bit-no-compute-dtype")
def no_compute(case: Case) -> Iterator[Hit]:
    for call in (case.facts.base, case.facts.quantize):
        if call is not None and call.kwargs.get("load_in_4bit") is True and not case.facts.in_unsloth:
            bare = "quantization_config" not in call.kwargs or call is case.facts.quantize
            if bare and "bnb_4bit_compute_dtype" not in call.kwargs:
                yield hit(call.lines["load_in_4bit"])


@rule("kbit-not-prepared")
def not_prepared(case: Case) -> Iterator[Hit]:
    packed = case.draft.settings.get("base.storage") in ("nf4", "fp4", "int8")
    made = next((c for c in case.facts.calls("get_peft_model") if "Fast" not in c.name), None)
    done = case.facts.has("prepare_model_for_kbit_training", "prepare_model_for_int8_training")
    if packed and made is not None and not done and not _trainer_wraps(case) and not case.facts.in_unsloth:
        yield hit(made.line)


def _compute(case: Case) -> tuple[str, int]:
    call = case.facts.quantize
    value = call.kwargs.get("bnb_4bit_compute_dtype") if call is not None else None
    if call is None or value is None or isinstance(value, Unknown):
        return "", 0
    return (value if isinstance(value, str) else dotted(value)).rpartition(".")[2], call.lines[
        "bnb_4bit_compute_dtype"
    ]


@rule("compute-dtype-alone")
def alone(case: Case) -> Iterator[Hit]:
    name, line = _compute(case)
    unset = all(case.facts.argument(key) in (None, False) for key in ("fp16", "bf16"))
    if name in ("float16", "bfloat16") and unset and case.facts.arguments is not None:
        yield hit(line, name=name)


@rule("two-compute-dtypes")
def two(case: Case) -> Iterator[Hit]:
    name, line = _compute(case)
    for mixed, other in (("bf16", "float16"), ("fp16", "bfloat16")):
        if case.facts.argument(mixed) is True and name == other:
            yield hit(line, compute=name, mixed=mixed)


@rule("fp16-and-bf16")
def both(case: Case) -> Iterator[Hit]:
    if case.facts.argument("fp16") is True and case.facts.argument("bf16") is True:
        yield hit(case.facts.line("bf16"))


@rule("targets-by-default")
def by_default(case: Case) -> Iterator[Hit]:
    call = case.facts.adapter
    if (
        call is not None
        and call.last == "LoraConfig"
        and "target_modules" not in call.kwargs
        and "**" not in call.kwargs
    ):
        yield hit(call.line)


def _scale(case: Case) -> tuple[Any, Any]:
    settings = case.draft.settings
    if settings.get("lora.method", "lora") not in ("lora", "dora", "lora+") or not _peft(case):
        return None, None
    alpha, rank = settings.get("lora.alpha"), settings.get("lora.rank")
    known = isinstance(alpha, (int, float)) and isinstance(rank, int) and rank > 0
    return (alpha, rank) if known else (None, None)


@rule("scale-low")
def low(case: Case) -> Iterator[Hit]:
    alpha, rank = _scale(case)
    if alpha is not None and alpha / rank < 0.5:
        yield hit(_at(case, "lora.alpha"), alpha=alpha, rank=rank, scale=alpha / rank)


@rule("scale-high")
def high(case: Case) -> Iterator[Hit]:
    alpha, rank = _scale(case)
    if alpha is not None and alpha / rank > 8:
        yield hit(_at(case, "lora.alpha"), alpha=alpha, rank=rank, scale=alpha / rank)


@rule("lr-unusual")
def lr(case: Case) -> Iterator[Hit]:
    value = case.draft.settings.get("train.lr")
    known = "train.lr" in case.draft.lines and _peft(case)
    if known and isinstance(value, (int, float)) and not 5e-6 <= value <= 2e-3:
        yield hit(_at(case, "train.lr"), lr=value)


@rule("lr-default")
def lr_default(case: Case) -> Iterator[Hit]:
    call = case.facts.arguments
    plain = call is not None and call.last.endswith("TrainingArguments") and _peft(case)
    if (
        call is not None
        and plain
        and not case.facts.by_command
        and not call.kwargs.keys() & {"learning_rate", "**"}
    ):
        yield hit(call.line)


@rule("hidden-length")
def hidden(case: Case) -> Iterator[Hit]:
    facts = case.facts
    if facts.trainer is None or facts.trainer.last != "SFTTrainer" or facts.in_unsloth:
        return
    given = [name for name in ("max_seq_length", "max_length") if facts.line(name)]
    if given and facts.argument(given[0]) is None:
        yield hit(facts.line(given[0]))
    elif not given and not facts.by_command and not (case.learning and case.learning.is_ids):
        yield hit(facts.trainer.line)


@rule("checkpoints-unlimited")
def unlimited(case: Case) -> Iterator[Hit]:
    every = case.facts.argument("save_steps")
    if (
        isinstance(every, (int, float))
        and 1 <= every < 50
        and case.facts.argument("save_total_limit") is None
    ):
        yield hit(case.facts.line("save_steps"), steps=every)


@rule("one-checkpoint")
def one(case: Case) -> Iterator[Hit]:
    steps = case.facts.argument("max_steps")
    usual = not case.facts.line("save_steps") and case.facts.argument("save_strategy", "steps") == "steps"
    if isinstance(steps, int) and 100 <= steps <= 500 and usual:
        yield hit(case.facts.line("max_steps"), steps=steps)


@rule("save-on-each-node")
def each_node(case: Case) -> Iterator[Hit]:
    if case.facts.argument("save_on_each_node") is True:
        yield hit(case.facts.line("save_on_each_node"))


@rule("best-needs-eval")
def best(case: Case) -> Iterator[Hit]:
    strategy = case.facts.argument("eval_strategy", case.facts.argument("evaluation_strategy", "no"))
    if case.facts.argument("load_best_model_at_end") is True and strategy == "no":
        yield hit(case.facts.line("load_best_model_at_end"))


@rule("packing-mixes-rows")
def packing(case: Case) -> Iterator[Hit]:
    facts = case.facts
    if (
        facts.argument("packing") is True
        and facts.argument("padding_free") is not True
        and not facts.in_unsloth
    ) and facts.argument("packing_strategy", "") in ("", "wrapped"):
        yield hit(facts.line("packing"))


@rule("no-held-out")
def held_out(case: Case) -> Iterator[Hit]:
    trainer = case.facts.trainer
    if trainer is not None and case.facts.argument("eval_dataset") is None:
        yield hit(trainer.line)


@rule("eval-on-train")
def on_train(case: Case) -> Iterator[Hit]:
    trained, measured = case.facts.argument("train_dataset"), case.facts.argument("eval_dataset")
    if measured is not None and _rows(measured) == _rows(trained):
        yield hit(case.facts.line("eval_dataset"))


def _rows(value: Any) -> Any:
    """The rows that a mapping reads: a mapping always takes all of them."""
    while isinstance(value, Call) and value.last == "map" and value.of is not None:
        value = value.of
    return value.text if isinstance(value, Unknown) else value


@rule("no-seed")
def no_seed(case: Case) -> Iterator[Hit]:
    seeded = case.facts.has("set_seed", "manual_seed", "seed_everything", "seed") or case.facts.line("seed")
    if case.facts.arguments is not None and not seeded and not case.facts.in_unsloth:
        yield hit(case.facts.arguments.line)


@rule("output-names-other-model")
def other_name(case: Case) -> Iterator[Hit]:
    folder = case.facts.argument("output_dir")
    names = (
        "deepseek",
        "qwen",
        "llama",
        "gemma",
        "chatglm",
        "baichuan",
        "mistral",
        "internlm",
        "yi-",
        "phi-",
    )
    if isinstance(folder, str) and case.facts.model_id:
        said = next((n for n in names if n in folder.lower()), None)
        own = next((n for n in names if n in case.model), None)
        if said is not None and own is not None and said != own and said not in case.model:
            yield hit(case.facts.line("output_dir"), name=folder, model=case.facts.model_id)


@rule("tracker-asks-key")
def asks(case: Case) -> Iterator[Hit]:
    if case.facts.has("login"):
        return
    for call in case.facts.calls("SwanLabCallback"):
        if call.kwargs.get("mode") not in ("local", "offline", "disabled"):
            yield hit(call.line)


@rule("report-to-all")
def to_all(case: Case) -> Iterator[Hit]:
    if (
        case.facts.has("SwanLabCallback")
        and case.facts.arguments is not None
        and not case.facts.line("report_to")
    ):
        yield hit(case.facts.arguments.line)


@rule("no-loss-record")
def no_record(case: Case) -> Iterator[Hit]:
    callbacks = case.facts.argument("callbacks")
    if case.facts.argument("report_to") in ("none", [], ["none"]) and not callbacks:
        yield hit(case.facts.line("report_to"))


@rule("optimizer-needs-cuda")
def needs_cuda(case: Case) -> Iterator[Hit]:
    name = case.facts.argument("optim")
    if isinstance(name, str) and _OPTIMIZERS.search(name):
        yield hit(case.facts.line("optim"), name=name)
