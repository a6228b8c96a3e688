"""The adapter's fast path: one autograd function for all adapted linears that read the same input.

    y_i = x W_i^T + b_i + s_i drop(x) A_i^T B_i^T          (LoRA: arXiv 2106.09685, equation 3)

q, k and v read one input, and so do gate and up: their A's are stacked into one product, the input is masked
once, and the input's gradient is summed in place. Kept for the backward pass: x (shared by the group, in the
base's own format), h = drop(x) A^T, and nothing else; the mask is drawn again from its counter. The
parameters are PEFT's own, in fp32.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sapwood.base.storage.frozen import DenseWeight
from sapwood.compute.dropout import DropoutClock
from sapwood.compute.linear.compiled import NativeCall
from sapwood.compute.linear.reference import MIN_ROWS, Call

if TYPE_CHECKING:
    from sapwood.compute.linear.layer import LoraLinear


class _LoraProducts(torch.autograd.Function):
    """x: [..., in] and A_1 … A_n: [r_i, in], B_1 … B_n: [out_i, r_i] -> n outputs [..., out_i]."""

    @staticmethod
    def forward(ctx: Any, call: Call, x: Tensor, *adapter: Tensor) -> tuple[Tensor, ...]:
        outputs, saved, h = call.forward(x.flatten(0, -2), adapter)
        ctx.save_for_backward(saved, h, *adapter)
        ctx.call, ctx.like = call, (x.dtype, x.shape[:-1])
        # no views: Gemma 3n changes an output in place, which autograd forbids for views of several outputs
        return tuple(
            torch.ops.aten._unsafe_view(y.to(x.dtype), [*x.shape[:-1], y.shape[-1]]) for y in outputs
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        saved, h, *adapter = ctx.saved_tensors
        flat = [grad.flatten(0, -2) for grad in grads]
        dtype, shape = ctx.like
        grad_x, grad_adapter = ctx.call.backward(saved, h, adapter, flat, need_x=ctx.needs_input_grad[1])
        if grad_x is not None:
            grad_x = grad_x.to(dtype).unflatten(0, shape)
        return None, grad_x, *grad_adapter


@dataclass(slots=True)
class InputGroup:
    """Adapted linears that read the same tensor. The first one called computes for all of them.

    matmul_dtype: the format to multiply in, the input's own if None; storage_dtype: the base's, and that
    of what is kept for the backward pass. compiled: by the kernels.
    """

    members: list[LoraLinear]
    index: int
    clock: DropoutClock
    matmul_dtype: torch.dtype | None
    storage_dtype: torch.dtype
    compiled: bool
    waiting: dict[int, Tensor] = field(default_factory=dict)
    reading: Tensor | None = None

    def call(self, x: Tensor) -> Call:
        first = self.members[0]
        rate = first.rate if first.training and torch.is_grad_enabled() else 0.0
        many = x.shape[:-1].numel() >= MIN_ROWS or self.quick
        kind = NativeCall if self.compiled and many else Call
        return kind(
            tuple(m.frozen for m in self.members),
            tuple(m.scaling[m.adapter] for m in self.members),
            rate,
            self.clock.at(self.index) if rate else 0,
            self.matmul_dtype,
            self.storage_dtype if self.storage_dtype != x.dtype else None,
        )

    @property
    def quick(self) -> bool:
        """Do its frozen weights have a form for a handful of rows?"""
        frozen = (m.frozen for m in self.members)
        return all(isinstance(weight, DenseWeight) and weight.quick for weight in frozen)

    def adapter(self) -> list[Tensor]:
        """A of each member, then B of each."""
        sides: list[Any] = [m.lora_A for m in self.members] + [m.lora_B for m in self.members]
        return [side[m.adapter].weight for side, m in zip(sides, 2 * self.members, strict=True)]

    def output(self, member: LoraLinear, x: Tensor) -> Tensor:
        """The member's output for ``x``; the others' are kept until they ask with the same tensor."""
        if self.reading is x and id(member) in self.waiting:
            y = self.waiting.pop(id(member))
            if not self.waiting:
                self.reading = None
            return y
        outputs = _LoraProducts.apply(self.call(x), x, *self.adapter())
        self.waiting = {id(m): y for m, y in zip(self.members, outputs, strict=True)}  # type: ignore[arg-type]
        self.reading = x
        return self.output(member, x)
