"""Activation checkpointing by layer: some layers keep only their input, and are computed again when the
backward pass comes to them (arXiv 1604.06174).

The first layers are taken. The backward pass begins at the last layer and frees what each layer kept as it
goes, so by the time that a first layer is computed again, the room of the last ones is free.

On a GPU even the inputs may be too much. Then they wait in RAM, in pages that the system can't move, which
the GPU copies to and from by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from sapwood.base.network.parts import decoder_of
from sapwood.errors import ModelError

OFFLOAD = "offload"
Layers = Literal["auto", "offload"] | bool | int


def layers_to_recompute(choice: Layers, layers: int) -> int:
    """``train.gradient_checkpointing`` as a number of layers; ``auto`` that nobody resolved is none."""
    if choice == "auto" or choice is False:
        return 0
    return layers if choice is True or choice == OFFLOAD else min(choice, layers)


def decoder_layers(network: Any) -> list[Any]:
    """The layers of a transformers model's decoder, whatever it calls the list."""
    text = network.config.get_text_config()
    lists = [list(module) for module in decoder_of(network).modules() if isinstance(module, nn.ModuleList)]
    counted = [found for found in lists if len(found) == text.num_hidden_layers]
    found = next(iter(counted), max(lists, key=len, default=[]))  # a config may count another part's layers
    if not found:
        raise ModelError(f"{text.model_type} models can't be trained", "", "they have no list of layers")
    return found


def recompute_layers(network: Any, choice: Layers) -> int:
    """Let the first layers of a transformers model recompute what they need. Returns how many do.

    Gradients are those of a model that keeps everything, to the bit: a dropout mask is a function of a
    counter, and the same kernels see the same numbers.
    """
    layers = decoder_layers(network)
    count = layers_to_recompute(choice, len(layers))
    if count:
        network.activation_checkpointing_enable({"use_reentrant": False})
    for index, layer in enumerate(layers):
        layer.gradient_checkpointing = index < count
        if choice == OFFLOAD:
            layer._gradient_checkpointing_func = partial(
                _with_inputs_in_ram, layer._gradient_checkpointing_func
            )
    return count


def _with_inputs_in_ram(recompute: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """As ``recompute``, torch's own, whose hooks for what the layer makes are inside of these."""
    with saved_tensors_hooks(to_ram, from_ram):
        return recompute(*given, **named)


def to_ram(tensor: Tensor) -> tuple[torch.device, Tensor]:
    """The copies stand in the GPU's own queue of work: nobody waits for them, and nobody sees them half."""
    if _in_ram(tensor):
        return tensor.device, tensor
    room = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
    return tensor.device, room.copy_(tensor, non_blocking=True)


def from_ram(kept: tuple[torch.device, Tensor]) -> Tensor:
    device, tensor = kept
    return tensor.to(device, non_blocking=True)


def _in_ram(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"
