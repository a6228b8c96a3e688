"""Fine-tune a chat model with LoRA.

>>> from sapwood import finetune
>>> adapter = finetune(data=[{"prompt": "Hi", "completion": "Hello."}], base={"model": "builtin:smollm2"})
>>> adapter.load().chat("Hi")

docs/library.md shows each of these names at work. Importing sapwood loads neither torch nor transformers; the
first call does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sapwood.config.file import load_config, parse_config
    from sapwood.config.sections import RunConfig
    from sapwood.errors import SapwoodError, Stopped
    from sapwood.page.drawn.report import show
    from sapwood.pipeline import finetune
    from sapwood.restart import resume
    from sapwood.run.frame import Run, runs
    from sapwood.serve.model import Model, load
    from sapwood.types import Adapter, Evaluated, Finished, Sample, Stepped, Stop

__version__ = "0.1.0"  # the wheel's too: pyproject.toml reads it here

__all__ = [
    "Adapter", "Evaluated", "Finished", "Model", "Run", "RunConfig", "Sample", "SapwoodError", "Stepped",
    "Stop", "Stopped", "__version__", "finetune", "load", "load_config", "parse_config", "resume", "runs",
    "show",
]  # fmt: skip

_HOMES = {
    "config.file": "load_config parse_config",
    "config.sections": "RunConfig",
    "errors": "SapwoodError Stopped",
    "pipeline": "finetune",
    "restart": "resume",
    "run.frame": "Run runs",
    "serve.model": "Model load",
    "types": "Adapter Evaluated Finished Sample Stepped Stop",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "show":  # the folder of that name, which can be called
        return import_module("sapwood.show")
    for home, names in _HOMES.items():
        if name in names.split():
            return getattr(import_module(f"sapwood.{home}"), name)
    raise AttributeError(f"module 'sapwood' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
