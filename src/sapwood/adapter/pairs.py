"""A LoRA adapter as pairs: for each adapted linear, or expert, two matrices and a scale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from sapwood.adapter.model import ADAPTER, LoraModel
from sapwood.base.storage.gguf_experts import inputs_are_rows
from sapwood.errors import ModelError


@dataclass(frozen=True, slots=True)
class LoraPair:
    """One adapted linear: y = x W^T + scale * x A^T B^T. ``module``: its name in the transformers model.

    a: float32[rank, in]; b: float32[out, rank]. ``module`` may name a stack of experts, each of which has a
    pair: a[experts, rank, in] and b[experts, out, rank].
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

    @classmethod
    def of_experts(cls, name: str, layer: Any) -> LoraPair:
        """Of PEFT's layer around a stack. The ranks of all experts stand in one matrix there: in A the first
        expert's come first; in B the first rank of every expert comes first. Of Llama 4's stacks PEFT takes
        outputs for inputs, so A and B are those of the matrix turned."""
        a, b = (matrices[ADAPTER].weight.detach().float().cpu() for matrices in (layer.lora_A, layer.lora_B))
        experts, stack = layer.num_experts, name.replace(".base_layer", "")
        a, b = a.unflatten(0, (experts, -1)), b.unflatten(1, (-1, experts)).permute(2, 0, 1).contiguous()
        base = layer.get_base_layer()
        if inputs_are_rows(base) and not getattr(base, "is_transposed", False):
            a, b = b.mT.contiguous(), a.mT.contiguous()
        return cls(f"{stack}.{layer.parameter_name}", a, b, float(layer.scaling[ADAPTER]))

    @property
    def rank(self) -> int:
        return self.a.shape[-2]


def adapted_modules(model: LoraModel) -> list[tuple[str, Any]]:
    """Every module, by its name in the transformers model."""
    modules = cast("Iterable[tuple[str, nn.Module]]", model.peft.named_modules())
    return [(name.removeprefix("base_model.model."), module) for name, module in modules]


def is_pair(module: Any) -> bool:
    """Whether a layer is one of PEFT's LoRA layers on a linear. DoRA's are; AdaLoRA's and those of experts
    aren't."""
    sides = getattr(module, "lora_A", None)
    return isinstance(sides, nn.ModuleDict) and ADAPTER in sides and not hasattr(module, "parameter_name")


def _is_stack(module: Any) -> bool:
    """Whether a layer is PEFT's LoRA on a stack of experts."""
    return ADAPTER in getattr(module, "lora_A", {}) and getattr(module, "num_experts", 0) > 1


def whole(module: Any) -> nn.Module | None:
    """What was trained in the place of a whole module of the base, if PEFT keeps that around it."""
    kept = getattr(module, "modules_to_save", None)
    return kept[ADAPTER] if isinstance(kept, nn.ModuleDict) and ADAPTER in kept else None


def lora_layers(model: LoraModel) -> list[tuple[str, Any]]:
    """`is_pair`, by the name of the linear in the transformers model."""
    return [(name, module) for name, module in adapted_modules(model) if is_pair(module)]


def has_pairs(model: LoraModel) -> bool:
    """Whether the adapter consists of pairs of matrices only."""
    return bool(_all_pairs(model)) and not _beside_pairs(model)


def _all_pairs(model: LoraModel) -> list[LoraPair]:
    stacks = [(name, module) for name, module in adapted_modules(model) if _is_stack(module)]
    linears = [LoraPair.of(name, layer) for name, layer in lora_layers(model)]
    return linears + [LoraPair.of_experts(name, layer) for name, layer in stacks]


def _beside_pairs(model: LoraModel) -> list[str]:
    """Modules where the adapter is more than a pair of matrices, or something else."""
    return [
        name
        for name, module in adapted_modules(model)
        if whole(module) is not None
        or hasattr(module, "token_adapter")
        or (ADAPTER in getattr(module, "lora_A", {}) and not is_pair(module) and not _is_stack(module))
        or (is_pair(module) and (ADAPTER in module.lora_variant or module.lora_bias[ADAPTER]))
    ]


def lora_pairs(model: LoraModel) -> list[LoraPair]:
    """The adapter by module or stack of experts, each with its own rank and scale as PEFT applies them (rank
    and alpha patterns, rsLoRA). Raises ModelError if it is more than pairs of matrices (for example DoRA)."""
    pairs = _all_pairs(model)
    mend = "export the whole model: --to gguf, or --to merged"
    if not pairs:
        kind = model.peft.peft_config[ADAPTER].peft_type.value
        raise ModelError(
            f"a {kind} adapter has no pairs of matrices", "", "this form of export holds nothing else", mend
        )
    if odd := _beside_pairs(model):
        why = "magnitudes, whole modules and the like have no scale"
        raise ModelError("the adapter is more than pairs of matrices", odd[0], why, mend)
    return pairs
