"""Values of other tools' keys that need more than a copy; those of many tools are in `migrate.convert`."""

from __future__ import annotations

import re
from typing import Any

from sapwood.migrate.convert import CONVERT, model_name
from sapwood.migrate.converter import Convert, number_of
from sapwood.migrate.draft import Draft

_TUNE_MODEL = re.compile(r"torchtune\.models\.(\w+)\.(q?lora)_(\w+)")
_TUNE_DATA = {
    "alpaca_cleaned_dataset": ("hf:yahma/alpaca-cleaned", "alpaca"),
    "alpaca_dataset": ("hf:tatsu-lab/alpaca", "alpaca"),
    "slimorca_dataset": ("hf:Open-Orca/SlimOrca-Dedup", "sharegpt"), "instruct_dataset": ("", ""),
    "chat_dataset": ("", ""),
    "text_completion_dataset": ("", "text"), "samsum_dataset": ("hf:Samsung/samsum", ""),
    "grammar_dataset": ("hf:liweili/c4_200m", ""),
}  # fmt: skip
_BUILDERS = ("json", "csv", "text", "parquet")


def _mlx_scale(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    number, rank = number_of(value), draft.settings.get("lora.rank", 8)
    if number is None:
        CONVERT["unknown"](draft, theirs, value, line, en, zh)
    elif theirs.endswith("alpha"):
        draft.take("lora.alpha", number, line, theirs, value)
    else:
        draft.take(
            "lora.alpha",
            number * rank,
            line,
            theirs,
            value,
            "scale × rank: alpha is divided by the rank here",
            "scale × rank：这里 alpha 要除以秩",
        )


def _mlx_data(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    if not isinstance(value, str):
        CONVERT["unknown"](draft, theirs, value, line, en, zh)
    elif model_name(value).startswith("hf:") and not (draft.folder / value).exists():
        draft.take("data.train", [f"hf:{value}"], line, theirs, value)
    else:
        draft.take(
            "data.train",
            [f"{value.rstrip('/')}/train.jsonl"],
            line,
            theirs,
            value,
            "train.jsonl of the folder",
            "文件夹里的 train.jsonl",
        )
        draft.take(
            "data.eval",
            f"{value.rstrip('/')}/valid.jsonl",
            line,
            theirs,
            value,
            "valid.jsonl of the folder",
            "文件夹里的 valid.jsonl",
        )


def _tune_model(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    match = _TUNE_MODEL.match(str(value))
    if match is None:
        draft.take(
            "lora.method", "full", line, theirs, value, "no adapter: all weights", "没有适配器：全部权重"
        )
        return
    draft.take("lora.method", "lora", line, theirs, value)
    if match[2] == "qlora":
        draft.take("base.storage", "nf4", line, theirs, value)


_TUNE_NAMES = {"output_proj": "o_proj", "w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


def _tune_attn(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        before = draft.settings.get("lora.targets", [])
        names = [_TUNE_NAMES.get(v, v) for v in value]
        draft.take("lora.targets", [*names, *(b for b in before if b not in names)], line, theirs, value)
    else:
        CONVERT["unknown"](draft, theirs, value, line, en, zh)


def _tune_mlp(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    before = draft.settings.get("lora.targets", [])
    mlp = ["gate_proj", "up_proj", "down_proj"] if value is True else []
    draft.take("lora.targets", [*before, *(m for m in mlp if m not in before)], line, theirs, value)


def _tune_data(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    name = str(value).rpartition(".")[2]
    known = _TUNE_DATA.get(name)
    if known is None:
        draft.unread(
            line,
            theirs,
            value,
            "which rows isn't known: set data.train",
            "不知道是哪些数据：请设置 data.train",
        )
        return
    where, form = known
    if where and "data.train" not in draft.settings:
        draft.take("data.train", [where], line, theirs, value)
    if form:
        draft.take("data.format", form, line, theirs, value)
    if name == "text_completion_dataset":
        draft.take("template.train_on", "all", line, theirs, value)


def _tune_source(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    if value in _BUILDERS:
        draft.note("data.train", line, theirs, value, "the kind is told by the content", "格式由内容判断")
    elif isinstance(value, str):
        draft.take("data.train", [model_name(value)], line, theirs, value)
    else:
        CONVERT["unknown"](draft, theirs, value, line, en, zh)


def _files(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    paths = [value] if isinstance(value, str) else value
    if isinstance(paths, list) and paths and all(isinstance(p, str) for p in paths):
        draft.take("data.train", list(paths), line, theirs, value)
    elif value is not None:
        CONVERT["unknown"](draft, theirs, value, line, en, zh)


def _tune_clip(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    draft.take(
        "train.max_grad_norm", number_of(value) or 0, line, theirs, value, "0 never clips", "0 表示从不裁剪"
    )


def _tune_logger(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    known = {"WandBLogger": "wandb", "TensorBoardLogger": "tensorboard"}.get(str(value).rpartition(".")[2])
    if known is not None:
        draft.take("track.to", [known], line, theirs, value)
    else:
        draft.note(
            "track.to", line, theirs, value, "the run's own record has every step", "运行目录里每一步都有记录"
        )


def _tune_device(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    CONVERT["device_map"](draft, theirs, value, line, en, zh)


def _stage(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    if value == "pt":
        draft.take("template.train_on", "all", line, theirs, value, "the whole text", "全文")
    elif value == "sft":
        draft.note("template.train_on", line, theirs, value, "answers are learnt", "学习回答")
    else:
        draft.unread(
            line,
            theirs,
            value,
            "not here: sapwood learns answers, no preferences",
            "这里没有：sapwood 学习回答，不做偏好优化",
        )


def _rl(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    if value:
        _stage(draft, theirs, value, line, en, zh)


def _loraplus(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    number = number_of(value)
    if number:
        draft.take("lora.method", "lora+", line, theirs, value)
        draft.take("lora.b_ratio", number, line, theirs, value)


def _mask_history(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    if value is True:
        draft.take("template.train_on", "last", line, theirs, value)


def _unsloth_gc(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    CONVERT["checkpointing"](draft, theirs, not value, line, en, zh)


def _swanlab_mode(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    ours = {"cloud": "cloud", "local": "offline", "offline": "offline", "disabled": "disabled"}.get(
        str(value), "offline"
    )
    draft.take("track.mode", ours, line, theirs, value)


def _swift_model(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    ours = model_name(value) if isinstance(value, str) else None
    if ours is None:
        CONVERT["unknown"](draft, theirs, value, line, en, zh)
        return
    hub = draft.values.get("use_hf") in (True, "true", "True", "1", 1)
    draft.take("base.model", ours if hub else re.sub("^hf:", "ms:", ours), line, theirs, value)


def _swift_data(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    entries = value if isinstance(value, list) else [value]
    paths: list[str] = []
    hub = draft.values.get("use_hf") in (True, "true", "True", "1", 1)
    for entry in entries:
        name, _, count = str(entry).partition("#")
        name, _, subset = name.partition(":") if not name.startswith(("HF::", "MS::")) else (name, "", "")
        if count or subset:
            draft.unread(
                line,
                theirs,
                entry,
                "a part of the rows: write that part to a file of its own",
                "只用部分数据：请把这部分写成单独的文件",
            )
        if name.startswith("HF::") or (hub and model_name(name).startswith("hf:")):
            paths.append(f"hf:{name.removeprefix('HF::')}")
        elif model_name(name).startswith("hf:") or name.startswith("MS::"):
            draft.unread(
                line,
                theirs,
                name,
                "ModelScope's datasets aren't read: fetch it and name its file",
                "不直接读取 ModelScope 数据集：请下载后写明文件",
            )
            paths.append(name.removeprefix("MS::"))
        else:
            paths.append(name)
    if paths:
        draft.take("data.train", paths, line, theirs, value)


def _swift_eval(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    if isinstance(value, str) and value:
        draft.take("data.eval", value, line, theirs, value)
    elif value:
        draft.unread(
            line, theirs, value, "one file is held out: put them together", "留出数据只能是一个文件：请合并"
        )


def _swift_template(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    draft.take("template.name", "auto", line, theirs, value, "the tokenizer's own", "分词器自带的")


def _axolotl_linear(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    if value is True:
        draft.take("lora.targets", "all-linear", line, theirs, value)
    else:
        draft.note("lora.targets", line, theirs, value, "off", "未启用")


def _mlx_keys(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        names = list(dict.fromkeys(v.rpartition(".")[2] for v in value))
        draft.take("lora.targets", names, line, theirs, value, en, zh)
    else:
        CONVERT["unknown"](draft, theirs, value, line, en, zh)


def _axolotl_template(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    if value in ("jinja", None):
        draft.unread(
            line,
            theirs,
            value,
            "a template of its own: name the .jinja file in template.name",
            "自带模板：请在 template.name 写明 .jinja 文件",
        )
    else:
        CONVERT["template"](draft, theirs, value, line, en, zh)


def _max_epochs(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    if value is not None:
        CONVERT["epochs"](draft, theirs, value, line, en, zh)


def _unsloth_data(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    if isinstance(value, str):
        draft.take("data.train", [model_name(value)], line, theirs, value)


def _unsloth_format(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    ours = {
        "alpaca": "alpaca",
        "chatml": "messages",
        "sharegpt": "sharegpt",
        "auto": "auto",
        "raw": "text",
    }.get(str(value))
    if ours is not None:
        draft.take("data.format", ours, line, theirs, value)
    else:
        draft.unread(
            line, theirs, value, "no such shape here: see data.format", "这里没有这种格式：见 data.format"
        )


def _loftq(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    if value is True:
        draft.take("lora.method", "loftq", line, theirs, value)


CONVERT_TOOL: dict[str, Convert] = {
    "mlx_scale": _mlx_scale, "mlx_data": _mlx_data, "mlx_keys": _mlx_keys, "tune_model": _tune_model,
    "tune_attn": _tune_attn,
    "tune_mlp": _tune_mlp, "tune_data": _tune_data, "tune_source": _tune_source, "tune_files": _files,
    "tune_optimizer": CONVERT["optimizer"], "tune_schedule": CONVERT["schedule"], "tune_clip": _tune_clip,
    "tune_logger": _tune_logger, "tune_device": _tune_device, "stage": _stage, "rl": _rl,
    "loraplus": _loraplus,
    "mask_history": _mask_history, "unsloth_gc": _unsloth_gc, "swanlab_mode": _swanlab_mode,
    "swift_model": _swift_model, "swift_data": _swift_data, "swift_eval": _swift_eval,
    "swift_template": _swift_template, "axolotl_linear": _axolotl_linear,
    "axolotl_template": _axolotl_template,
    "max_epochs": _max_epochs, "unsloth_data": _unsloth_data, "unsloth_local": _files,
    "unsloth_format": _unsloth_format, "loftq": _loftq,
}  # fmt: skip
