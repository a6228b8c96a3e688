"""Configs of other tools: which tool a file is of; its keys, with their lines, through the tool's table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapwood.errors import DataError
from sapwood.migrate.draft import Draft
from sapwood.migrate.keys import apply, defaults, table
from sapwood.migrate.script.source import Source, read_source, read_text
from sapwood.migrate.tools.command import Command, commands

YAMLS = {".yaml", ".yml", ".json"}
SHELLS = {".sh", ".bash", ".bat", ".cmd", ".txt", ".md", ".ps1", ".ipynb"}
MAX_DEPTH = 16
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
    """name: of its table. values: key -> (value, line)."""

    name: str
    values: dict[str, tuple[Any, int]]
    text: str
    devices: int = 1

    @property
    def label(self) -> str:
        return f"{_LABELS[self.name]} ({table(self.name).version})"


def tool_of(path: Path) -> Tool | None:
    """None where the file is no config and no command line of a tool that is known. Raises DataError."""
    if path.suffix in YAMLS:
        text = read_text(path)
        values = yaml_values(text, path)
        name = _name_of(values)
        return Tool(name, _flat(name, values), text) if name else None
    if path.suffix in SHELLS:
        text = "\n".join(_source(path).lines)
        found = commands(text)
        return _of_command(found[-1], text, path) if found else None
    return None


def _source(path: Path) -> Source:
    """A notebook's lines are those of its cells."""
    if path.suffix == ".ipynb":
        return read_source(path)
    lines = read_text(path).splitlines()
    return Source(str(path), lines, [f"line {i + 1}" for i in range(len(lines))])


def _of_command(command: Command, text: str, path: Path) -> Tool:
    values: dict[str, tuple[Any, int]] = {}
    for name, line in command.configs:  # a file that the command names; its own options win
        near = next((p for p in (path.parent / name, Path(name)) if p.is_file()), None)
        if near is not None:
            inner = _flat(command.tool, yaml_values(read_text(near), near))
            values.update({key: (value, line) for key, (value, _) in inner.items()})
        else:
            values["config"] = (name, line)
    values.update(command.values)
    return Tool(command.tool, values, text, command.devices)


def read_tool(path: Path, tool: Tool) -> tuple[Draft, Source]:
    source = _source(path)
    draft = Draft(values={key: value for key, (value, _) in tool.values.items()}, folder=path.parent)
    draft.devices = tool.devices
    for key in sorted(tool.values, key=lambda key: (key not in _FIRST, key == "lora_target_linear")):
        value, line = tool.values[key]
        _one(draft, tool.name, key, value, line)
    _silent(draft, tool.name)
    return draft, source


def _one(draft: Draft, name: str, key: str, value: Any, line: int) -> None:
    if key == "config" and name not in ("mlx",):
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
    """What the tool does with keys that aren't there."""
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
            "the default there: twice the rank",
            "那边的默认值：秩的两倍",
        )
    if name == "swift" and "train.lr" not in known and known.get("lora.method") == "full":
        draft.default("train.lr", 1e-5, "", "the default there", "那边的默认值")
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


# --- YAML, with the line of each key ----------------------------------------------------------------------


def yaml_values(text: str, path: Path) -> dict[str, tuple[Any, int]]:
    """Top keys, each with its value and line; lines of deeper keys stand under ``\\0path``. JSON is YAML."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    yaml: Any = YAML(typ="safe", pure=True)
    yaml.allow_duplicate_keys = True
    try:
        node = yaml.compose(text.replace("\t", "  "))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise DataError(
            "not valid YAML", where, " ".join(str(error.problem or error).split())[:200]
        ) from None
    except (YAMLError, RecursionError, ValueError) as error:
        raise DataError("not valid YAML", str(path), " ".join(str(error).split())[:200]) from None
    out: dict[str, tuple[Any, int]] = {}
    if node is None or node.id != "mapping":
        return out
    for key, value in node.value:
        out[str(key.value)] = (_value(value, str(key.value), out, 0), key.start_mark.line + 1)
    return out


def _value(node: Any, path: str, lines: dict[str, tuple[Any, int]], depth: int) -> Any:
    if depth > MAX_DEPTH:
        return None
    if node.id == "mapping":
        made: dict[str, Any] = {}
        for key, value in node.value:
            name = str(key.value)
            lines[f"\0{path}.{name}"] = (None, key.start_mark.line + 1)
            made[name] = _value(value, f"{path}.{name}", lines, depth + 1)
        return made
    if node.id == "sequence":
        return [_value(one, path, lines, depth + 1) for one in node.value]
    return str(node.value) if node.style in ("'", '"', "|", ">") else scalar(str(node.value))


def scalar(text: str) -> Any:
    """A bare word as the tools read it: YAML 1.1, and 1e-4 is a number, since they all make one of it."""
    low = text.strip().lower()
    if low in ("", "~", "null", "none"):
        return None
    if low in ("true", "yes", "on", "false", "no", "off"):
        return low in ("true", "yes", "on")
    if re.fullmatch(r"[-+]?\d{1,18}", low):
        return int(low)
    if re.fullmatch(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?", low):
        return float(low)
    return text
