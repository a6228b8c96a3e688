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


def dense_product(linear: nn.Linear, x: Tensor) -> Tensor:
    """x: [..., in] -> [..., out] in the format of x, whatever the weight's own."""
    bias: Any = linear.bias  # None without one, whatever torch's stubs say
    bias = bias if bias is None else bias.to(x.dtype)
    return nn.functional.linear(x, converted(linear.weight, x.dtype), bias)


class QuickLinear:
    """In the place of a linear's ``forward``. matmul_dtype: the format to multiply many rows in, if it isn't
    that of the input. With gradients, the linear computes as it always did."""

    __slots__ = ("linear", "matmul_dtype")

    def __init__(self, linear: nn.Linear, matmul_dtype: torch.dtype | None) -> None:
        self.linear, self.matmul_dtype = linear, matmul_dtype

    def __call__(self, x: Tensor) -> Tensor:
        """x: [..., in] -> [..., out], in the format of x."""
        linear = self.linear
        if torch.is_grad_enabled():
            return nn.functional.linear(x, linear.weight, linear.bias)
        if not x.numel() or not ops.are_few(x, linear.weight):
            return dense_product(linear, x.to(self.matmul_dtype or x.dtype)).to(x.dtype)
        y = ops.few_rows(x.reshape(-1, x.shape[-1]), linear.weight)
        bias: Any = linear.bias
        y = y if bias is None else y.add_(bias)
        return y.view(*x.shape[:-1], -1).to(x.dtype)


def quicken(model: nn.Module, matmul_dtype: torch.dtype | None) -> None:
    """Give every dense linear of a frozen model its quick form: on a CPU for which kernels are compiled."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.forward = QuickLinear(module, matmul_dtype)  # type: ignore[assignment]
