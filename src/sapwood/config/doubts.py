"""What a config may say but seldom means, and the one folder in which runs must not lie."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from sapwood.config.sections import RunConfig
from sapwood.errors import ConfigError

UNUSUAL_LR = 0.01


def doubts(config: RunConfig) -> Generator[str]:
    """Sentences about values that are allowed but seldom meant."""
    if config.train.lr > UNUSUAL_LR:
        yield f"train.lr={config.train.lr:g} is far above what is usual for LoRA (5e-5 to 5e-4)"
    if config.lora.method == "pissa" and config.lora.dropout:
        why = "it drops parts of the base, which start in the adapter"
        yield f"lora.dropout={config.lora.dropout:g} with pissa: {why}; lora.dropout=0 is usual"


def refuse_model_folder(config: RunConfig) -> None:
    """Runs are never kept among the files of the base model. Raises ConfigError."""
    model, runs = Path(config.base.model), Path(config.save.dir)
    if model.is_dir() and runs.resolve().is_relative_to(model.resolve()):
        why = "the base is only ever read"
        raise ConfigError("save.dir lies in the base model's folder", "save.dir", why, "name another folder")
