"""What an adapter makes of the base's weights, if it can be said of weights at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sapwood.adapter.model import ADAPTER, LoraModel
from sapwood.adapter.pairs import LoraPair, adapted_modules, is_pair, lora_layers, whole
from sapwood.base.network.parts import is_across
from sapwood.errors import ModelError
from sapwood.types import Head

Change = Callable[[Tensor], Tensor]
"""A dense float32 parameter of the base as the adapter's owner would have it."""


def weight_changes(model: LoraModel) -> dict[str, Change]:
    """The changed weight of each parameter that the adapter changes, by its name in the transformers model.

    LoRA and its kind (arXiv 2106.09685): W + s B A. DoRA (arXiv 2402.09353): the rows of that sum, brought to
    the learnt magnitudes. IA3 (arXiv 2205.05638): scaled rows, or scaled columns if it scales inputs.
    AdaLoRA, LoHa, LoKr and VeRA: W plus the difference that PEFT computes. Whole modules and rows of tokens
    that were trained: as they are. Raises ModelError for soft prompts, which are no weights.
    """
    changes: dict[str, Change] = {}
    for name, layer in lora_layers(model):
        if layer.lora_bias[ADAPTER]:
            why = f"the adapter's bias of {name} is added beside the base's own bias"
            raise ModelError("an adapter with biases of its own can't be merged", "", why)
        pair = LoraPair.of(name, layer)
        magnitudes = getattr(layer, "lora_magnitude_vector", {})
        dora = magnitudes[ADAPTER].weight.detach().float().cpu() if ADAPTER in magnitudes else None
        change = partial(_lora, pair) if dora is None else partial(_dora, pair, dora)
        across = is_across(layer.get_base_layer())
        changes[f"{name}.weight"] = partial(_across, change) if across else change
    for name, layer in _ia3_layers(model):
        scale = layer.ia3_l[ADAPTER].detach().float().cpu()
        changes[f"{name}.weight"] = partial(_scaled, scale)
        if not layer.is_feedforward and layer.get_base_layer().bias is not None:
            changes[f"{name}.bias"] = partial(_scaled, scale[:, 0])
    changes |= _differences(model) | _replaced(model)
    if not changes:
        kind = model.peft.peft_config[ADAPTER].peft_type.value.lower().replace("_", " ")
        why = "it stands before every prompt and is no part of the weights"
        raise ModelError(f"{kind} can't be merged", "", why, "the adapter's folder opens in PEFT")
    return changes


def effective_head(model: LoraModel) -> Head:
    """The head as data, with the adapter's present change: a LoRA on the head, a head trained as a whole, or
    trained rows of tokens."""
    out = model.network.get_output_embeddings()
    if (tokens := getattr(out, "token_adapter", None)) is not None:
        weight = tokens.get_merged_weights([ADAPTER])
    elif (own := whole(out)) is not None:
        weight = own.get_parameter("weight")
    elif ADAPTER in getattr(out, "lora_A", {}):
        weight = out.get_base_layer().weight + out.get_delta_weight(ADAPTER)
    else:
        return model.head
    return replace(model.head, weight=weight)


def _differences(model: LoraModel) -> dict[str, Change]:
    """The layers for which PEFT computes a difference of weights, without LoRA's pairs."""
    found: dict[str, Change] = {}
    for name, layer in adapted_modules(model):
        if not is_pair(layer) and hasattr(layer, "base_layer") and hasattr(layer, "get_delta_weight"):
            module, leaf = name.replace(".base_layer", ""), getattr(layer, "parameter_name", "weight")
            found[f"{module}.{leaf}"] = partial(_plus, layer.get_delta_weight)
    return found


def _replaced(model: LoraModel) -> dict[str, Change]:
    found: dict[str, Change] = {}
    for name, layer in adapted_modules(model):
        if (own := whole(layer)) is not None:
            for leaf, parameter in own.named_parameters():
                found[f"{name}.{leaf}"] = partial(_instead, parameter.detach().float().cpu())
        tokens = getattr(layer, "token_adapter", None)
        if tokens is not None and tokens.tied_adapter is None:
            found[f"{name}.weight"] = partial(
                _rows, tokens.token_indices[ADAPTER], tokens.trainable_tokens_delta[ADAPTER].detach().cpu()
            )
    return found


def _ia3_layers(model: LoraModel) -> list[tuple[str, Any]]:
    return [
        (name, module) for name, module in adapted_modules(model) if ADAPTER in getattr(module, "ia3_l", {})
    ]


def _across(change: Change, weight: Tensor) -> Tensor:
    """weight: [in, out], as GPT-2 has it."""
    return change(weight.T).T


def _lora(pair: LoraPair, weight: Tensor) -> Tensor:
    return weight + pair.scale * (pair.b @ pair.a)


def _dora(pair: LoraPair, magnitudes: Tensor, weight: Tensor) -> Tensor:
    """magnitudes: float32[out]."""
    moved = _lora(pair, weight)
    return moved * (magnitudes / moved.norm(dim=1))[:, None]


def _plus(difference: Callable[[str], Tensor], weight: Tensor) -> Tensor:
    with torch.no_grad():
        return weight + difference(ADAPTER).float().cpu()


def _instead(own: Tensor, _: Tensor) -> Tensor:
    return own


def _rows(tokens: Sequence[int], rows: Tensor, weight: Tensor) -> Tensor:
    """rows: float[tokens, D]."""
    return weight.index_copy(0, torch.tensor(tokens), rows.to(weight))


def _scaled(scale: Tensor, parameter: Tensor) -> Tensor:
    return parameter * scale
