"""`reference` by compiled kernels (`native.ops`), and a gated MLP's three linears likewise.

The large products stay with torch, or with the base's storage. One kernel reads what goes into them and
another what comes out, and there, row by row, everything happens that would be a pass over memory each: the
dropout mask and its use, both low-rank products and their gradients, the activation, rounding to 8 bits and
back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from sapwood.base.storage.int8_linear import Int8Weight
from sapwood.compute.linear.reference import Call
from sapwood.native import ops
from sapwood.native.ops import Codes, Product, Side, SideBack
from sapwood.native.workspace import workspace

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class NativeCall(Call):
    """A `Call` that the kernels take (`Backend.takes`)."""

    def format_for(self, x: Tensor) -> torch.dtype:
        return self.matmul_dtype or x.dtype

    def forward(self, flat: Tensor, adapter: Sequence[Tensor]) -> tuple[list[Tensor], Tensor, Tensor]:
        x = flat.to(self.format_for(flat)).contiguous()
        count = self.exact
        exact = torch.maximum(x.amax(0), x.amin(0).neg_()).topk(count).indices if count else None
        reading = self.read(x, adapter, exact, self.saved_dtype or flat.dtype)
        assert reading.saved is not None
        return self.write(reading, adapter), reading.saved, reading.h

    def read(
        self,
        x: Tensor,
        adapter: Sequence[Tensor],
        exact: Tensor | None,
        saved_dtype: torch.dtype,
        *,
        keep: bool = True,
    ) -> Reading:
        """x: [T, in] in the format of products. exact: columns that are multiplied as they are."""
        room = _room("input", x.shape) if self.is_rounded else None
        a = stacked(adapter[: len(self.weights)])
        saved, h = ops.read_input(x, a, self.dropout, saved_dtype, keep=keep, room=room, exact=exact)
        return Reading(x, saved, h, room, exact)

    def multiply(self, reading: Reading) -> list[Product]:
        """What the frozen weights make of an input."""
        if reading.room is None:
            return [Product(weight.forward(reading.x)) for weight in self.weights]
        codes = reading.room
        return [weight.product(codes, slot) for slot, weight in enumerate(self.rounded)]

    def write(self, reading: Reading, adapter: Sequence[Tensor]) -> list[Tensor]:
        """The outputs [T, out_i]."""
        n = len(self.weights)
        outputs: list[Tensor] = []
        for i, (product, (start, stop)) in enumerate(
            zip(self.multiply(reading), ranks(adapter[:n]), strict=True)
        ):
            bt, h = scaled(adapter[n + i], self.scales[i]), reading.h[:, start:stop]
            if reading.room is None:  # a product of numbers takes the adapter's share as it is
                outputs.append(product.data.addmm_(h.to(product.data.dtype), bt.to(product.data.dtype)))
                continue
            if reading.exact is not None and n == 1:  # columns that were left out, as further ranks
                bt, h = torch.cat([bt, self.rounded[i].columns(reading.exact)]), reading.h
            y = ops.write_output(product, h, bt, reading.x.dtype)
            if reading.exact is not None and n > 1:
                apart = reading.h[:, -len(reading.exact) :]
                y.addmm_(apart.to(y.dtype), self.rounded[i].columns(reading.exact).to(y.dtype))
            outputs.append(y)
        return outputs

    def backward(
        self,
        saved: Tensor,
        h: Tensor,
        adapter: Sequence[Tensor],
        grads: Sequence[Tensor],
        *,
        need_x: bool = True,
    ) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        n = len(self.weights)
        matmul_dtype = self.format_for(grads[0])
        grad_h = torch.empty(len(saved), sum(map(len, adapter[:n])))
        grad_b: list[Tensor] = []
        products: list[Product] = []
        for i, (start, stop) in enumerate(ranks(adapter[:n])):
            g = grads[i].to(matmul_dtype).contiguous()
            product, own = self.read_back(
                i, g, adapter[n + i], h[:, start:stop], grad_h[:, start:stop], need_x=need_x
            )
            grad_b.append(own)
            products += [product] if product is not None else []
        grad_x, grad_a = self.write_back(products, grad_h, adapter, saved, matmul_dtype, need_x=need_x)
        return grad_x, (*grad_a, *grad_b)

    def read_back(
        self, i: int, g: Tensor, b: Tensor, h: Tensor, grad_h: Tensor, *, need_x: bool = True
    ) -> tuple[Product | None, Tensor]:
        """g: [T, out_i] -> what member ``i`` gives the input's gradient, where it is needed, and the gradient
        of its B. Fills ``grad_h``."""
        bt = scaled(b, self.scales[i])
        room = _room(f"grad {i}", g.shape) if self.is_rounded and need_x else None
        columns = self.rounded[i].column_scale if room is not None else None
        grad_bt = ops.read_grad(g, bt, h, grad_h, room=room, columns=columns)
        product = self.product_back(i, g if room is None else room) if need_x else None
        return product, ops.transposed(grad_bt, self.scales[i])

    def product_back(self, i: int, g: Tensor | Codes) -> Product:
        """A gradient times the frozen weight of member ``i``."""
        return self.rounded[i].back(g, i) if isinstance(g, Codes) else Product(self.weights[i].input_grad(g))

    def write_back(
        self, products: Sequence[Product], grad_h: Tensor, adapter: Sequence[Tensor], saved: Tensor,
        matmul_dtype: torch.dtype, *, need_x: bool,
    ) -> tuple[Tensor | None, tuple[Tensor, ...]]:  # fmt: skip
        """The input's gradient, and those of the A's."""
        own = adapter[: len(self.weights)]
        grad_x, grad_a = ops.write_grad(
            products, grad_h, stacked(own), saved, self.dropout, matmul_dtype, need_x=need_x
        )
        return grad_x, grad_a.split([len(a) for a in own])

    @property
    def rounded(self) -> list[Int8Weight]:
        return [weight for weight in self.weights if isinstance(weight, Int8Weight)]

    @property
    def is_rounded(self) -> bool:
        return len(self.rounded) == len(self.weights)

    @property
    def exact(self) -> int:
        """Columns of the input that are not rounded."""
        return self.rounded[0].exact if self.is_rounded else 0


@dataclass(frozen=True, slots=True)
class Reading:
    """x: [T, in]; saved: x in the format to keep; h: fp32[T, R], and behind it the columns ``exact`` of x;
    room: x rounded to 8 bits, where it is multiplied so."""

    x: Tensor
    saved: Tensor | None
    h: Tensor
    room: Codes | None
    exact: Tensor | None


def stacked(a: Sequence[Tensor]) -> Tensor:
    """All A's as one fp32[sum of ranks, in]."""
    return a[0].detach() if len(a) == 1 else torch.cat(list(a))


def scaled(b: Tensor, scale: float) -> Tensor:
    """B^T times the adapter's scale: fp32[r, out]."""
    return ops.transposed(b.detach(), scale)


def ranks(a: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Where each member's ranks begin and end."""
    ends = list(accumulate(map(len, a)))
    return list(zip([0, *ends], ends, strict=False))


def _room(name: str, shape: Sequence[int]) -> Codes:
    """Valid until the next of that name."""
    return Codes(
        workspace(f"{name} codes", shape, torch.int8, CPU),
        workspace(f"{name} scale", shape[:1], torch.float32, CPU),
    )


# --- a gated MLP ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GatedSaved:
    """What a gated MLP keeps for its backward pass: its input, gate and up side by side, and both h's."""

    x: Tensor
    h_wide: Tensor
    both: Tensor
    h_down: Tensor


def gated_forward(
    wide: NativeCall, down: NativeCall, gelu: bool, flat: Tensor, adapter: Sequence[Tensor]
) -> tuple[Tensor, GatedSaved]:
    """down(act(gate(x)) * up(x)); flat: [T, D] -> [T, D] in the format of products. ``adapter``: that of gate
    and up, then that of down."""
    own, last = adapter[:4], adapter[4:]
    x, saved_dtype = flat.to(wide.format_for(flat)).contiguous(), wide.saved_dtype or flat.dtype
    reading = wide.read(x, own, None, saved_dtype)
    assert reading.saved is not None
    gate, up = (
        Side(product, reading.h[:, start:stop], scaled(b, scale))
        for product, (start, stop), b, scale in zip(
            wide.multiply(reading), ranks(own[:2]), own[2:], wide.scales, strict=True
        )
    )
    both, inner, tops = ops.gated_forward(gate, up, gelu, x.dtype, saved_dtype, tops=down.exact > 0)
    exact = tops.topk(down.exact).indices if tops is not None else None
    product = down.read(inner, last, exact, saved_dtype, keep=False)
    (y,) = down.write(product, last)
    return y, GatedSaved(reading.saved, reading.h, both, product.h)


def gated_backward(
    wide: NativeCall, down: NativeCall, gelu: bool, grad: Tensor, saved: GatedSaved,
    adapter: Sequence[Tensor], *, need_x: bool,
) -> tuple[Tensor | None, tuple[Tensor, ...]]:  # fmt: skip
    """grad: [T, D] -> the input's gradient, where it is needed, and the adapter's."""
    own, (a_down, b_down) = adapter[:4], adapter[4:]
    matmul_dtype = down.format_for(grad)
    g = grad.to(matmul_dtype).contiguous()
    grad_h = torch.empty(len(g), len(a_down))
    through, grad_b_down = down.read_back(0, g, b_down, saved.h_down[:, : len(a_down)], grad_h)
    grad_h_wide = torch.empty_like(saved.h_wide)
    rows, width = len(g), saved.both.shape[1] // 2
    sides = [
        SideBack(
            saved.h_wide[:, start:stop],
            bt := scaled(b, scale),
            grad_h_wide[:, start:stop],
            torch.empty_like(bt),
            _room(name, (rows, width))
            if wide.is_rounded
            else workspace(name, (rows, width), matmul_dtype, CPU),
            wide.rounded[i].column_scale if wide.is_rounded else None,
        )
        for i, (name, (start, stop), b, scale) in enumerate(
            zip(("gate", "up"), ranks(own[:2]), own[2:], wide.scales, strict=True)
        )
    ]
    assert through is not None
    grad_a_down = ops.gated_backward(through, grad_h, a_down.detach(), down.dropout, saved.both, gelu, *sides)
    products = [wide.product_back(i, side.to) for i, side in enumerate(sides)] if need_x else []
    grad_x, grad_a = wide.write_back(products, grad_h_wide, own, saved.x, matmul_dtype, need_x=need_x)
    grad_b = [ops.transposed(side.grad_bt, scale) for side, scale in zip(sides, wide.scales, strict=True)]
    return grad_x, (*grad_a, *grad_b, grad_a_down, grad_b_down)
