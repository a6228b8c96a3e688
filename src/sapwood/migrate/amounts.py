"""Amounts: batches, steps, epochs, lengths, shares."""

from __future__ import annotations

from typing import Any

from sapwood.migrate.converter import Convert, number_of, unread
from sapwood.migrate.draft import Draft
from sapwood.migrate.script.values import is_plain


def _batch(name: str) -> Convert:
    def convert(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
        number = number_of(value)
        if not isinstance(number, int) or number < 1:
            unread(draft, theirs, value, line)
            return
        setattr(draft, name, number)
        said = {
            "micro": ("train.micro_batch", "× accumulation = train.batch_size; mostly needless, with packing",
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
        unread(draft, theirs, value, line)
    elif number or "train.warmup" not in draft.settings:
        draft.take(
            "train.warmup",
            number,
            line,
            theirs,
            value,
            en or "below 1 a share, from 1 on steps",
            zh or "小于 1 是比例，不小于 1 是步数",
        )


def _warmup_ratio(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    if draft.settings.get("train.warmup", 0) >= 1:  # a number of steps wins over a share, as in transformers
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
        unread(draft, theirs, value, line)
    else:
        draft.note("train.max_steps", line, theirs, value, "off: the epochs decide", "未启用：由 epochs 决定")


def _epochs(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    number = number_of(value)
    if number is None:
        unread(draft, theirs, value, line)
    elif "train.max_steps" in draft.settings:
        draft.note("train.max_steps", line, theirs, value, "max_steps wins", "以 max_steps 为准")
    else:
        draft.take("train.epochs", number, line, theirs, value, en, zh)


def _positive(key: str, off_en: str, off_zh: str) -> Convert:
    """A whole number. A share below 1 isn't taken, and neither is an empty value."""

    def convert(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
        number = number_of(value)
        if isinstance(number, int) and number >= 1:
            draft.take(key, number, line, theirs, value, en, zh)
        elif number is None and value is not None and not is_plain(value):
            unread(draft, theirs, value, line)
        else:
            draft.note(key, line, theirs, value, en or off_en, zh or off_zh)

    return convert


def _held_out(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    number = number_of(value)
    if number is not None and number != 1:
        draft.take(
            "data.eval", number, line, theirs, value, en or "a share or a number of rows", zh or "比例或行数"
        )
    else:
        unread(draft, theirs, value, line)


AMOUNTS: dict[str, Convert] = {
    "micro": _batch("micro"),
    "accumulation": _batch("accumulation"),
    "whole": _batch("whole"),
    "devices": _devices,
    "warmup_steps": _warmup_steps,
    "warmup_ratio": _warmup_ratio,
    "max_steps": _max_steps,
    "epochs": _epochs,
    "held_out": _held_out,
    "save": _positive("save.every", "left at the default here", "用这里的默认值"),
    "keep": _positive("save.keep", "left at the default here: 2 stay", "用这里的默认值：保留 2 个"),
    "eval_every": _positive(
        "eval.every", "left at the default here: once an epoch", "用这里的默认值：每轮一次"
    ),
    "log": _positive("track.every", "the run's own record has every step", "运行目录里每一步都有记录"),
    "length": _positive(
        "pack.length",
        "not set: pack.length decides, and nothing is cut",
        "未设置：由 pack.length 决定，从不截断",
    ),
    "answer": _positive("eval.max_new_tokens", "left at the default here", "用这里的默认值"),
    "patience": _positive("eval.patience", "off", "未启用"),
    "threads": _positive("train.threads", "all cores", "所有核心"),
    "virtual": _positive("lora.virtual_tokens", "20", "20"),
}
