"""A frozen weight, in any storage: what an adapted linear needs to know of its base.

forward(x)        x @ W.T + b
input_grad(g)     g @ W
dense()           W as a matrix, for merging and for the reference

x and g come in the format of products, which may be wider than the storage: some processors hold bf16 well
and multiply fp32 faster. The result has the format of x or g.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from sapwood.base.storage.bnb_linear import QuantisedWeight, is_quantised
from sapwood.base.storage.gguf_linear import GgufLinear
from sapwood.base.storage.int8_linear import Int8Linear, Int8Weight
from sapwood.base.storage.quick_linear import QuickLinear, dense_product
from sapwood.native.workspace import converted


class FrozenWeight(Protocol):
    """x: [T, in] -> [T, out]; g: [T, out] -> [T, in]. The weight itself never receives a gradient."""

    def forward(self, x: Tensor) -> Tensor: ...

    def input_grad(self, g: Tensor) -> Tensor: ...

    def dense(self) -> Tensor: ...


class DenseWeight:
    """A plain matrix in fp32, bf16 or fp16. It is read off its module at every use: a base divided among
    processes is whole there only for the time of a layer's own pass."""

    __slots__ = ("linear",)

    def __init__(self, linear: nn.Linear) -> None:
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        quick = None if torch.is_grad_enabled() else self.quick
        return dense_product(self.linear, x) if quick is None else quick(x)

    @property
    def quick(self) -> QuickLinear | None:
        """Its form for a handful of rows, if there is one."""
        found = vars(self.linear).get("forward")
        return found if isinstance(found, QuickLinear) else None

    def input_grad(self, g: Tensor) -> Tensor:
        return g @ converted(self.linear.weight, g.dtype)

    def dense(self) -> Tensor:
        return self.linear.weight.detach()


class PackedWeight:
    """Blocks of a GGUF file, unpacked for each product."""

    __slots__ = ("linear",)

    def __init__(self, linear: GgufLinear) -> None:
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        return self.linear.packed.product(x, self.linear.bias)

    def input_grad(self, g: Tensor) -> Tensor:
        return self.linear.packed.input_grad(g)

    def dense(self) -> Tensor:
        return self.linear.packed.dense()


def freeze(module: nn.Module) -> FrozenWeight:
    """The frozen weight of a base layer. Raises TypeError for a layer without a fast path."""
    if type(module) is nn.Linear:
        return DenseWeight(module)
    if isinstance(module, GgufLinear):
        return PackedWeight(module)
    if isinstance(module, Int8Linear):
        return Int8Weight(module)
    if is_quantised(module):
        return QuantisedWeight(module)
    if isinstance(module, nn.Linear) and _is_plain(module):
        return DenseWeight(module)
    raise TypeError(f"no frozen form for {type(module).__name__}")


@torch.no_grad()
def _is_plain(module: nn.Linear) -> bool:
    """Whether an architecture's own class of linear computes the same as a plain linear."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, module.in_features, generator=generator).to(module.weight)
    wanted = torch.nn.functional.linear(x, module.weight, module.bias)
    return torch.allclose(module(x), wanted, rtol=1e-3, atol=1e-5)


def freeze_together(modules: Sequence[nn.Module]) -> list[FrozenWeight]:
    """The frozen weights of layers that read one input. All of them take as many exact columns of the input
    as the layer that needs most."""
    weights = [freeze(module) for module in modules]
    rounded = [weight for weight in weights if isinstance(weight, Int8Weight)]
    for weight in rounded:
        weight.exact = max(other.exact for other in rounded)
    return weights
