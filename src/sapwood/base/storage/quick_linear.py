"""A dense frozen linear while nothing learns: for the tokens of answers, a handful of rows at a time.

Libraries arrange a weight anew for each product, and bf16 without hardware for it goes through a slow loop.
Here a kernel multiplies a few rows as they are (`native.ops.few_rows`); for more, the weight is converted to
the format of products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sapwood.native import ops
from sapwood.native.workspace import converted


class QuickLinear:
    """In the place of a linear's ``forward``. matmul_dtype: the format to multiply many rows in, if it isn't
    that of the input. With gradients, the linear computes as it always did."""

    __slots__ = ("linear", "matmul_dtype")

    def __init__(self, linear: nn.Linear, matmul_dtype: torch.dtype | None) -> None:
        self.linear, self.matmul_dtype = linear, matmul_dtype

    def takes(self, x: Tensor) -> bool:
        """Is this product one of the kernel's?"""
        return not torch.is_grad_enabled() and x.numel() > 0 and ops.are_few(x, self.linear.weight)

    def __call__(self, x: Tensor) -> Tensor:
        """x: [..., in] -> [..., out], in the format of x."""
        linear = self.linear
        weight: Tensor = linear.weight
        bias: Any = linear.bias  # None without one, whatever torch's stubs say
        if self.takes(x):
            y = ops.few_rows(x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], len(weight))
            return (y if bias is None else y.add_(bias)).to(x.dtype)
        if torch.is_grad_enabled():
            return nn.functional.linear(x, weight, bias)
        dtype = self.matmul_dtype or x.dtype
        own = bias if bias is None else bias.to(dtype)
        return nn.functional.linear(x.to(dtype), converted(weight, dtype), own).to(x.dtype)


def quicken(model: nn.Module, matmul_dtype: torch.dtype | None) -> None:
    """Give every dense linear of a frozen model its quick form: on a CPU for which kernels are compiled."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.forward = QuickLinear(module, matmul_dtype)  # type: ignore[assignment]
