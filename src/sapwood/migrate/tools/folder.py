"""A PEFT folder or a Trainer's checkpoint: adapter_config.json and training_args.bin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sapwood.errors import DataError, brief
from sapwood.migrate.draft import Draft
from sapwood.migrate.keys import apply, defaults
from sapwood.migrate.script.source import Source, read_text
from sapwood.migrate.tools.pickled import read_pickled

# A Trainer writes all its arguments, chosen or not. Only these keys tell about the run.
_ARGUMENTS = (
    "output_dir", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "max_steps",
    "num_train_epochs", "lr_scheduler_type", "warmup_steps", "warmup_ratio", "weight_decay",
    "max_grad_norm", "optim",
    "seed", "gradient_checkpointing", "neftune_noise_alpha", "bf16", "fp16", "save_steps", "save_total_limit",
    "logging_steps", "report_to", "load_best_model_at_end", "max_length", "max_seq_length", "packing",
    "label_smoothing_factor", "adam_beta1", "adam_beta2", "adam_epsilon", "assistant_only_loss",
    "completion_only_loss",
)  # fmt: skip
_USUAL = {
    "label_smoothing_factor": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "packing": False,
}


def read_folder(path: Path) -> tuple[Draft, Source, str]:
    """Read a folder. Raises DataError if it is neither a PEFT folder nor a checkpoint."""
    folder = path if path.is_dir() else path.parent
    config = path if path.name == "adapter_config.json" else folder / "adapter_config.json"
    arguments = path if path.suffix == ".bin" else folder / "training_args.bin"
    draft, source = Draft(), Source(str(path), [], [])
    kinds: list[str] = []
    if config.is_file() and path.suffix != ".bin":
        _adapter(draft, source, config)
        kinds.append("PEFT adapter")
    if arguments.is_file():
        _arguments(draft, read_pickled(arguments))
        kinds.append("training_args.bin")
    if not kinds:
        why = "it holds no adapter_config.json and no training_args.bin"
        raise DataError("this folder isn't understood", str(path), why, "name a PEFT folder or a checkpoint")
    draft.unread(
        0,
        "data.train",
        "",
        "neither file says which rows it was trained on: set data.train",
        "两个文件都没有说明训练数据：请设置 data.train",
        matters=True,
    )
    return draft, source, ", ".join(kinds)


def _adapter(draft: Draft, source: Source, path: Path) -> None:
    text = read_text(path)
    source.lines += text.splitlines()
    source.labels += [f"{path.name} line {i + 1}" for i in range(len(source.lines))]
    try:
        values: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError("not valid JSON", str(path), brief(error)) from None
    if not isinstance(values, dict):
        raise DataError("not an adapter's config", str(path), "its JSON is not an object")
    for key, value in values.items():
        line = next((i + 1 for i, one in enumerate(source.lines) if one.lstrip().startswith(f'"{key}"')), 0)
        if value not in (None, [], {}, False, "") or key in ("lora_dropout", "bias"):
            apply(draft, "hf:lora", key, value, line)
    if draft.settings.get("lora.method", "lora") in ("lora", "rslora", "dora"):
        defaults(draft, "hf:lora")


def _arguments(draft: Draft, values: dict[str, Any]) -> None:
    for key in _ARGUMENTS:
        value = values.get(key)
        if value is None or value == _USUAL.get(key, object()):
            continue
        if key == "save_steps" and values.get("save_strategy") not in (None, "steps"):
            continue
        apply(draft, "hf:train", key, value, 0, f"training_args.bin {key}")
