"""Norms and gated MLPs of a frozen base, without the copies that autograd would keep.

transformers' RMSNorm keeps two fp32 tensors for its backward pass, its gated MLP four activations. Both can
be had from less: the norm's input and one number a token; gate and up. A block is replaced only where the
function below gives, on random input, exactly the bits that the block itself gives: nothing is assumed about
an architecture.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from sapwood.compute.linear.reference import MIN_ROWS
from sapwood.native import norm, ops


class _RmsNorm(torch.autograd.Function):
    """x: [..., D], weight: [D] -> [..., D]. Source: arXiv 1910.07467, equation 4."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, unit_offset: bool) -> Tensor:
        wide = x.float()
        rstd = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True).add_(eps))
        kept = x.to(_kept_form(x, weight))
        ctx.save_for_backward(kept, weight, rstd)
        ctx.unit_offset, ctx.dtype = unit_offset, x.dtype
        wide = wide.mul_(rstd) if wide is not x else wide * rstd
        if unit_offset:  # Gemma: (1 + w), multiplied before the cast
            return wide.mul_(1.0 + weight.float()).to(x.dtype)
        return weight * wide.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, rstd = ctx.saved_tensors
        scaled = grad * (1.0 + weight.float()) if ctx.unit_offset else (grad * weight).float()
        normed = x.float().mul_(rstd) if x.dtype != torch.float32 else x * rstd
        inner = (scaled * normed).mean(-1, keepdim=True)
        grad_x = torch.addcmul(scaled, normed, inner, value=-1).mul_(rstd)
        return grad_x.to(ctx.dtype), None, None, None


class _NativeRmsNorm(torch.autograd.Function):
    """The same by a compiled kernel, which rounds only what it returns and what it keeps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, unit_offset: bool) -> Tensor:
        wide = weight.detach().float() + 1.0 if unit_offset else weight.detach().float()
        y, kept, rstd = norm.norm_forward(x.contiguous(), wide, eps, _kept_form(x, weight))
        ctx.save_for_backward(kept, wide, rstd)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return norm.norm_backward(grad.contiguous(), *ctx.saved_tensors), None, None, None


def _kept_form(x: Tensor, weight: Tensor) -> torch.dtype:
    """The narrower of both: a base in bf16 keeps bf16, whatever activations travel in."""
    return weight.dtype if weight.dtype.itemsize < x.dtype.itemsize else x.dtype


def rms_norm(x: Tensor, weight: Tensor, eps: float, unit_offset: bool) -> Tensor:
    """By the compiled kernel where there is one for it, and tokens enough to pay for it."""
    native = (
        x.device.type == "cpu"
        and x.numel() >= MIN_ROWS * x.shape[-1]
        and ops.suits(x.dtype, _kept_form(x, weight), [x.shape[-1]], 1)
    )
    kind = _NativeRmsNorm if native else _RmsNorm
    return kind.apply(x, weight, eps, unit_offset)  # type: ignore[return-value]


class _GatedProduct(torch.autograd.Function):
    """act(gate) * up, keeping gate and up alone. Source: arXiv 2002.05202."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.gelu = gelu
        return activated(gate, gelu).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        gate, up = ctx.saved_tensors
        grad_up = activated(gate, ctx.gelu).mul_(grad)
        return activated_backward(grad * up, gate, ctx.gelu), grad_up, None


def activated_backward(grad: Tensor, gate: Tensor, gelu: bool) -> Tensor:
    if gelu:
        return torch.ops.aten.gelu_backward(grad, gate, approximate="tanh")
    return torch.ops.aten.silu_backward(grad, gate)


def activated(gate: Tensor, gelu: bool) -> Tensor:
    return torch.nn.functional.gelu(gate, approximate="tanh") if gelu else torch.nn.functional.silu(gate)


def follows_input(module: nn.Module) -> bool:
    """Is it a norm that was replaced, which answers in the format of its input?"""
    method = vars(module).get("forward")
    return method is not None and getattr(method, "__name__", "") == "light_norm"


def lighten(model: nn.Module) -> int:
    """Replace the forward of every norm and gated MLP that is exactly reproduced. Returns how many were."""
    like = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    return sum(_lighten_norm(module) + _lighten_mlp(module, like) for module in model.modules())


def _lighten_norm(module: nn.Module) -> int:
    weight, eps = (
        getattr(module, "weight", None),
        getattr(module, "variance_epsilon", getattr(module, "eps", None)),
    )
    if (
        "RMSNorm" not in type(module).__name__
        or not isinstance(weight, Tensor)
        or weight.dim() != 1
        or eps is None
    ):
        return 0
    x = _random(3, len(weight), like=weight)
    for unit_offset in (False, True):
        if torch.equal(_RmsNorm.apply(x, weight, eps, unit_offset), module(x)):  # type: ignore[arg-type]

            def light_norm(self: Any, hidden_states: Tensor, unit_offset: bool = unit_offset) -> Tensor:
                return rms_norm(hidden_states, self.weight, eps, unit_offset)

            module.forward = MethodType(light_norm, module)
            return 1
    return 0


def wide_linears(mlp: Any) -> list[Any]:
    """gate and up; GLM and Phi 3 hold both in one matrix."""
    names = ("gate_up_proj",) if hasattr(mlp, "gate_up_proj") else ("gate_proj", "up_proj")
    return [getattr(mlp, name, None) for name in names]


def gated_mlp(self: Any, x: Tensor) -> Tensor:
    """The forward of a gated MLP, whose ``gelu`` says which activation."""
    outputs = [linear(x) for linear in wide_linears(self)]
    both = outputs if len(outputs) == 2 else outputs[0].chunk(2, -1)
    return self.down_proj(_GatedProduct.apply(*both, self.gelu))


def _lighten_mlp(module: nn.Module, like: Tensor) -> int:
    parts: list[Any] = [*wide_linears(module), getattr(module, "down_proj", None)]
    if not all(isinstance(part, nn.Module) for part in parts):
        return 0
    x = _random(3, parts[0].in_features, like=like)
    for gelu in (False, True):
        module.gelu = gelu  # type: ignore[assignment]
        with torch.no_grad():
            same = torch.equal(gated_mlp(module, x), module(x))
        if same:
            module.forward = MethodType(gated_mlp, module)
            return 1
    del module.gelu
    return 0


def _random(*shape: int, like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator).to(like.device, like.dtype)
