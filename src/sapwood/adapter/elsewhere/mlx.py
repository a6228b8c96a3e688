"""Adapters of mlx-lm: ``adapters.safetensors`` beside an ``adapter_config.json`` of its own.

    y = x W^T + scale * x a b        a: [in, r], b: [out] by [r, out]        (mlx_lm.tuner.lora)

DoRA keeps ``m``, the magnitude of each row of W + scale (a b)^T, as PEFT does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sapwood.adapter.facts import SETTINGS
from sapwood.adapter.files import load_tensors
from sapwood.errors import ModelError, Problem

WEIGHTS = "adapters.safetensors"
PARTS = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "m": "lora_magnitude_vector"}
NAME = re.compile(rf"(?P<module>.+)\.(?P<part>{'|'.join(PARTS)})")


def from_mlx(settings: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """PEFT's settings and tensors. Raises ModelError for what is no LoRA or DoRA of linears."""
    where = str(folder / SETTINGS)
    kind = settings.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        why = (
            "its file holds whole weights, and no adapter"
            if kind == "full"
            else "only lora and dora are read"
        )
        raise ModelError(f"fine_tune_type {kind!r} isn't supported", where, why, "fuse it with mlx_lm.fuse")
    scale = _scale(settings.get("lora_parameters"), where)
    tensors = load_tensors(weights_of(folder))
    named = {name: NAME.fullmatch(name) for name in tensors}
    problems = [
        Problem(f"the adapter holds {name}", where, "only linears with a LoRA or a DoRA are read")
        for name, found in named.items()
        if found is None or tensors[name].dim() != (1 if found["part"] == "m" else 2)
    ]
    if problems:
        raise ModelError(problems)
    plain: dict[str, Tensor] = {}
    modules: set[str] = set()
    ranks: dict[str, int] = {}
    for name, found in named.items():
        assert found is not None
        modules.add(found["module"])
        tensor = tensors[name]
        if found["part"] == "lora_a":
            ranks[found["module"]] = tensor.shape[1]
        turned = tensor if found["part"] == "m" else tensor.T
        plain[f"base_model.model.{found['module']}.{PARTS[found['part']]}"] = turned.contiguous()
    if len(set(ranks.values())) != 1:
        told = ", ".join(map(str, sorted(set(ranks.values())))) or "none"
        raise ModelError("the adapter's layers have different ranks", where, f"found {told}")
    rank = next(iter(ranks.values()))
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": scale * rank,
        "target_modules": sorted(modules),
        "bias": "none",
        "use_dora": kind == "dora",
        "base_model_name_or_path": settings.get("model"),
    }, plain


def weights_of(folder: Path) -> Path:
    """The file of an adapter's tensors. Raises ModelError if it isn't there."""
    file = folder / WEIGHTS
    if not file.is_file():
        raise ModelError(f"{WEIGHTS} is missing", str(folder), "mlx-lm keeps an adapter's weights there")
    return file


def _scale(parameters: Any, where: str) -> float:
    """The factor of the product x a b. Raises ModelError beside an ``alpha``: versions of mlx-lm read it
    in different ways."""
    told: Mapping[str, Any] = parameters if isinstance(parameters, Mapping) else {}
    scale: Any = told.get("scale")
    if "alpha" in told:
        why = "versions of mlx-lm that wrote alpha read it in different ways"
        raise ModelError("lora_parameters have an alpha", where, why, "leave the scale that you trained with")
    if type(scale) not in (int, float) or not math.isfinite(scale) or not scale:
        why = "the adapter is multiplied by it: it has to be a number, and not 0"
        raise ModelError(f"lora_parameters.scale is {scale!r}", where, why)
    return float(scale)
