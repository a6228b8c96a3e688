"""The base as a file that llama.cpp loads: the user's own GGUF, or one written once into the cache."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sapwood.base.cache import cache_dir, file_sha256, publish, write_atomic
from sapwood.config.sections import BaseConfig
from sapwood.errors import ModelError
from sapwood.types import BaseSpec

if TYPE_CHECKING:
    from sapwood.serve.load import Loaded

FLOATS = ("auto", "fp32", "bf16", "fp16", "gguf")  # storages whose weights a file in F16 stands for


def base_key(spec: BaseSpec, held: BaseConfig | None, own: str = "") -> str:
    """A key that is equal for all models that one base can serve: its weights, how they were held, and its
    tokens.

    held: what an adapter was trained on, None of a bare base. own: names the weights of a model that was
    trained whole.
    """
    kind = "float"
    if held is not None and held.storage not in FLOATS:
        kind = f"{held.storage} {held.compute_dtype} {held.double_quant}"
    elif held is not None and _rounds(spec, held.storage):
        kind = held.storage
    return digest("base as held", spec.fingerprint, own, kind, len(spec.tokenizer))


def _rounds(spec: BaseSpec, storage: str) -> bool:
    """Are the weights of the base's folder held in a float that is not theirs, and not wide enough?"""
    return storage in ("bf16", "fp16") and not spec.path.is_file() and spec.number_format != storage


def base_file(path: Path, held: BaseConfig | None, key: str, *, full: bool = False) -> Path:
    """The file itself if the base is one, and was trained on as it is; else the one that is written of it.
    full: all weights are the model's own."""
    own = path.is_file() and not full and (held is None or held.storage in FLOATS)
    return path if own else cache_dir() / "serve" / f"{key}.gguf"


def sound(base: Path) -> bool:
    """Whether a base in the cache is still as it was written."""
    try:
        return _seal(base).read_text(encoding="ascii") == file_sha256(base)
    except (OSError, ValueError):
        return False


def write_base(trained: Loaded, held: BaseConfig | None, path: Path) -> None:
    """The base's weights as they were trained on, in F16; of a model that was trained whole, its own.

    held: as in `base_key`, by which ``path`` is named. Raises ModelError if the weights are held otherwise: a
    file with rounded weights would later be taken for one without.
    """
    from sapwood.export.gguf_model import write_gguf_model
    from sapwood.export.merge import base_parameters, merged_parameters

    storage = trained.base.storage
    if _rounds(trained.base.spec, storage) and (held is None or held.storage != storage):
        what = f"{trained.base.spec.source} is held in {storage}, which rounds its weights"
        raise ModelError(what, mend="free memory, so that it is held as its files have it")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    parameters = (
        base_parameters(trained.base.model) if trained.model is not None else merged_parameters(trained)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_gguf_model(parameters, trained.base.spec, trained.renderer, temporary, "F16")
        content = file_sha256(temporary)
        publish(temporary, path)
        write_atomic(_seal(path), content.encode())
    finally:
        temporary.unlink(missing_ok=True)


def digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _seal(base: Path) -> Path:
    return base.with_suffix(".sha256")
