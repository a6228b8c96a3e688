"""Values of other tools' keys that need more than a copy: one small function for each, by the name that the
tables use."""

from __future__ import annotations

import re
from typing import Any

from sapwood.migrate.amounts import AMOUNTS
from sapwood.migrate.converter import Convert, chosen, is_text, unknown, unread, when, word_of
from sapwood.migrate.draft import Draft
from sapwood.migrate.formats import FORMATS
from sapwood.migrate.script.values import is_plain

OPTIMIZERS = {
    "adamw": "adamw", "adam": "adamw", "adamw_torch": "adamw", "adamw_torch_fused": "adamw",
    "adamw_hf": "adamw",
    "adamw_bnb_8bit": "adamw-8bit", "adamw_8bit": "adamw-8bit", "paged_adamw_32bit": "paged-adamw",
    "paged_adamw": "paged-adamw", "paged_adamw_8bit": "paged-adamw-8bit", "adafactor": "adafactor",
    "lion_32bit": "lion", "lion": "lion", "lion_8bit": "lion-8bit", "sgd": "sgd", "adamw_apex_fused": "adamw",
    "pagedadamw8bit": "paged-adamw-8bit", "pagedadamw": "paged-adamw", "adamw8bit": "adamw-8bit",
    "adamw_torch_8bit": "adamw-8bit",
}  # fmt: skip
SCHEDULES = {
    "linear": "linear", "cosine": "cosine", "cosine_with_restarts": "cosine-restarts", "constant": "constant",
    "polynomial": "polynomial", "inverse_sqrt": "inverse-sqrt", "constant_with_warmup": "constant",
    "cosine_decay": "cosine", "linear_schedule": "linear", "get_cosine_schedule_with_warmup": "cosine",
}  # fmt: skip
TRACKERS = ("swanlab", "tensorboard", "wandb", "trackio", "mlflow")


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
        unread(draft, theirs, value, line)


_schedule_of = chosen("train.schedule", SCHEDULES, ("schedule", "学习率计划"))


def _schedule(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    _schedule_of(draft, theirs, value, line, en, zh)
    draft.flat = word_of(value) == "constant"


def _method(method: str) -> Convert:
    def convert(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
        if value in (True, "true"):
            draft.take("lora.method", method, line, theirs, value, en, zh)
        else:
            draft.note("lora.method", line, theirs, value, "off", "未启用")

    return convert


METHODS = {
    "lora": "lora", "qlora": "lora", "full": "full", "dora": "dora", "ia3": "ia3", "prefix": "prefix",
    "prefix_tuning": "prefix", "prompt_tuning": "prompt", "p_tuning": "p-tuning",
}  # fmt: skip
_one_of = chosen("lora.method", METHODS, ("method", "方法"))


def _adapter_kind(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    """If the key isn't set, the tool trains the whole model. A method that another key set stays."""
    known = value is None or word_of(value) in METHODS
    if not known or draft.settings.get("lora.method", "lora") == "lora":
        _one_of(draft, theirs, "full" if value is None else value, line, en, zh)
    if value is not None and word_of(value) == "qlora" and "base.storage" not in draft.settings:
        said = "qlora: the base in 4 bits", "qlora：基座为 4 比特"
        draft.take("base.storage", "nf4", line, theirs, value, *said)


def _init(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    word = str(value).lower()
    if word.startswith("pissa") or word == "loftq":
        draft.take(
            "lora.method", "pissa" if word.startswith("pissa") else "loftq", line, theirs, value, en, zh
        )
    elif value in (True, "true", "lora", "default", None):
        draft.note("lora.method", line, theirs, value, "the usual start: B is zero", "通常的初始值：B 为零")
    else:
        draft.unread(
            line,
            theirs,
            value,
            "no such start here: A is random and B zero",
            "这里没有这种初始化：A 随机，B 为零",
        )


def _checkpointing(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    if value in ("unsloth", True, "True", "true", "offload"):
        draft.take("train.gradient_checkpointing", True, line, theirs, value, en, zh)
    elif value in (False, "False", "false", None, ""):
        draft.take("train.gradient_checkpointing", False, line, theirs, value, en, zh)
    else:
        unread(draft, theirs, value, line)


def _report(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    given = [str(v).lower() for v in value] if isinstance(value, (list, tuple)) else [str(value).lower()]
    known = [v for v in given if v in TRACKERS]
    if not is_plain(value):
        unread(draft, theirs, value, line)
    elif known or given in (["none"], ["None"], []):
        before = draft.settings.get("track.to", [])
        draft.take("track.to", [*before, *(k for k in known if k not in before)], line, theirs, value, en, zh)
    else:
        draft.note(
            "track.to",
            line,
            theirs,
            value,
            "the run's own record has every step; trackers are named one by one",
            "运行目录里每一步都有记录；跟踪工具要逐个写明",
        )


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
    draft.take(
        "template.name",
        ours,
        line,
        theirs,
        value,
        en or "the tokenizer's own, if none is named",
        zh or "没有写明时用分词器自带的",
    )


FAMILY_OF = {
    "gemma": "gemma-2", "gemma2": "gemma-2", "llama2": "llama-2-chat", "chatglm3": "chatglm3",
    "chatml": "chatml",
    "llama-2": "llama-2-chat",
}  # fmt: skip


def _device_map(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    names = ("auto", "balanced", "balanced_low_0", "sequential", "cpu", "cuda")
    word = "cuda" if isinstance(value, str) and value.startswith("cuda") else value
    if word in names:
        draft.take("base.device_map", word, line, theirs, value, en, zh)
    else:
        draft.note("base.device_map", line, theirs, value, "auto: a GPU if there is one", "auto：有 GPU 就用")


def _keep_best(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    draft.take("save.adapter", "best" if value is True else "last", line, theirs, value, en, zh)


CONVERT: dict[str, Convert] = {
    "unknown": unknown,
    **FORMATS, **AMOUNTS,
    "optimizer": chosen("train.optimizer", OPTIMIZERS, ("optimizer", "优化器")),
    "schedule": _schedule,
    "targets": _targets, "init": _init, "kind": _adapter_kind, "type": _one_of,
    **{method: _method(method) for method in ("dora", "rslora", "pissa")},
    "checkpointing": _checkpointing, "output": _output, "template": _template, "report": _report,
    **{tracker: _project(tracker) for tracker in ("swanlab", "wandb", "trackio", "mlflow")},
    **{f"use_{tracker}": _tracker(tracker) for tracker in TRACKERS},
    "project": _project(""), "device_map": _device_map, "keep_best": _keep_best,
    "model": when("base.model", is_text, model_name),
    "name": when("name", is_text, lambda name: re.sub(r"[^\w.-]+", "-", name)[:64]),
    "train_on_prompt": when("template.train_on", is_plain, lambda it: "all" if it is True else "assistant"),
    "mask_prompt": when("template.train_on", is_plain, lambda it: "assistant" if it else "all"),
}  # fmt: skip
