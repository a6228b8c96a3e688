"""A frozen weight, in any storage: what an adapted linear needs to know of its base.

forward(x)        x @ W.T + b
input_grad(g)     g @ W
dense()           W as a matrix, for merging and for the reference
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn


class FrozenWeight(Protocol):
    """x: [T, in] -> [T, out]; g: [T, out] -> [T, in]. The weight itself never receives a gradient."""

    def forward(self, x: Tensor) -> Tensor: ...

    def input_grad(self, g: Tensor) -> Tensor: ...

    def dense(self) -> Tensor: ...


class DenseWeight:
    """A plain matrix in fp32, bf16 or fp16."""

    __slots__ = ("bias", "weight")

    def __init__(self, linear: nn.Linear) -> None:
        self.weight = linear.weight.detach()
        bias: Any = linear.bias  # None without one, whatever torch's stubs say
        self.bias: Tensor | None = bias if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, self.weight, self.bias)

    def input_grad(self, g: Tensor) -> Tensor:
        return g @ self.weight

    def dense(self) -> Tensor:
        return self.weight


def freeze(module: nn.Module) -> FrozenWeight:
    """The frozen weight of a base layer. Raises TypeError for a layer without a fast path."""
    if type(module) is nn.Linear:
        return DenseWeight(module)
    raise TypeError(f"no frozen form for {type(module).__name__}")
