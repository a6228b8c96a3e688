"""Which layers see a window only, or have no attention: as a file says it, and as a config does."""

from __future__ import annotations

from typing import Any

import numpy as np

from sapwood.errors import ModelError
from sapwood.gguf.family import PATTERN
from sapwood.gguf.file import GgufFile
from sapwood.gguf.keys import integer


def layer_types_of(file: GgufFile, layers: int, every: int) -> list[str]:
    """Which layers see a window only: the file's pattern (a number, or a flag per layer) or the family's."""
    pattern = file.metadata.get(f"{file.architecture}.{PATTERN}", every)
    if isinstance(pattern, np.ndarray):
        if len(pattern) != layers:
            why = f"it is for {len(pattern)} layers, the model has {layers}"
            raise ModelError("the pattern of sliding windows doesn't fit", str(file.path), why)
        return types_by([bool(flag) for flag in pattern])
    return types_by(periodic(integer(file, PATTERN, every), layers))


def key_heads(file: GgufFile, layers: int, name: str = "attention.head_count_kv") -> list[int]:
    """Heads of keys in each layer, or what another key says of each. Those that aren't 0 have one number."""
    key = f"{file.architecture}.{name}"
    found = file.metadata.get(key)
    heads: list[Any] = found.tolist() if isinstance(found, np.ndarray) else [found] * layers
    if len(heads) != layers or len(set(heads) - {0}) != 1:
        why = f"of the {layers} layers those that have some have one number of heads, or one width"
        raise ModelError(f"{key} is {found!r}", str(file.path), why)
    return heads


def periodic(every: int, layers: int) -> list[bool]:
    """Flags of windows, if the last layer of ``every`` sees everything."""
    return [(layer + 1) % every != 0 for layer in range(layers)]


def turned(every: int, layers: int) -> list[int]:
    """1 for each layer with a rotary embedding, if each last of ``every`` has none: SmolLM3's own form."""
    return [int(flag) for flag in periodic(every, layers)]


def types_by(flags: list[bool], other: str = "sliding_attention") -> list[str]:
    return [other if flag else "full_attention" for flag in flags]


def period(layer_types: list[str], other: str = "sliding_attention") -> int | None:
    """The period of the pattern of windows, or of ``other`` layers; None if there is none. At least one layer
    must have a window, because llama.cpp ends otherwise."""
    layers = len(layer_types)
    periods = range(2, layers + 2)
    wanted = list(layer_types)
    return next((every for every in periods if types_by(periodic(every, layers), other) == wanted), None)


def rhythm(flags: list[bool]) -> tuple[int, int] | None:
    """The shortest period of layers with a flag, and the first of them; None if nothing says these flags."""
    first = flags.index(True) if True in flags else len(flags)
    periods = range(first + 1, len(flags) + 1)
    return next(((every, first) for every in periods if in_rhythm(every, first, len(flags)) == flags), None)


def in_rhythm(every: int, first: int, layers: int) -> list[bool]:
    """The inverse of `rhythm`."""
    return [layer % every == first for layer in range(layers)]


def window_of(config: Any) -> int | None:
    """The width of the config's window; None if no layer has one."""
    types: list[str] = getattr(config, "layer_types", None) or []
    if types and "sliding_attention" not in types:
        return None
    return getattr(config, "sliding_window", None)
