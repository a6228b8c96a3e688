"""What an adapter makes of the base's weights, where it can be said of weights at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from sapwood.adapter.model import ADAPTER, LoraModel
from sapwood.adapter.pairs import LoraPair, lora_layers
from sapwood.errors import ModelError

Change = Callable[[Tensor], Tensor]
"""A dense float32 parameter of the base as the adapter's owner would have it."""


def weight_changes(model: LoraModel) -> dict[str, Change]:
    """One for each parameter that the adapter changes, by its name in the transformers model.

    LoRA and its kind (arXiv 2106.09685): W + s B A. DoRA (arXiv 2402.09353): the rows of that, brought to
    the learnt magnitudes. IA3 (arXiv 2205.05638): rows scaled, or columns where inputs are. Raises ModelError
    for soft prompts, which are no weights.
    """
    changes: dict[str, Change] = {}
    for name, layer in lora_layers(model):
        pair = LoraPair.of(name, layer)
        magnitudes = getattr(layer, "lora_magnitude_vector", {})
        dora = magnitudes[ADAPTER].weight.detach().float().cpu() if ADAPTER in magnitudes else None
        changes[f"{name}.weight"] = partial(_lora, pair) if dora is None else partial(_dora, pair, dora)
    for name, layer in _ia3_layers(model):
        scale = layer.ia3_l[ADAPTER].detach().float().cpu()
        changes[f"{name}.weight"] = partial(_scaled, scale)
        if not layer.is_feedforward and layer.get_base_layer().bias is not None:
            changes[f"{name}.bias"] = partial(_scaled, scale[:, 0])
    if not changes:
        kind = model.peft.peft_config[ADAPTER].peft_type.value.lower().replace("_", " ")
        why = "it stands before every prompt and is no part of the weights"
        raise ModelError(f"{kind} can't be merged", "", why, "the adapter's folder opens in PEFT")
    return changes


def _ia3_layers(model: LoraModel) -> list[tuple[str, Any]]:
    modules = cast("Iterable[tuple[str, nn.Module]]", model.peft.named_modules())
    return [
        (name.removeprefix("base_model.model."), module)
        for name, module in modules
        if ADAPTER in getattr(module, "ia3_l", {})
    ]


def _lora(pair: LoraPair, weight: Tensor) -> Tensor:
    return weight + pair.scale * (pair.b @ pair.a)


def _dora(pair: LoraPair, magnitudes: Tensor, weight: Tensor) -> Tensor:
    """magnitudes: float32[out]."""
    moved = _lora(pair, weight)
    return moved * (magnitudes / moved.norm(dim=1))[:, None]


def _scaled(scale: Tensor, parameter: Tensor) -> Tensor:
    return parameter * scale
