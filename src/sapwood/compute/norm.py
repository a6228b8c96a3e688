"""RMSNorm of a frozen base, without the copies that autograd would keep: its input and one number a token are
enough for the backward pass, where transformers' own keeps two fp32 tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sapwood.compute.backend import Backend
from sapwood.compute.fused import rms_norm
from sapwood.compute.linear.reference import MIN_ROWS
from sapwood.native import norm


class RmsNorm(torch.autograd.Function):
    """x: [..., D], weight: [D] -> [..., D]. Source: arXiv 1910.07467, equation 4."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, unit_offset: bool) -> Tensor:
        wide = x.float()
        rstd = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True).add_(eps))
        ctx.save_for_backward(x.to(saved_dtype(x, weight)), weight, rstd)
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


class NativeRmsNorm(torch.autograd.Function):
    """The same by a compiled kernel, which rounds only what it returns and what it keeps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, unit_offset: bool) -> Tensor:
        scale = weight.detach().float() + 1.0 if unit_offset else weight.detach().float()
        y, saved, rstd = norm.norm_forward(x.contiguous(), scale, eps, saved_dtype(x, weight))
        ctx.save_for_backward(saved, scale, rstd)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return norm.norm_backward(grad.contiguous(), *ctx.saved_tensors), None, None, None


def saved_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """The narrower of both: a base in bf16 keeps bf16, whatever activations travel in."""
    return weight.dtype if weight.dtype.itemsize < x.dtype.itemsize else x.dtype


@dataclass(slots=True)
class LightNorm:
    """In the place of a norm module's ``forward``: it answers in the format of its input.

    unit_offset: the weight is 1 + ``weight``. compiled: by our kernel, where tokens are enough to pay for it.
    """

    module: Any
    eps: float
    unit_offset: bool
    compiled: bool
    backend: Backend

    def __call__(self, hidden_states: Tensor) -> Tensor:
        if self.backend.fuses("norm", hidden_states, self.module.weight):
            return rms_norm(hidden_states, self.module.weight, self.eps, self.unit_offset)
        many = hidden_states.numel() >= MIN_ROWS * hidden_states.shape[-1]
        kind = NativeRmsNorm if self.compiled and many else RmsNorm
        return kind.apply(hidden_states, self.module.weight, self.eps, self.unit_offset)  # type: ignore[return-value]
