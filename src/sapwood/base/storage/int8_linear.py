"""Linears that multiply 8-bit integers: y = (q s_x) (c s_w)^T, where q c^T is exact in int32.

Weights are rounded to int8 once, with one scale for each output channel; activations at each use, with one
scale for each token, and a few columns of the largest numbers apart (the scheme of arXiv 2208.07339). Many
processors multiply int8 several times as fast as any floating-point format. The backward pass treats the
rounding as the identity. It rounds the gradient in the same way, and multiplies by the same integers.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from sapwood.machine.device import Device
from sapwood.machine.measure import FASTER, IN, OUT, ROWS, best_seconds, machine_facts, torch_dtype
from sapwood.native.ops import Codes, Product
from sapwood.native.workspace import converted, workspace

LEVELS = 127.0
OUTLIERS = 32  # columns
TINY = 1e-12  # the scale of a row of zeros


def quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    """x: [N, D] -> int8[N, D] and fp32[N, 1], the scale of each row: x is near codes * scale."""
    largest = torch.maximum(x.amax(1, keepdim=True), x.amin(1, keepdim=True).neg_())
    scale = largest.float().div_(LEVELS).clamp_(min=TINY)
    wide = workspace("rounded", x.shape, torch.float32, x.device)
    return torch.mul(x, 1.0 / scale, out=wide).round_().to(torch.int8), scale


def outliers_of(columns: int, rows: int) -> int:
    """How many columns of an input are multiplied as they are: those of a layer that narrows, which reads
    products of activations (an MLP's second half). A few of them are so large that the others round to 0."""
    return OUTLIERS if columns > rows and columns > 2 * OUTLIERS else 0


@torch.no_grad()
def int8_product(x: Tensor, weight: Tensor, exact: int = 0) -> Tensor:
    """x: [T, in], weight: int8[in, out] -> fp32[T, out]. The reference: x is rounded row by row, but for its
    ``exact`` columns of the largest numbers."""
    if not exact:
        codes, scale = quantised(x)
        return sums(codes, weight).to(torch.float32).mul_(scale)
    at = torch.maximum(x.amax(0), x.amin(0).neg_()).topk(exact).indices
    rest = int8_product(x.index_fill(1, at, 0.0), weight)
    return rest.addmm_(x.index_select(1, at).float(), weight.index_select(0, at).float())


def sums(codes: Tensor, weight: Tensor, slot: int = 0) -> Tensor:
    """codes: int8[T, in], weight: int8[in, out] -> int32[T, out], valid until the next of that slot."""
    shape = (len(codes), weight.shape[1])
    out = workspace(f"sums {slot}", shape, torch.int32, codes.device)
    torch._int_mm(codes, weight, out=out)  # pyright: ignore[reportPrivateUsage]
    return out


@cache
def int8_pays(device: Device) -> bool:
    """Is the whole int8 product, rounding included, faster than the product of the fastest dense format?"""
    facts = machine_facts(device)
    if not device.is_cpu:
        return False  # rounding costs more there than the product: not measured, so not offered
    generator = torch.Generator().manual_seed(0)
    matmul_dtype = torch_dtype(facts["products"])
    x = torch.randn(ROWS, IN, generator=generator).to(matmul_dtype)
    weight = torch.randn(OUT, IN, generator=generator)
    codes, scale = quantised(weight)
    dense = weight.to(torch_dtype(facts["dtype"]))
    rounded, exact = best_seconds(
        lambda: int8_product(x, codes.T).mul_(scale.T).to(x.dtype),
        lambda: x @ converted(dense, matmul_dtype).t(),
    )
    return exact >= FASTER * rounded


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
    """An `Int8Linear` as a frozen weight (`frozen.FrozenWeight`). exact: columns of an input that are not
    rounded."""

    __slots__ = ("exact", "linear")

    def __init__(self, linear: Int8Linear) -> None:
        self.linear = linear
        self.exact = outliers_of(linear.in_features, linear.out_features)

    def forward(self, x: Tensor) -> Tensor:
        y = int8_product(x, self.linear.weight.T, self.exact).mul_(self.linear.scale.T).to(x.dtype)
        bias: Any = self.linear.bias  # None without one, whatever torch's stubs say
        return y if bias is None else y.add_(bias)

    def input_grad(self, g: Tensor) -> Tensor:
        """g W: the scales go with the outputs, so that the same codes serve; g is rounded row by row."""
        return int8_product(g * self.linear.scale.T, self.linear.weight).to(g.dtype)

    def dense(self) -> Tensor:
        return self.linear.weight.float().mul_(self.linear.scale)

    # the same products in parts, for kernels that round and scale themselves

    @property
    def column_scale(self) -> Tensor:
        """fp32[out]."""
        return self.linear.scale.flatten()

    def product(self, x: Codes, slot: int) -> Product:
        """x: int8[T, in] -> exact sums int32[T, out], valid until the next of that slot."""
        bias: Any = self.linear.bias
        found = sums(x.codes, self.linear.weight.T, slot)
        return Product(found, x.scale, self.column_scale, None if bias is None else bias.float())

    def back(self, g: Codes, slot: int) -> Product:
        """g: int8[T, out], of a gradient times `column_scale` -> int32[T, in]."""
        return Product(sums(g.codes, self.linear.weight, slot), g.scale)

    def columns(self, at: Tensor) -> Tensor:
        """fp32[k, out]: W^T at some of its inputs."""
        return self.linear.weight.index_select(1, at).float().mul_(self.linear.scale).T.contiguous()


def to_int8(model: nn.Module) -> nn.Module:
    """Replace every linear but the head by its int8 form; the old weight is freed at once."""
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            weight: Any = getattr(child, "weight", None)  # none beside the language model of a wrapper
            if type(child) is nn.Linear and weight is not None and child is not head:
                setattr(parent, name, Int8Linear(child))
    return model
