"""What an adapter that lies somewhere holds, whichever program wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sapwood.adapter.elsewhere.gguf import from_gguf
from sapwood.adapter.elsewhere.kind import is_mlx
from sapwood.adapter.elsewhere.mlx import from_mlx
from sapwood.adapter.facts import SETTINGS
from sapwood.adapter.files import read_adapter
from sapwood.adapter.forms import refuse_unknown_settings
from sapwood.base.folder import read_json
from sapwood.errors import ModelError
from sapwood.gguf.file import read_gguf

ZERO = (".lora_B.", ".lora_embedding_B")  # what is zero before a first step


def read_saved(place: Path, config: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An adapter's settings and tensors, as PEFT would have saved them.

    config: of the adapter's base, as transformers has it. It is needed for GGUF files, which order rows of
    some matrices by heads. Raises ModelError: the adapter is damaged, or of no known form.
    """
    if place.is_file():
        settings, tensors = from_gguf(read_gguf(place), config)
    elif (place / SETTINGS).is_file() and is_mlx(told := read_json(place / SETTINGS)):
        settings, tensors = from_mlx(told, place)
    else:
        return read_adapter(place)
    refuse_unknown_settings(settings, str(place))
    return settings, tensors


def refuse_inert(tensors: Mapping[str, Tensor], place: Path) -> None:
    """Raises ModelError for a LoRA that is as it was before its first step."""
    zero = [tensor for name, tensor in tensors.items() if any(part in name for part in ZERO)]
    rest = [name for name in tensors if not any(part in name for part in (*ZERO, ".lora_A.", "embedding_A"))]
    if zero and not rest and not any(tensor.any() for tensor in zero):
        why = "every matrix B in it is zero, as before the first step of a training"
        raise ModelError("the adapter changes nothing", str(place), why, "take it from the end of its run")
