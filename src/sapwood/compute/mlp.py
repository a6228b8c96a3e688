"""A gated MLP with its adapters: down(act(gate(x)) * up(x)).

What down_proj reads is computed again from gate and up in the backward pass, so gate and up are all that is
kept between them. Where all three linears have plain adapters and the kernels take them, the whole MLP is one
function of theirs, and everything between its products stays in the format of products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sapwood.compute import fused
from sapwood.compute.backend import Backend
from sapwood.compute.linear.compiled import GatedSaved, NativeCall, gated_backward, gated_forward
from sapwood.compute.linear.group import InputGroup
from sapwood.compute.linear.reference import Call


class Gated(torch.autograd.Function):
    """gate, up: [..., F] -> down(act(gate) * up), [..., D], with down_proj's adapter; the product itself
    where down_proj computes by its own module. by_fused: products by `fused`. Source: arXiv 2002.05202."""

    @staticmethod
    def forward(
        ctx: Any, down: Call | None, gelu: bool, by_fused: bool, gate: Tensor, up: Tensor, *adapter: Tensor
    ) -> Tensor:
        y, h = fused.gated(gate, up, gelu) if by_fused else activated(gate, gelu).mul_(up), gate
        if down is not None:
            (y,), _, h = down.forward(y.flatten(0, -2), adapter)
            # no view: Llama 4 adds to the output in place, which autograd forbids for a custom function's
            y = torch.ops.aten._unsafe_view(y.to(gate.dtype), [*gate.shape[:-1], y.shape[-1]])
        saved_dtype = gate.dtype if down is None or down.saved_dtype is None else down.saved_dtype
        ctx.save_for_backward(gate.to(saved_dtype), up.to(saved_dtype), h, *adapter)
        ctx.down, ctx.gelu, ctx.by_fused, ctx.dtype = down, gelu, by_fused, gate.dtype
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        gate, up, h, *adapter = ctx.saved_tensors
        down, saved_dtype, grads = ctx.down, gate.dtype, ()
        gate, up = gate.to(ctx.dtype), up.to(ctx.dtype)
        active = None if ctx.by_fused else activated(gate, ctx.gelu)
        if down is not None:
            inner = fused.gated(gate, up, ctx.gelu) if active is None else active * up
            inner = inner.to(saved_dtype).flatten(0, -2)
            through, grads = down.backward(inner, h, adapter, [grad.flatten(0, -2)])
            grad = through.to(ctx.dtype).view(gate.shape)
        if active is None:
            return None, None, None, *fused.gated_backward(grad, gate, up, ctx.gelu), *grads
        grad_gate = activated_backward(grad * up, gate, ctx.gelu)
        return None, None, None, grad_gate, active.mul_(grad), *grads


class NativeGatedMlp(torch.autograd.Function):
    """x: [..., D] -> [..., D] by compiled kernels, where gate and up are two matrices. adapter: of gate and
    up, then of down."""

    @staticmethod
    def forward(
        ctx: Any, wide: NativeCall, down: NativeCall, gelu: bool, x: Tensor, *adapter: Tensor
    ) -> Tensor:
        y, saved = gated_forward(wide, down, gelu, x.flatten(0, -2), adapter)
        ctx.save_for_backward(saved.x, saved.h_wide, saved.both, saved.h_down, *adapter)
        ctx.calls, ctx.gelu, ctx.like = (wide, down), gelu, (x.dtype, x.shape)
        return torch.ops.aten._unsafe_view(y.to(x.dtype), list(x.shape))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        tensors = ctx.saved_tensors  # read once: layers that are computed again allow no more
        saved, adapter = GatedSaved(*tensors[:4]), tensors[4:]
        dtype, shape = ctx.like
        wide, down = ctx.calls
        grad_x, grads = gated_backward(
            wide, down, ctx.gelu, grad.flatten(0, -2), saved, adapter,
            need_x=ctx.needs_input_grad[3],
        )  # fmt: skip
        return None, None, None, None if grad_x is None else grad_x.to(dtype).view(shape), *grads


def activated_backward(grad: Tensor, gate: Tensor, gelu: bool) -> Tensor:
    if gelu:
        return torch.ops.aten.gelu_backward(grad, gate, approximate="tanh")
    return torch.ops.aten.silu_backward(grad, gate)


def activated(gate: Tensor, gelu: bool) -> Tensor:
    return torch.nn.functional.gelu(gate, approximate="tanh") if gelu else torch.nn.functional.silu(gate)


def wide_linears(mlp: Any) -> list[Any]:
    """gate and up; GLM and Phi 3 hold both in one matrix."""
    names = ("gate_up_proj",) if hasattr(mlp, "gate_up_proj") else ("gate_proj", "up_proj")
    return [getattr(mlp, name, None) for name in names]


@dataclass(slots=True)
class LightMlp:
    """In the place of a gated MLP module's ``forward``, whatever adapters it gets later."""

    module: Any
    gelu: bool
    backend: Backend

    def __call__(self, x: Tensor) -> Tensor:
        wide, down = _group_of(wide_linears(self.module)), _group_of([self.module.down_proj])
        if wide is not None and down is not None and len(wide.members) == 2:
            calls = wide.call(x), down.call(x)
            if all(isinstance(call, NativeCall) for call in calls):
                return NativeGatedMlp.apply(*calls, self.gelu, x, *wide.adapter(), *down.adapter())  # type: ignore[return-value]
        outputs = [linear(x) for linear in wide_linears(self.module)]
        gate, up = outputs if len(outputs) == 2 else outputs[0].chunk(2, -1)
        by_fused = self.backend.fuses("gated", gate, up)
        if down is None:
            return self.module.down_proj(Gated.apply(None, self.gelu, by_fused, gate, up))
        return Gated.apply(down.call(gate), self.gelu, by_fused, gate, up, *down.adapter())  # type: ignore[return-value]


def _group_of(linears: list[Any]) -> InputGroup | None:
    """The group of these linears if all are adapted the plain way, and nothing else is in it."""
    from sapwood.compute.linear.layer import LoraLinear

    if not all(isinstance(linear, LoraLinear) and linear.is_fast() for linear in linears):
        return None
    return linears[0].group if linears[0].group.members == linears else None
