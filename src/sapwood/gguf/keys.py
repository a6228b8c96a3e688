"""Values of a GGUF file's metadata, checked: each error names the key and what stands there."""

from __future__ import annotations

import math

import numpy as np

from sapwood.errors import ModelError
from sapwood.gguf.file import GgufFile

SPECULATING = "nextn_predict_layers"  # after the others: they guess tokens ahead

SHARED_KEYS = "attention.shared_kv_layers"  # so many of the last use keys and values of others


def layers_of(file: GgufFile) -> int:
    """Layers of the model itself. Those that guess ahead are counted in the file, and left out here."""
    layers, more = integer(file, "block_count"), integer(file, SPECULATING, 0)
    if more >= layers:
        why = f"{file.architecture}.{SPECULATING} is {more}"
        raise ModelError(f"{file.architecture}.block_count is {layers}", str(file.path), why)
    return layers - more


def integer(file: GgufFile, key: str, default: int | None = None) -> int:
    """A whole number from 1, or 0 if that is the default. A value per layer counts if all are the same."""
    value = file.metadata.get(f"{file.architecture}.{key}", default)
    if isinstance(value, np.ndarray) and len(value) and (value == value[0]).all():
        value = int(value[0])
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise ModelError(
            f"{file.architecture}.{key} is {value!r}", str(file.path), "a whole number is needed"
        )
    if value == 0 and default != 0:
        raise ModelError(f"{file.architecture}.{key} is 0", str(file.path), "it must be at least 1")
    return value


def flag(file: GgufFile, key: str, default: float | None) -> bool:
    value = file.metadata.get(f"{file.architecture}.{key}", default)
    if not isinstance(value, bool):
        raise ModelError(f"{file.architecture}.{key} is {value!r}", str(file.path), "true or false is needed")
    return value


def number(file: GgufFile, key: str, default: float | None) -> float:
    """A float as the model's config wrote it: the file holds 32 bits, which turn 1e-5 into 9.99999974e-06."""
    value = file.metadata.get(f"{file.architecture}.{key}", default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ModelError(
            f"{file.architecture}.{key} is {value!r}", str(file.path), "a positive number is needed"
        )
    return float(f"{value:.7g}")
