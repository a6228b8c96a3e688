"""A LoRA adapter as what it is: for each adapted linear two matrices and a scale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from sapwood.adapter.model import ADAPTER, LoraModel
from sapwood.errors import ModelError


@dataclass(frozen=True, slots=True)
class LoraPair:
    """One adapted linear: y = x W^T + scale * x A^T B^T. ``module``: its name in the transformers model.

    a: float32[rank, in]; b: float32[out, rank].
    """

    module: str
    a: Tensor
    b: Tensor
    scale: float

    @classmethod
    def of(cls, name: str, layer: Any) -> LoraPair:
        """Of one of PEFT's layers."""
        a, b = (matrices[ADAPTER].weight.detach().float().cpu() for matrices in (layer.lora_A, layer.lora_B))
        return cls(name, a, b, float(layer.scaling[ADAPTER]))

    @property
    def rank(self) -> int:
        return len(self.a)


def lora_layers(model: LoraModel) -> list[tuple[str, Any]]:
    """PEFT's LoRA layers, DoRA's among them, by the name of the linear in the transformers model."""
    return [
        (name.removeprefix("base_model.model."), module)
        for name, module in cast("Iterable[tuple[str, nn.Module]]", model.peft.named_modules())
        if hasattr(module, "lora_A") and ADAPTER in cast("Any", module).lora_A
    ]


def has_pairs(model: LoraModel) -> bool:
    """Is the adapter pairs of matrices, and nothing else?"""
    layers = lora_layers(model)
    return bool(layers) and not any(ADAPTER in getattr(layer, "lora_variant", {}) for _, layer in layers)


def lora_pairs(model: LoraModel) -> list[LoraPair]:
    """The adapter by module, each with its own rank and scale as PEFT applies them (rank and alpha patterns,
    rsLoRA). Raises ModelError where it is more than pairs of matrices (DoRA, say)."""
    layers = lora_layers(model)
    mend = "export the whole model: --to gguf, or --to merged"
    if not layers:
        kind = model.peft.peft_config[ADAPTER].peft_type.value
        raise ModelError(f"a {kind} adapter has no pairs of matrices", "", "a LoRA file holds those", mend)
    if odd := [name for name, layer in layers if ADAPTER in getattr(layer, "lora_variant", {})]:
        why = "DoRA and the like have no scale"
        raise ModelError("the adapter is more than pairs of matrices", odd[0], why, mend)
    return [LoraPair.of(name, layer) for name, layer in layers]
