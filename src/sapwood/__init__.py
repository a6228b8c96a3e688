"""Fine-tune a chat model with LoRA.

>>> from sapwood import finetune, load_config
>>> adapter = finetune(load_config("my.yaml", ["train.epochs=1"]))

Importing sapwood loads neither torch nor transformers; the first call does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sapwood.config.file import load_config, parse_config
    from sapwood.config.sections import RunConfig
    from sapwood.errors import SapwoodError
    from sapwood.pipeline import finetune
    from sapwood.restart import resume
    from sapwood.types import Adapter

__version__ = "0.1.0"  # the wheel's too: pyproject.toml reads it here

__all__ = ["Adapter", "RunConfig", "SapwoodError", "finetune", "load_config", "parse_config", "resume"]

_HOMES = {
    "Adapter": "types",
    "RunConfig": "config.sections",
    "SapwoodError": "errors",
    "finetune": "pipeline",
    "load_config": "config.file",
    "parse_config": "config.file",
    "resume": "restart",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sapwood' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"sapwood.{_HOMES[name]}"), name)
