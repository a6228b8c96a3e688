"""Linears that multiply 8-bit integers: y = (q s_x) (c s_w)^T, where q c^T is exact in int32.

Weights are rounded to int8 once, with one scale for each output channel; activations at each use, with one
scale for each token (the scheme of arXiv 2208.07339, without its outliers: the products here are a small
model's). Many processors multiply int8 several times as fast as any floating-point format. The backward pass
takes the rounding for the identity and multiplies in floating point by the weight as the integers say it.

`int8_product_reference` is the slow truth.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sapwood.model.workspace import workspace

LEVELS = 127.0
TINY = 1e-12  # the scale of a row of zeros


def quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    """x: [N, D] -> int8[N, D] and fp32[N, 1], the scale of each row: x is near codes * scale."""
    scale = x.abs().amax(1, keepdim=True).float().div_(LEVELS).clamp_(min=TINY)
    codes = torch.mul(x, 1.0 / scale).round_()  # fp32, whatever x is
    return codes.to(torch.int8), scale


def int8_product(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """x: [T, in], codes: int8[out, in], scale: fp32[out, 1] -> [T, out] in x's format."""
    rounded, row_scale = quantised(x)
    exact = torch._int_mm(rounded, codes.T)  # pyright: ignore[reportPrivateUsage]
    return exact.float().mul_(row_scale).mul_(scale.T).to(x.dtype)


def int8_product_reference(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """The same in double precision, one plain operation after the other."""
    wide = x.double()
    row_scale = (wide.abs().amax(1, keepdim=True) / LEVELS).clamp(min=TINY)
    rounded = (wide / row_scale).round()
    return ((rounded * row_scale) @ (codes.double() * scale).T).to(x.dtype)


class Int8Linear(nn.Linear):
    """A frozen linear over int8 weights. It is an `nn.Linear` to everyone who asks; only ``weight`` holds
    codes, and ``scale`` (fp32[out, 1]) what they mean."""

    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        codes, scale = quantised(linear.weight.detach().float())
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, input: Tensor) -> Tensor:
        return _Product.apply(input, self)  # type: ignore[return-value]


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: Int8Linear) -> Tensor:
        ctx.weight = Int8Weight(linear)
        return ctx.weight.forward(x.flatten(0, -2)).unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.weight.input_grad(grad.flatten(0, -2)).unflatten(0, grad.shape[:-1]), None


class Int8Weight:
    """An `Int8Linear` as a frozen weight (`frozen.FrozenWeight`)."""

    __slots__ = ("linear",)

    def __init__(self, linear: Int8Linear) -> None:
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        y = int8_product(x, self.linear.weight, self.linear.scale)
        bias: Any = self.linear.bias  # None without one, whatever torch's stubs say
        return y if bias is None else y.add_(bias)

    def input_grad(self, g: Tensor) -> Tensor:
        """g W: the scales go with the outputs, so that the codes are all that is converted."""
        codes = self.linear.weight
        wide = workspace("converted", codes.shape, g.dtype, codes.device).copy_(codes)
        return (g * self.linear.scale.T.to(g.dtype)) @ wide

    def dense(self) -> Tensor:
        return self.linear.weight.float().mul_(self.linear.scale)


def to_int8(model: nn.Module) -> nn.Module:
    """Replace every linear but the head by its int8 form; the old weight is freed at once."""
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child is not head:
                setattr(parent, name, Int8Linear(child))
    return model
