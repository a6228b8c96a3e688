"""In which format activations travel between layers, where it isn't the base's own.

A base that is stored in bf16 and multiplied in fp32 would round every activation on its way from one product
to the next. Where all that computes on them follows the format of its input, the embeddings are widened once
instead, and only what is kept for the backward pass is rounded.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sapwood.base.network.parts import decoder_of
from sapwood.compute.norm import LightNorm

if TYPE_CHECKING:
    from sapwood.compute.linear.layer import LoraLinear


@dataclass(frozen=True, slots=True)
class Flow:
    """matmul_dtype: the format of products and activations; saved_dtype: of what is kept, the base's own."""

    matmul_dtype: torch.dtype
    saved_dtype: torch.dtype
    layers: Sequence[LoraLinear]

    @contextmanager
    def through(self, embedding: nn.Module) -> Generator[torch.dtype | None]:
        """Inside, ``embedding`` gives numbers in the format of products; unless the adapter is switched off,
        for example. Yields the format to keep things in for the backward pass; None if that is the
        activations' own."""
        if not all(layer.is_fast() for layer in self.layers):
            yield None
            return
        hook = embedding.register_forward_hook(self._widened)
        try:
            yield self.saved_dtype
        finally:
            hook.remove()

    def _widened(self, _: nn.Module, __: Any, out: Tensor) -> Tensor:
        return out.to(self.matmul_dtype)


def flow_of(network: Any, matmul_dtype: torch.dtype | None, storage_dtype: torch.dtype) -> Flow | None:
    """The flow of a transformers model with its adapter; None if activations travel in the base's format:
    it is the one of products, or something in a layer has weights that take no other input."""
    if matmul_dtype is None or matmul_dtype == storage_dtype:
        return None
    from sapwood.compute.linear.layer import LoraLinear

    decoder = decoder_of(network)
    layers = [module for module in decoder.modules() if isinstance(module, LoraLinear)]
    covered = {id(network.get_input_embeddings())}
    covered |= {id(inner) for layer in layers for inner in layer.modules() if layer.is_fast()}
    if not layers or any(
        id(module) not in covered and not isinstance(vars(module).get("forward"), LightNorm)
        for module in decoder.modules()
        if next(module.parameters(recurse=False), None) is not None
    ):
        return None
    return Flow(matmul_dtype, storage_dtype, layers)
