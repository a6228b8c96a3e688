"""Configs of other tools: which tool a file is of; its keys, with their lines, through the tool's table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapwood.migrate.draft import Draft
from sapwood.migrate.keys import apply, defaults, table
from sapwood.migrate.script.source import Source, read_text
from sapwood.migrate.shell.pages import Pages, find
from sapwood.migrate.tools.command import Command
from sapwood.migrate.yamls import YAMLS, yaml_values

_NESTED = {"torchtune": None, "mlx": ("lora_parameters", "lr_schedule", "optimizer_config"),
           "unsloth": ("data", "training", "lora", "logging"), "axolotl": ("special_tokens",)}  # fmt: skip
_FIRST = (
    "use_hf",
    "load_in_4bit",
    "quantization_bit",
    "quant_bits",
    "lora_parameters.rank",
    "model._component_",
    "model.lora_attn_modules",
    "max_steps",
    "training.max_steps",
)
_LABELS = {"llamafactory": "LLaMA-Factory", "axolotl": "Axolotl", "swift": "ms-swift", "mlx": "mlx-lm",
           "torchtune": "torchtune", "unsloth": "Unsloth"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tool:
    """name: of its table. values: key -> (value, line). folder: where its names of files are looked up."""

    name: str
    values: dict[str, tuple[Any, int]]
    source: Source
    folder: Path
    devices: int = 1

    @property
    def label(self) -> str:
        return f"{_LABELS[self.name]} ({table(self.name).version})"


def tool_of(path: Path) -> Tool | None:
    """None if the file is no config of a tool that is known. Raises DataError."""
    if path.suffix not in YAMLS:
        return None
    text = read_text(path)
    values = yaml_values(text, path)
    name = _name_of(values)
    lines = text.splitlines()
    source = Source(str(path), lines, [f"line {i + 1}" for i in range(len(lines))])
    return Tool(name, _flat(name, values), source, path.parent) if name else None


def tool_of_command(command: Command, pages: Pages) -> Tool:
    """The values of a command, with those of the config files that it names. The command's own options
    win."""
    values: dict[str, tuple[Any, int]] = {}
    for name, line in command.configs:
        near = find(name, [command.folder, *pages.folders()])
        if near is None:
            values["config"] = (name, line)
            continue
        text = read_text(near)
        before = pages.add(near, text.splitlines())
        inner = _flat(command.tool, yaml_values(text, near))
        values.update({key: (value, before + at) for key, (value, at) in inner.items()})
    values.update(command.values)
    source = Source(str(pages.path), pages.lines, pages.labels)
    return Tool(command.tool, values, source, command.folder, command.devices)


def read_tool(tool: Tool) -> Draft:
    draft = Draft(values={key: value for key, (value, _) in tool.values.items()}, folder=tool.folder)
    draft.devices = tool.devices
    for key in sorted(tool.values, key=lambda key: (key not in _FIRST, key == "lora_target_linear")):
        value, line = tool.values[key]
        _one(draft, tool.name, key, value, line)
    _silent(draft, tool.name)
    return draft


def _one(draft: Draft, name: str, key: str, value: Any, line: int) -> None:
    if key == "config":
        draft.unread(
            line,
            "config",
            value,
            "this file isn't here: what it sets isn't known",
            "这个文件不在这里：不知道它设置了什么",
        )
    elif key not in table(name) and name in ("llamafactory", "swift") and key in table("hf:train"):
        apply(draft, "hf:train", key, value, line)
    else:
        apply(draft, name, key, value, line)


def _silent(draft: Draft, name: str) -> None:
    """Write out what the tool does if keys are missing."""
    micro = {"llamafactory": 8, "swift": 1, "axolotl": 1, "torchtune": 1}.get(name)
    if draft.whole is None and draft.micro is None and micro is not None:
        draft.micro = micro
    if draft.whole is not None and draft.accumulation is not None:  # mlx: accumulation multiplies
        draft.micro, draft.whole = draft.whole, None
    if name == "axolotl" and "lora.method" not in draft.settings:
        draft.take(
            "lora.method", "full", 0, "adapter", None, "no adapter: all weights", "没有适配器：全部权重"
        )
    known = dict(draft.settings)
    if name == "llamafactory" and "lora.rank" in known:
        draft.default(
            "lora.alpha",
            2 * known["lora.rank"],
            "",
            "the other tool's default: twice the rank",
            "原工具的默认值：秩的两倍",
        )
    if name == "swift" and "train.lr" not in known and known.get("lora.method") == "full":
        draft.default("train.lr", 1e-5, "", "the other tool's default", "原工具的默认值")
    draft.settle()
    defaults(draft, name)
    if "train.max_steps" in known:
        draft.settings.pop("train.epochs", None)
        draft.entries = [e for e in draft.entries if not (e.key == "train.epochs" and e.state == "default")]
    if known.get("lora.method") in ("full",):
        for key in ("lora.rank", "lora.alpha", "lora.dropout", "lora.targets"):
            if key not in known:
                draft.settings.pop(key, None)
        draft.entries = [e for e in draft.entries if not (e.key.startswith("lora.") and e.state == "default")]


def _name_of(values: dict[str, tuple[Any, int]]) -> str:
    """The tool, by keys that only it has."""
    top = {key: value for key, (value, _) in values.items() if not key.startswith("\0")}
    if any(isinstance(v, dict) and "_component_" in v for v in top.values()):
        return "torchtune"
    if "base_model" in top:
        return "axolotl"
    if isinstance(top.get("training"), dict) and "model" in top:
        return "unsloth"
    if "model_name_or_path" in top and (
        top.keys() & {"finetuning_type", "template", "stage", "dataset", "cutoff_len"}
    ):
        return "llamafactory"
    if (
        top.keys() & {"iters", "lora_parameters", "fine_tune_type", "lora_layers", "num_layers"}
        and "model" in top
    ):
        return "mlx"
    if top.keys() & {"train_type", "tuner_type", "sft_type"} or {"model", "dataset"} <= top.keys():
        return "swift"
    return ""


def _flat(name: str, values: dict[str, tuple[Any, int]]) -> dict[str, tuple[Any, int]]:
    out: dict[str, tuple[Any, int]] = {}
    for key, (value, line) in values.items():
        if key.startswith("\0"):
            continue
        nested = _NESTED.get(name, ())
        if isinstance(value, dict) and (nested is None or key in nested):
            out.update(_below(key, value, line, values))
        else:
            out[key] = (_filled(value, values), line)
    return out


def _below(
    prefix: str, tree: dict[str, Any], line: int, values: dict[str, tuple[Any, int]]
) -> dict[str, tuple[Any, int]]:
    out: dict[str, tuple[Any, int]] = {}
    for key, value in tree.items():
        path = f"{prefix}.{key}"
        at = values.get(f"\0{path}", (None, line))[1]
        if isinstance(value, dict):
            out.update(_below(path, value, at, values))
        else:
            out[path] = (_filled(value, values), at)
    return out


def _filled(value: Any, values: dict[str, tuple[Any, int]]) -> Any:
    """`${name}` of the same file."""
    if not isinstance(value, str) or "${" not in value:
        return value
    return re.sub(r"\$\{(\w+)\}", lambda m: str(values[m[1]][0]) if m[1] in values else m[0], value)
