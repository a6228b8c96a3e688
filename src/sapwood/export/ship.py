"""A trained adapter in the form that another program runs. Nothing is published before it was checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sapwood.errors import ConfigError, ExportError
from sapwood.export.check import Check, judge
from sapwood.export.gguf_adapter import write_gguf_adapter
from sapwood.export.llama_cpp import hear_llama, require_llama_cpp
from sapwood.export.traces import trace_prompts
from sapwood.serve.load import Loaded
from sapwood.track.files import staged_dir, to_json

Kind = Literal["gguf-adapter"]
CHECK = "check.json"


@dataclass(frozen=True, slots=True)
class Order:
    """What to export: the form."""

    kind: Kind


@dataclass(slots=True)
class Exported:
    """A published export. ``use``: what to type next."""

    path: Path
    check: Check
    use: str

    def to_json(self) -> dict[str, Any]:
        return {"path": str(self.path), "use": self.use, **self.check.to_json()}


def export(trained: Loaded, order: Order, final: Path) -> Exported:
    """Write, check, publish.

    Args:
        trained: an adapter on its base. final: the folder to create; it must not exist.

    Raises:
        ConfigError: a base without an adapter was named.
        ExportError: the form can't hold this model, or the check failed; nothing is published then.
        StorageError: the folder exists, or the disk refused.
    """
    if trained.model is None:
        why = "that is a base model"
        raise ConfigError("no adapter to export", trained.name, why, "name a run or an adapter")
    require_llama_cpp()
    with staged_dir(final) as stage:
        done = _WRITERS[order.kind](trained, stage)
        done.path = final
        done.use = done.use.format(folder=final)
        (stage / CHECK).write_text(to_json(done.to_json()), encoding="utf-8")
        done.check.refuse(str(final))
    return done


def _gguf_adapter(trained: Loaded, stage: Path) -> Exported:
    """``adapter.gguf``, checked on the base's own GGUF file."""
    adapter, base = stage / "adapter.gguf", trained.base.spec.path
    if not base.is_file():
        why = "the check needs the base as a GGUF file, and this one is a folder"
        raise ExportError("no GGUF file of the base", str(base), why, "train on the model's GGUF file")
    write_gguf_adapter(trained, adapter)
    traces = trace_prompts(trained)
    check = judge(traces, hear_llama(traces, trained.renderer.stop_ids, base, adapter, base))
    return Exported(stage, check, f"llama-server -m {base} --lora {{folder}}/adapter.gguf")


_WRITERS: dict[Kind, Callable[[Loaded, Path], Exported]] = {"gguf-adapter": _gguf_adapter}
