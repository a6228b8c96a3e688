"""A LoRA adapter as pairs: for each adapted linear two matrices and a scale."""

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


def adapted_modules(model: LoraModel) -> list[tuple[str, Any]]:
    """Every module, by its name in the transformers model."""
    modules = cast("Iterable[tuple[str, nn.Module]]", model.peft.named_modules())
    return [(name.removeprefix("base_model.model."), module) for name, module in modules]


def is_pair(module: Any) -> bool:
    """Whether a layer is one of PEFT's LoRA layers on a linear. DoRA's are; AdaLoRA's and those of experts
    aren't."""
    sides = getattr(module, "lora_A", None)
    return isinstance(sides, nn.ModuleDict) and ADAPTER in sides and not hasattr(module, "parameter_name")


def whole(module: Any) -> nn.Module | None:
    """What was trained in the place of a whole module of the base, if PEFT keeps that around it."""
    kept = getattr(module, "modules_to_save", None)
    return kept[ADAPTER] if isinstance(kept, nn.ModuleDict) and ADAPTER in kept else None


def lora_layers(model: LoraModel) -> list[tuple[str, Any]]:
    """`is_pair`, by the name of the linear in the transformers model."""
    return [(name, module) for name, module in adapted_modules(model) if is_pair(module)]


def has_pairs(model: LoraModel) -> bool:
    """Whether the adapter consists of pairs of matrices only."""
    return bool(lora_layers(model)) and not _beside_pairs(model)


def _beside_pairs(model: LoraModel) -> list[str]:
    """Modules where the adapter is more than a pair of matrices, or something else."""
    return [
        name
        for name, module in adapted_modules(model)
        if whole(module) is not None
        or hasattr(module, "token_adapter")
        or (ADAPTER in getattr(module, "lora_A", {}) and not is_pair(module))
        or (is_pair(module) and (ADAPTER in module.lora_variant or module.lora_bias[ADAPTER]))
    ]


def lora_pairs(model: LoraModel) -> list[LoraPair]:
    """The adapter by module, each with its own rank and scale as PEFT applies them (rank and alpha patterns,
    rsLoRA). Raises ModelError if it is more than pairs of matrices (for example DoRA)."""
    layers = lora_layers(model)
    mend = "export the whole model: --to gguf, or --to merged"
    if not layers:
        kind = model.peft.peft_config[ADAPTER].peft_type.value
        raise ModelError(
            f"a {kind} adapter has no pairs of matrices", "", "this form of export holds nothing else", mend
        )
    if odd := _beside_pairs(model):
        why = "magnitudes, whole modules and the like have no scale"
        raise ModelError("the adapter is more than pairs of matrices", odd[0], why, mend)
    return [LoraPair.of(name, layer) for name, layer in layers]
