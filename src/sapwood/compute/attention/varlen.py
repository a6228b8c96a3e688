"""Attention over a pack whose segments stand alone, by torch's own `varlen_attn` (FlashAttention 2), on CUDA.

The kernel comes compiled with torch: no step waits for a compiler. It is told the segments' lengths and no
mask, so it can't do a segment that continues another one; that is FlexAttention's (`flex`). What else it
can't do is refused here, by `refusal`. At the start of a process its values and gradients are held against
the reference's (`why_not`). If they differ, or if this torch or this card has no such kernel, it isn't used.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from sapwood.compute.attention.segments import AttentionPlan, Rule, segment_attention
from sapwood.errors import first_line
from sapwood.machine.device import Device
from sapwood.machine.measure import torch_dtype
from sapwood.machine.selftest import NEAR
from sapwood.machine.shortage import refuse_shortage
from sapwood.types import Segment

KEY = "varlen"  # among what forms make of a plan
STEP, LARGEST = 8, 192  # sizes of heads: consumer cards have no gradient for some of the larger ones
TRIED = (40, 7, 65)  # tokens of the segments of the trial
TRIED_RULES = (Rule(0.2), Rule(0.2, window=16))


def refusal(query: Tensor, value: Tensor, plan: AttentionPlan, rule: Rule) -> str | None:
    """Why the kernel can't do this; None if it can."""
    size = query.shape[-1]
    if plan.lead or any(segment.parent is not None for segment in plan.segments):
        return "a segment that continues another one"
    if rule.softcap is not None:
        return "a soft cap on scores"
    if value.shape[-1] != size:
        return f"heads of {size} for queries and {value.shape[-1]} for values"
    if size % STEP or size > LARGEST:
        return f"heads of {size}: a multiple of {STEP} up to {LARGEST} is wanted"
    if query.dtype not in (torch.float16, torch.bfloat16):
        return f"numbers in {query.dtype}"
    return None


def varlen_attention(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, rule: Rule) -> Tensor:
    """As `segments.segment_attention`. All layers share what the kernel is told of the segments."""
    if KEY not in plan.made:
        lengths = [len(segment) for segment in plan.segments]
        ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=query.device)
        plan.made[KEY] = (ends, max(lengths))
    ends, longest = plan.made[KEY]
    out = _kernel()(
        *(one.transpose(0, 1) for one in (query, key, value)),
        ends,
        ends,
        longest,
        longest,
        scale=rule.scale,
        window_size=(-1 if rule.window is None else rule.window - 1, 0),  # behind and ahead of the query
        enable_gqa=len(query) != len(key),
    )
    return out.transpose(0, 1)


@cache
def _kernel() -> Any:
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


def differs(place: str, dtype: str) -> float:
    """By how much of the norm its values or gradients are away from the reference's in fp32, at most."""
    stops = list(accumulate(TRIED))
    plan = AttentionPlan(
        tuple(Segment(stop - size, stop, 0) for size, stop in zip(TRIED, stops, strict=True))
    )
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(heads, stops[-1], 64, generator=generator) for heads in (4, 2, 2)]
    rounded = [one.to(place, getattr(torch, dtype)) for one in drawn]
    gaps: list[float] = []
    for rule in TRIED_RULES:
        mine = _results(varlen_attention, rounded, plan, rule)
        truth = _results(
            segment_attention, [one.cpu().float() for one in rounded], AttentionPlan(plan.segments), rule
        )
        gaps += [float((a - b).norm() / b.norm()) for a, b in zip(mine, truth, strict=True)]
    return max(gaps, key=lambda gap: math.inf if math.isnan(gap) else gap)


def _results(form: Any, given: list[Tensor], plan: AttentionPlan, rule: Rule) -> list[Tensor]:
    inputs = [one.detach().clone().requires_grad_() for one in given]
    value = form(*inputs, plan, rule)
    grads = torch.autograd.grad(value.float().square().sum(), inputs)
    return [one.detach().cpu().double() for one in (value, *grads)]


@cache
def why_not(device: Device) -> str | None:
    """Why it isn't used there; None if it is. Tried once a process, in the format of its bases."""
    if device.is_cpu:
        return "a CPU has kernels of our own"
    try:
        dtype = str(torch_dtype(device.dense_dtype or "fp32")).removeprefix("torch.")
        gap = differs(str(device), dtype)
    except Exception as error:  # a torch without it, a card that is too old: each says so in its way
        refuse_shortage(error, "attention was tried on the GPU")
        return first_line(error)
    return None if gap <= NEAR[dtype] else f"{dtype}: {gap:.2g} apart"  # NaN too
