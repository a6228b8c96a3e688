"""trl's own dataclasses of options, with their defaults, and what its helpers make of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sapwood.migrate.script.outside import COMMANDED
from sapwood.migrate.script.values import (
    Call,
)

MODEL: dict[str, Any] = {
    "model_name_or_path": None, "model_revision": "main", "dtype": "float32", "torch_dtype": None,
    "trust_remote_code": False, "attn_implementation": None, "use_peft": False, "lora_r": 16,
    "lora_alpha": 32, "lora_dropout": 0.05, "lora_target_modules": None, "lora_target_parameters": None,
    "lora_modules_to_save": None, "lora_task_type": "CAUSAL_LM", "use_rslora": False, "use_dora": False,
    "load_in_8bit": False, "load_in_4bit": False, "bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": False,
    "bnb_4bit_quant_storage": None,
}  # fmt: skip
SCRIPT: dict[str, Any] = {
    "dataset_name": None, "dataset_config": None, "dataset_train_split": "train",
    "dataset_test_split": "test", "dataset_streaming": False, "ignore_bias_buffers": False,
}  # fmt: skip
_ADAPTER = {
    "lora_r": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "use_dora": "use_dora",
    "lora_target_modules": "target_modules", "use_rslora": "use_rslora",
    "lora_modules_to_save": "modules_to_save",
}  # fmt: skip
_PACKED = {
    "load_in_4bit": "load_in_4bit", "load_in_8bit": "load_in_8bit",
    "bnb_4bit_quant_type": "bnb_4bit_quant_type",
    "use_bnb_nested_quant": "bnb_4bit_use_double_quant", "dtype": "bnb_4bit_compute_dtype",
}  # fmt: skip


def helped(name: str, args: list[Any], line: int) -> tuple[bool, Any]:
    """What ``get_peft_config`` and its like make of options that are known."""
    make = _HELPERS.get(name)
    options = args[0] if args else None
    known = isinstance(options, Call) and options.last == "ModelConfig" and options.inside == COMMANDED
    return (
        (True, make(options, line))
        if make is not None and known and isinstance(options, Call)
        else (False, None)
    )


def _adapter(options: Call, line: int) -> Any:
    if options.kwargs.get("use_peft") is not True:
        return None
    return _made("peft.LoraConfig", options, _ADAPTER, line)


def _packed(options: Call, line: int) -> Any:
    if True not in (options.kwargs.get("load_in_4bit"), options.kwargs.get("load_in_8bit")):
        return None
    names = _PACKED if options.kwargs.get("load_in_4bit") is True else {"load_in_8bit": "load_in_8bit"}
    return _made("transformers.BitsAndBytesConfig", options, names, line)


def _made(name: str, options: Call, names: dict[str, str], line: int) -> Call:
    given = {
        theirs: options.kwargs[ours] for ours, theirs in names.items() if options.kwargs.get(ours) is not None
    }
    lines = {theirs: options.lines.get(ours, line) for ours, theirs in names.items() if theirs in given}
    return Call(name, line, kwargs=given, lines=lines)


_HELPERS: dict[str, Callable[[Call, int], Any]] = {
    "get_peft_config": _adapter,
    "get_quantization_config": _packed,
    "get_kbit_device_map": lambda options, line: None,
}
