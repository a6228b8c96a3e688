"""Values of theirs that need more than a copy: one small function each, by the name that the tables use."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sapwood.migrate.draft import Draft
from sapwood.migrate.script.values import dotted, is_plain

DTYPES = {
    "bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "fp16": "fp16", "half": "fp16", "float32": "fp32",
    "fp32": "fp32", "float": "fp32", "auto": "auto",
}  # fmt: skip
OPTIMIZERS = {
    "adamw": "adamw", "adam": "adamw", "adamw_torch": "adamw", "adamw_torch_fused": "adamw", "adamw_hf": "adamw",
    "adamw_bnb_8bit": "adamw-8bit", "adamw_8bit": "adamw-8bit", "paged_adamw_32bit": "paged-adamw",
    "paged_adamw": "paged-adamw", "paged_adamw_8bit": "paged-adamw-8bit", "adafactor": "adafactor",
    "lion_32bit": "lion", "lion": "lion", "lion_8bit": "lion-8bit", "sgd": "sgd", "adamw_apex_fused": "adamw",
    "pagedadamw8bit": "paged-adamw-8bit", "pagedadamw": "paged-adamw", "adamw8bit": "adamw-8bit", "adamw_torch_8bit": "adamw-8bit",
}  # fmt: skip
SCHEDULES = {
    "linear": "linear", "cosine": "cosine", "cosine_with_restarts": "cosine-restarts", "constant": "constant",
    "polynomial": "polynomial", "inverse_sqrt": "inverse-sqrt", "constant_with_warmup": "constant",
    "cosine_decay": "cosine", "linear_schedule": "linear", "get_cosine_schedule_with_warmup": "cosine",
}  # fmt: skip
TRACKERS = ("swanlab", "tensorboard", "wandb", "trackio", "mlflow")
Convert = Callable[[Draft, str, Any, int, str, str], None]
UNKNOWN = ("its value isn't known before it runs", "运行之前不知道它的值")


def _word(value: Any) -> str:
    return (value if isinstance(value, str) else dotted(value)).rpartition(".")[2].lower()


def number_of(value: Any) -> float | int | None:
    """A number that may be written as text; whole ones as int."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if float(value).is_integer() else value


def _unread(draft: Draft, theirs: str, value: Any, line: int) -> None:
    draft.unread(line, theirs, value, *UNKNOWN)


def _chosen(key: str, words: dict[str, str], what: tuple[str, str]) -> Convert:
    def convert(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
        ours = words.get(_word(value)) if value is not None else None
        if ours is not None:
            draft.take(key, ours, line, theirs, value, en, zh)
        elif value is None:
            draft.note(key, line, theirs, value, "not set: the default here", "未设置：用这里的默认值")
        else:
            draft.unread(line, theirs, value, f"no {what[0]} of that name here: choose {key}",
                         f"这里没有这个{what[1]}：请选择 {key}")  # fmt: skip

    return convert


def _storage(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    """The number format of the base, unless it is held in 4 or 8 bits."""
    word = DTYPES.get(_word(value)) if value is not None else "auto"
    if word is None:
        _unread(draft, theirs, value, line)
    elif draft.settings.get("base.storage") in ("nf4", "fp4", "int8"):
        draft.note("base.storage", line, theirs, value, "the base is quantised: this is its other tensors' format",
                   "底座已量化：这只是其余张量的格式")  # fmt: skip
    else:
        draft.take("base.storage", word, line, theirs, value, en, zh)


def _mixed(word: str) -> Convert:
    def convert(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
        said = ("what is trained is fp32 always; the base's format is base.storage",
                "被训练的参数始终是 fp32；底座的格式是 base.storage")  # fmt: skip
        packed = draft.settings.get("base.storage") in ("nf4", "fp4", "int8")
        if value in (True, "true", "auto") and "base.storage" not in draft.settings:
            draft.take("base.storage", word, line, theirs, value, en or said[0], zh or said[1])
        elif value is True and packed and "base.compute_dtype" not in draft.settings:
            draft.take("base.compute_dtype", word, line, theirs, value, en or said[0], zh or said[1])
        else:
            draft.note("base.storage", line, theirs, value, en or said[0], zh or said[1])

    return convert


def _bits(four: str) -> Convert:
    def convert(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
        if value is True:
            kind = (
                four
                if draft.settings.get("base.storage") not in ("nf4", "fp4")
                else draft.settings["base.storage"]
            )
            draft.take("base.storage", kind, line, theirs, value, en, zh)
        elif not is_plain(value):
            _unread(draft, theirs, value, line)
        else:
            draft.note("base.storage", line, theirs, value, "not packed by this key", "这个键没有开启量化")

    return convert


def _quantization_bit(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    kind = {4: "nf4", 8: "int8"}.get(number_of(value) or 0)
    if kind is not None:
        draft.take("base.storage", kind, line, theirs, value, en, zh)
    else:
        draft.unread(line, theirs, value, "4 and 8 bits are here, no others", "这里只有 4 比特和 8 比特")


def _quant_type(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    if value in ("nf4", "fp4"):
        draft.take("base.storage", value, line, theirs, value, en, zh)
    else:
        _unread(draft, theirs, value, line)


def _batch(name: str) -> Convert:
    def convert(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
        number = number_of(value)
        if not isinstance(number, int) or number < 1:
            _unread(draft, theirs, value, line)
            return
        setattr(draft, name, number)
        said = {
            "micro": ("train.micro_batch", "× accumulation = train.batch_size; packing mostly makes it needless",
                      "乘以累积步数就是 train.batch_size；有打包，通常不必设"),
            "accumulation": ("train.batch_size", "examples in one step: batch × accumulation × devices",
                             "一步的样本数：单卡批量 × 累积 × 卡数"),
            "whole": ("train.batch_size", "examples in one step", "一步的样本数"),
        }[name]  # fmt: skip
        draft.settle()
        draft.lines.setdefault(said[0], line)
        draft.note(said[0], line, theirs, value, en or said[1], zh or said[2])

    return convert


def _devices(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    number = number_of(value)
    draft.devices = number if isinstance(number, int) and number > 0 else 1
    draft.instead(line, theirs, value, "several devices: torchrun", "多设备：torchrun")


def _warmup_steps(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    number = number_of(value)
    if number is None:
        _unread(draft, theirs, value, line)
    elif number or "train.warmup" not in draft.settings:
        draft.take("train.warmup", number, line, theirs, value, en or "below 1 a share, from 1 on steps",
                   zh or "小于 1 是比例，不小于 1 是步数")  # fmt: skip


def _warmup_ratio(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    if draft.settings.get("train.warmup", 0) >= 1:  # steps win, as they do there
        draft.note("train.warmup", line, theirs, value, "the steps win", "以步数为准")
    else:
        _warmup_steps(draft, theirs, value, line, en, zh)


def _max_steps(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    number = number_of(value)
    if isinstance(number, int) and number > 0:
        draft.take(
            "train.max_steps", number, line, theirs, value, en or "instead of epochs", zh or "代替 epochs"
        )
    elif number is None and value is not None:
        _unread(draft, theirs, value, line)
    else:
        draft.note("train.max_steps", line, theirs, value, "off: the epochs decide", "未启用：由 epochs 决定")


def _epochs(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    number = number_of(value)
    if number is None:
        _unread(draft, theirs, value, line)
    elif "train.max_steps" in draft.settings:
        draft.note("train.max_steps", line, theirs, value, "max_steps wins", "以 max_steps 为准")
    else:
        draft.take("train.epochs", number, line, theirs, value, en, zh)


def _positive(key: str, off_en: str, off_zh: str) -> Convert:
    """A whole number; a share below 1 or nothing isn't taken."""

    def convert(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
        number = number_of(value)
        if isinstance(number, int) and number >= 1:
            draft.take(key, number, line, theirs, value, en, zh)
        elif number is None and value is not None and not is_plain(value):
            _unread(draft, theirs, value, line)
        else:
            draft.note(key, line, theirs, value, en or off_en, zh or off_zh)

    return convert


def _targets(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    if value in ("all-linear", "all", ["all-linear"], ["all"], True):
        draft.take("lora.targets", "all-linear", line, theirs, value, en, zh)
    elif isinstance(value, str) and value and not any(c in value for c in "*|()[]\\^$"):
        draft.take("lora.targets", [part.strip() for part in value.split(",")], line, theirs, value, en, zh)
    elif isinstance(value, str) and value:
        draft.take(
            "lora.targets", value, line, theirs, value, en or "one regular expression", zh or "一个正则表达式"
        )
    elif isinstance(value, (list, tuple)) and value and all(isinstance(v, str) for v in value):
        draft.take("lora.targets", list(value), line, theirs, value, en, zh)
    elif value is None:
        draft.note("lora.targets", line, theirs, value, "not set", "未设置")
    else:
        _unread(draft, theirs, value, line)


def _method(method: str) -> Convert:
    def convert(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
        if value in (True, "true"):
            draft.take("lora.method", method, line, theirs, value, en, zh)
        else:
            draft.note("lora.method", line, theirs, value, "off", "未启用")

    return convert


def _adapter_kind(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    words = {
        "lora": "lora",
        "qlora": "lora",
        "full": "full",
        "dora": "dora",
        "ia3": "ia3",
        "prefix": "prefix",
    }
    ours = words.get(_word(value)) if value is not None else "full"
    if ours is None:
        draft.unread(
            line,
            theirs,
            value,
            "no such method here: choose lora.method",
            "这里没有这个方法：请选择 lora.method",
        )
        return
    if draft.settings.get("lora.method", "lora") == "lora":
        draft.take("lora.method", ours, line, theirs, value, en, zh)
    if _word(value) == "qlora" and "base.storage" not in draft.settings:
        draft.take(
            "base.storage", "nf4", line, theirs, value, "qlora: the base in 4 bits", "qlora：底座为 4 比特"
        )


def _init(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    word = str(value).lower()
    if word.startswith("pissa") or word == "loftq":
        draft.take(
            "lora.method", "pissa" if word.startswith("pissa") else "loftq", line, theirs, value, en, zh
        )
    elif value in (True, "true", "lora", "default", None):
        draft.note("lora.method", line, theirs, value, "the usual start: B is zero", "通常的初始值：B 为零")
    else:
        draft.unread(line, theirs, value, "no such start here: A is random and B zero",
                     "这里没有这种初始化：A 随机，B 为零")  # fmt: skip


def _checkpointing(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    if value in ("unsloth", True, "True", "true", "offload"):
        draft.take("train.gradient_checkpointing", True, line, theirs, value, en, zh)
    elif value in (False, "False", "false", None, ""):
        draft.take("train.gradient_checkpointing", False, line, theirs, value, en, zh)
    else:
        _unread(draft, theirs, value, line)


def _report(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    given = [str(v).lower() for v in value] if isinstance(value, (list, tuple)) else [str(value).lower()]
    known = [v for v in given if v in TRACKERS]
    if not is_plain(value):
        _unread(draft, theirs, value, line)
    elif known or given in (["none"], ["None"], []):
        before = draft.settings.get("track.to", [])
        draft.take("track.to", [*before, *(k for k in known if k not in before)], line, theirs, value, en, zh)
    else:
        draft.note("track.to", line, theirs, value, "the run's own record has every step; trackers are named one by one",
                   "运行目录里每一步都有记录；跟踪工具要逐个写明")  # fmt: skip


def _project(tracker: str) -> Convert:
    def convert(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
        if not isinstance(value, str) or not value:
            draft.note("track.project", line, theirs, value, "not set", "未设置")
            return
        if tracker and tracker not in draft.settings.get("track.to", []):
            _report(draft, theirs, [tracker], line, en, zh)
        name = re.sub(r"[^\w.-]+", "-", value)[:64]
        draft.take("track.project", name or "sapwood", line, theirs, value, en, zh)

    return convert


def _tracker(tracker: str) -> Convert:
    def convert(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
        if value in (True, "true"):
            _report(draft, theirs, [*draft.settings.get("track.to", []), tracker], line, en, zh)

    return convert


def _output(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    said = ("each run has a folder of its own in it", "每次运行在其中有自己的文件夹")
    if isinstance(value, str) and value.strip("./ "):
        draft.take("save.dir", value, line, theirs, value, en or said[0], zh or said[1])
    elif is_plain(value):
        draft.note("save.dir", line, theirs, value, *said)
    else:
        draft.note(
            "save.dir", line, theirs, value, f"its value isn't known; {said[0]}", f"不知道它的值；{said[1]}"
        )


def _model(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    if not isinstance(value, str) or not value:
        _unread(draft, theirs, value, line)
        return
    draft.take("base.model", model_name(value), line, theirs, value, en, zh)


def model_name(value: str) -> str:
    """A hub's ORG/NAME as ``hf:``; a path as it is."""
    parts = value.split("/")
    hub = (
        len(parts) == 2
        and all(parts)
        and not value.startswith((".", "/", "~"))
        and not value.endswith((".gguf", "/"))
    )
    return f"hf:{value}" if hub else value


def _template(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    ours = FAMILY_OF.get(str(value).lower(), "auto")
    draft.take("template.name", ours, line, theirs, value, en or "the tokenizer's own, where none is named",
               zh or "没有写明时用分词器自带的")  # fmt: skip


FAMILY_OF = {
    "gemma": "gemma-2", "gemma2": "gemma-2", "llama2": "llama-2-chat", "chatglm3": "chatglm3", "chatml": "chatml",
    "llama-2": "llama-2-chat",
}  # fmt: skip


def _train_on_prompt(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    if is_plain(value):
        draft.take("template.train_on", "all" if value is True else "assistant", line, theirs, value, en, zh)
    else:
        _unread(draft, theirs, value, line)


def _mask_prompt(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    _train_on_prompt(draft, theirs, not value if is_plain(value) else value, line, en, zh)


def _held_out(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    number = number_of(value)
    if number is not None and number != 1:
        draft.take(
            "data.eval", number, line, theirs, value, en or "a share or a number of rows", zh or "比例或行数"
        )
    else:
        _unread(draft, theirs, value, line)


def _device_map(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    names = ("auto", "balanced", "balanced_low_0", "sequential", "cpu", "cuda")
    word = "cuda" if isinstance(value, str) and value.startswith("cuda") else value
    if word in names:
        draft.take("base.device_map", word, line, theirs, value, en, zh)
    else:
        draft.note(
            "base.device_map", line, theirs, value, "auto: a GPU where there is one", "auto：有 GPU 就用"
        )


def _double(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    if isinstance(value, bool):
        draft.take("base.double_quant", value, line, theirs, value, en, zh)
    else:
        _unread(draft, theirs, value, line)


def _keep_best(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    draft.take("save.adapter", "best" if value is True else "last", line, theirs, value, en, zh)


def _name(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:

    if isinstance(value, str) and value:
        draft.take("name", re.sub(r"[^\w.-]+", "-", value)[:64], line, theirs, value, en, zh)


def _type(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    """PEFT's own word for the method."""
    words = {
        "lora": "lora",
        "prefix_tuning": "prefix",
        "prompt_tuning": "prompt",
        "p_tuning": "p-tuning",
        "ia3": "ia3",
    }
    ours = words.get(_word(value))
    if ours is None:
        draft.unread(
            line,
            theirs,
            value,
            "no such method here: choose lora.method",
            "这里没有这个方法：请选择 lora.method",
        )
    else:
        draft.take("lora.method", ours, line, theirs, value, en, zh)


def _unknown(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    _unread(draft, theirs, value, line)


CONVERT: dict[str, Convert] = {
    "unknown": _unknown,
    "storage": _storage, "bf16": _mixed("bf16"), "fp16": _mixed("fp16"), "4bit": _bits("fp4"), "nf4": _bits("nf4"),
    "8bit": _bits("int8"), "quantization_bit": _quantization_bit, "quant_type": _quant_type,
    "compute": _chosen("base.compute_dtype", DTYPES, ("number format", "数值格式")), "double": _double,
    "optimizer": _chosen("train.optimizer", OPTIMIZERS, ("optimizer", "优化器")),
    "schedule": _chosen("train.schedule", SCHEDULES, ("schedule", "学习率计划")),
    "micro": _batch("micro"), "accumulation": _batch("accumulation"), "whole": _batch("whole"),
    "devices": _devices, "warmup_steps": _warmup_steps, "warmup_ratio": _warmup_ratio, "max_steps": _max_steps,
    "epochs": _epochs, "targets": _targets, "dora": _method("dora"), "rslora": _method("rslora"),
    "pissa": _method("pissa"), "kind": _adapter_kind, "init": _init, "type": _type, "checkpointing": _checkpointing,
    "report": _report, "swanlab": _project("swanlab"), "wandb": _project("wandb"), "trackio": _project("trackio"),
    "mlflow": _project("mlflow"), "project": _project(""), "use_swanlab": _tracker("swanlab"),
    "use_wandb": _tracker("wandb"), "use_tensorboard": _tracker("tensorboard"), "use_mlflow": _tracker("mlflow"),
    "use_trackio": _tracker("trackio"), "output": _output, "model": _model, "template": _template,
    "train_on_prompt": _train_on_prompt, "mask_prompt": _mask_prompt, "held_out": _held_out,
    "device_map": _device_map, "keep_best": _keep_best, "name": _name,
    "save": _positive("save.every", "left at the default here", "用这里的默认值"),
    "keep": _positive("save.keep", "left at the default here: 2 stay", "用这里的默认值：保留 2 个"),
    "eval_every": _positive("eval.every", "left at the default here: once an epoch", "用这里的默认值：每轮一次"),
    "log": _positive("track.every", "the run's own record has every step", "运行目录里每一步都有记录"),
    "length": _positive("pack.length", "not set: pack.length decides, and nothing is cut", "未设置：由 pack.length 决定，从不截断"),
    "answer": _positive("eval.max_new_tokens", "left at the default here", "用这里的默认值"),
    "patience": _positive("eval.patience", "off", "未启用"),
    "threads": _positive("train.threads", "all cores", "所有核心"),
    "virtual": _positive("lora.virtual_tokens", "20", "20"),
}  # fmt: skip
