"""The adapter's fast path: one autograd function for all adapted linears that read the same input.

    y_i = x W_i^T + b_i + s_i drop(x) A_i^T B_i^T          (LoRA: arXiv 2106.09685, equation 3)

q, k and v read one input, and so do gate and up: their A's are stacked into one product, the input is masked
once, and the input's gradient is summed in place. Kept for the backward pass: x (shared by the group, in the
base's own format), h = drop(x) A^T, and nothing else; the mask is drawn again from its counter. The
parameters are PEFT's own, in fp32.

`LoraLinear` is registered through PEFT's custom-module map, so the adapter's format, names and every other
tool of PEFT stay as they are; PEFT's own forward is the reference that the tests compare with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor, nn

from sapwood.base.storage.frozen import FrozenWeight, freeze_together
from sapwood.compute.backend import Backend
from sapwood.compute.dropout import DropoutClock
from sapwood.compute.linear.compiled import NativeCall
from sapwood.compute.linear.reference import MIN_ROWS, Call


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

    matmul_dtype: the format to multiply in, the input's own where None; storage_dtype: the base's, and that
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
        kind = NativeCall if self.compiled and x.shape[:-1].numel() >= MIN_ROWS else Call
        return kind(
            tuple(m.frozen for m in self.members),
            tuple(m.scaling[m.adapter] for m in self.members),
            rate,
            self.clock.at(self.index) if rate else 0,
            self.matmul_dtype,
            self.storage_dtype if self.storage_dtype != x.dtype else None,
        )

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


class LoraLinear(PeftLinear):
    """PEFT's LoRA linear with the fast forward. Falls back to PEFT's own whenever the case is not the plain
    one."""

    group: InputGroup | None = None
    frozen: FrozenWeight

    @property
    def adapter(self) -> str:
        return self.active_adapters[0]

    @property
    def sizes(self) -> tuple[int, int]:
        base: Any = self.get_base_layer()
        return base.in_features, base.out_features

    @property
    def rate(self) -> float:
        dropout = self.lora_dropout[self.adapter]
        return dropout.p if isinstance(dropout, nn.Dropout) else 0.0

    @property
    def bias_is_trained(self) -> bool:
        bias: Any = getattr(self.base_layer, "bias", None)
        return bias is not None and bias.requires_grad

    def is_plain(self) -> bool:
        """One active LoRA, neither merged nor switched off, no variant (DoRA and the like), no bias of its
        own, and none of the base trained."""
        return (
            len(self.active_adapters) == 1
            and self.adapter in self.lora_A
            and self.adapter not in self.lora_variant
            and not self.lora_bias[self.adapter]
            and not self.bias_is_trained
            and not self.disable_adapters
            and not self.merged
        )

    def is_fast(self) -> bool:
        return self.group is not None and self.is_plain()

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.group is None or args or kwargs or not self.is_plain():
            return super().forward(x, *args, **kwargs)
        return self.group.output(self, x)


def speed_up(
    model: nn.Module,
    clock: DropoutClock,
    backend: Backend,
    matmul_dtype: torch.dtype | None,
    storage_dtype: torch.dtype,
) -> list[InputGroup]:
    """Give every `LoraLinear` of ``model`` its group. Which modules share an input is read from the model
    itself, by one forward pass over two tokens."""
    modules = [module for module in model.modules() if isinstance(module, LoraLinear)]
    readers: list[tuple[Tensor, list[LoraLinear]]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if readers and readers[-1][0] is inputs[0]:
            readers[-1][1].append(module)  # type: ignore[arg-type]
        else:
            readers.append((inputs[0], [module]))  # type: ignore[list-item]

    hooks = [module.register_forward_pre_hook(note) for module in modules]
    try:
        with torch.no_grad():
            device = next(model.parameters()).device
            model(input_ids=torch.zeros(1, 2, dtype=torch.int64, device=device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    groups: list[InputGroup] = []
    for index, (_, members) in enumerate(readers):
        try:
            frozen = freeze_together([module.get_base_layer() for module in members])
        except TypeError:  # an architecture's own linear: PEFT's forward computes it
            continue
        compiled = backend.takes(
            *(size for m in members for size in m.sizes),
            rank=max(m.r[m.adapter] for m in members),
            matmul_dtype=matmul_dtype or storage_dtype,
            saved_dtype=storage_dtype,
        )
        groups.append(InputGroup(members, index, clock, matmul_dtype, storage_dtype, compiled))
        for module, weight in zip(members, frozen, strict=True):
            module.frozen, module.group = weight, groups[-1]
    return groups
