"""The kinds of values that keys of the config have."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field


def list_to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def as_tuple(value: Any) -> Any:
    """A single string stands for a list of one."""
    return (value,) if isinstance(value, str) else list_to_tuple(value)


def as_float(value: Any) -> Any:
    """YAML writes 3 where a person means 3.0; a bool is never a number."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf  # refused with the bounds of its field


Strings = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
Number = Annotated[float, BeforeValidator(as_float)]


Weight = Annotated[float, BeforeValidator(as_float), Field(gt=0, le=100)]
TrackerName = Literal["swanlab", "tensorboard", "wandb", "trackio", "mlflow"]
Method = Literal[
    "lora", "rslora", "dora", "lora+", "pissa", "loftq", "ia3", "prompt", "p-tuning", "prefix", "full"
]  # fmt: skip
Optimizer = Literal[
    "adamw", "adamw-8bit", "paged-adamw", "paged-adamw-8bit", "adafactor", "lion", "lion-8bit", "sgd"
]  # fmt: skip
Accepted = Literal[
    "stop", "early-stop", "pad-target", "prompt-ids", "double-bos", "missing-end", "content-lost",
    "control-text",
]  # fmt: skip


Storage = Literal["auto", "fp32", "bf16", "fp16", "gguf", "nf4", "fp4", "int8", "int8-compute"]
