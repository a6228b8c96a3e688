"""In which format activations travel between layers, where it isn't the base's own.

A base that is held in bf16 and multiplied in fp32 would round every activation on its way from one product to
the next. Where all that computes on them follows the format of its input, the embeddings are widened once
instead, and only what is kept for the backward pass is rounded.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sapwood.compute.dropout import DropoutClock
from sapwood.compute.linear.group import LoraLinear, speed_up
from sapwood.compute.mlp import join_mlps
from sapwood.compute.norm import follows_input
from sapwood.types import Base


@dataclass(frozen=True, slots=True)
class Flow:
    """wide: the format of activations; kept: the base's own, and that of what is kept."""

    wide: torch.dtype
    kept: torch.dtype
    layers: Sequence[LoraLinear]

    @contextmanager
    def through(self, embedding: nn.Module) -> Generator[torch.dtype | None]:
        """Inside, ``embedding`` gives wide numbers; unless the adapter is switched off, say. Yields the
        format to keep things in for the backward pass, where that is not the activations' own."""
        if not all(layer.is_fast() for layer in self.layers):
            yield None
            return
        hook = embedding.register_forward_hook(self._widened)
        try:
            yield self.kept
        finally:
            hook.remove()

    def _widened(self, _: nn.Module, __: Any, out: Tensor) -> Tensor:
        return out.to(self.wide)


def quicken(model: nn.Module, base: Base, clock: DropoutClock, held: torch.dtype) -> Flow | None:
    """Give a PEFT model over ``base``, which is held in ``held``, its fast paths and its flow."""
    speed_up(model, clock, base.products, held)
    join_mlps(model)
    return flow_of(base.model, base.products, held)


def flow_of(network: Any, products: torch.dtype | None, held: torch.dtype) -> Flow | None:
    """The flow of a transformers model with its adapter; None where activations travel in the base's format:
    it is the one of products, or something in a layer has weights that take no other input."""
    if products is None or products == held:
        return None
    decoder: nn.Module = network.get_decoder()
    layers = [module for module in decoder.modules() if isinstance(module, LoraLinear)]
    covered = {id(network.get_input_embeddings())}
    covered |= {id(inner) for layer in layers for inner in layer.modules() if layer.is_fast()}
    if not layers or any(
        id(module) not in covered and not follows_input(module)
        for module in decoder.modules()
        if next(module.parameters(recurse=False), None) is not None
    ):
        return None
    return Flow(products, held, layers)
