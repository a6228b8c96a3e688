"""A gated MLP and its adapters as one function: down(act(gate(x)) * up(x)).

Between its products everything stays in the format of products, and what down_proj reads is computed again
from gate and up: x, gate, up and two h's are all that is kept. `fast_blocks` has found which modules are such
MLPs; where an adapter isn't the plain one, or covers only some of the linears, they compute as before.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from sapwood.compute.linear.compiled import GatedKept, NativeCall, gated_backward, gated_forward
from sapwood.compute.linear.group import InputGroup, LoraLinear
from sapwood.compute.linear.reference import Call
from sapwood.compute.norm import activated, activated_backward, gated_mlp, wide_linears


class _GatedMlp(torch.autograd.Function):
    """x: [..., D] -> [..., D]; the adapter of gate and up (one matrix in some models), then that of down."""

    @staticmethod
    def forward(ctx: Any, wide: Call, down: Call, gelu: bool, x: Tensor, *adapter: Tensor) -> Tensor:
        split = 2 * len(wide.weights)
        outputs, kept, h_wide = wide.forward(x.flatten(0, -2), adapter[:split])
        gate, up = outputs if len(outputs) == 2 else outputs[0].chunk(2, -1)
        (y,), _, h_down = down.forward(activated(gate, gelu).mul_(up), adapter[split:])
        gate, up = (part.to(kept.dtype) for part in (gate, up))
        ctx.save_for_backward(kept, h_wide, gate, up, h_down, *adapter)
        ctx.calls, ctx.gelu, ctx.like = (wide, down), gelu, (x.dtype, x.shape)
        return y.to(x.dtype).view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        kept, h_wide, gate, up, h_down, *adapter = ctx.saved_tensors
        wide, down = ctx.calls
        split = 2 * len(wide.weights)
        dtype, shape = ctx.like
        flat = grad.flatten(0, -2)
        gate, up = (part.to(down.format_for(flat)) for part in (gate, up))
        active = activated(gate, ctx.gelu)
        inner = active * up
        inner = inner if down.kept is None else inner.to(down.kept)
        through, grad_down = down.backward(inner, h_down, adapter[split:], [flat])
        assert through is not None
        grad_up = active.mul_(through)
        grad_gate = activated_backward(through.mul_(up), gate, ctx.gelu)
        grads = [grad_gate, grad_up] if len(wide.weights) == 2 else [torch.cat([grad_gate, grad_up], -1)]
        grad_x, grad_wide = wide.backward(
            kept, h_wide, adapter[:split], grads, need_x=ctx.needs_input_grad[3]
        )
        grad_x = None if grad_x is None else grad_x.to(dtype).view(shape)
        return None, None, None, grad_x, *grad_wide, *grad_down


class _NativeGatedMlp(torch.autograd.Function):
    """The same by compiled kernels, where gate and up are two matrices."""

    @staticmethod
    def forward(
        ctx: Any, wide: NativeCall, down: NativeCall, gelu: bool, x: Tensor, *adapter: Tensor
    ) -> Tensor:
        y, kept = gated_forward(wide, down, gelu, x.flatten(0, -2), adapter)
        ctx.save_for_backward(kept.x, kept.h_wide, kept.both, kept.h_down, *adapter)
        ctx.calls, ctx.gelu, ctx.like = (wide, down), gelu, (x.dtype, x.shape)
        return y.to(x.dtype).view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        saved = ctx.saved_tensors  # read once: layers that are computed again allow no more
        kept, adapter = GatedKept(*saved[:4]), saved[4:]
        dtype, shape = ctx.like
        wide, down = ctx.calls
        grad_x, grads = gated_backward(
            wide, down, ctx.gelu, grad.flatten(0, -2), kept, adapter,
            need_x=ctx.needs_input_grad[3],
        )  # fmt: skip
        return None, None, None, None if grad_x is None else grad_x.to(dtype).view(shape), *grads


def join_mlps(model: nn.Module) -> int:
    """Let every gated MLP whose linears are all adapted compute as one. Returns how many do."""
    found = [module for module in model.modules() if hasattr(module, "gelu") and _parts(module)]
    for module in found:
        module.forward = MethodType(_forward, module)
    return len(found)


def _forward(mlp: Any, x: Tensor) -> Tensor:
    if (groups := _parts(mlp)) is None:
        return gated_mlp(mlp, x)
    wide, down = (group.call(x) for group in groups)
    native = isinstance(wide, NativeCall) and isinstance(down, NativeCall) and len(wide.weights) == 2
    kind = _NativeGatedMlp if native else _GatedMlp
    adapter = [tensor for group in groups for tensor in group.adapter()]
    return kind.apply(wide, down, mlp.gelu, x, *adapter)  # type: ignore[return-value]


def _parts(mlp: Any) -> tuple[InputGroup, InputGroup] | None:
    """The groups of a gated MLP where they are adapted the plain way, and nothing else is in them."""
    first, last = wide_linears(mlp), mlp.down_proj
    if not all(isinstance(linear, LoraLinear) and linear.is_fast() for linear in (*first, last)):
        return None
    wide, down = first[0].group, last.group
    return (wide, down) if wide.members == first and down.members == [last] else None
