"""Attention over a pack by FlexAttention, for CUDA: the plan of segments as a mask, asked token by token.

    row q sees column k   when k's segment is q's or an ancestor of it, k stands no later than q, and the
                          window reaches it

Blocks of the [T, T] square in which nobody sees anybody are skipped by the kernel (`BlockMask`). What the
kernel can't do is refused here, by `refusal`, and is then computed by `segments`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from sapwood.compute.attention.segments import AttentionPlan, Rule
from sapwood.machine.device import Device
from sapwood.types import Segment

SMALLEST_HEAD, LARGEST_HEAD = 16, 256  # of a compiled kernel; also a power of two
Mask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def visible(segments: Sequence[Segment], window: int | None, device: Any = "cpu") -> Mask:
    """(batch, head, q, k), any shapes that fit each other -> bool: does token q see token k?"""
    total, count = max(segment.stop for segment in segments), len(segments)
    segment_of = torch.zeros(total, dtype=torch.int64)
    position = torch.zeros(total, dtype=torch.int64)
    sees = torch.eye(count, dtype=torch.bool)
    for index, segment in enumerate(segments):
        segment_of[segment.start : segment.stop] = index
        position[segment.start : segment.stop] = torch.arange(
            segment.position, segment.position + len(segment)
        )
        if segment.parent is not None:  # parents come first
            sees[index] |= sees[segment.parent]
    segment_of, position, sees = segment_of.to(device), position.to(device), sees.to(device)

    def mask(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        seen = sees[segment_of[q], segment_of[k]] & (position[k] <= position[q])
        return seen if window is None else seen & (position[k] > position[q] - window)

    return mask


def block_mask(segments: Sequence[Segment], window: int | None, device: Any) -> Any:
    """The `BlockMask` of a pack."""
    from torch.nn.attention.flex_attention import create_block_mask

    total = max(segment.stop for segment in segments)
    return create_block_mask(visible(segments, window, device), None, None, total, total, device=str(device))


def flex_attention(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, rule: Rule) -> Tensor:
    """As `segments.segment_attention`. Layers with the same window share a mask."""
    softcap = rule.softcap
    if rule.window not in plan.made:
        plan.made[rule.window] = block_mask(plan.segments, rule.window, query.device)

    def capped(score: Tensor, batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)  # type: ignore[operator]

    out = _kernel(query.device.type)(
        query[None],
        key[None],
        value[None],
        score_mod=None if softcap is None else capped,
        block_mask=plan.made[rule.window],
        scale=rule.scale,
        enable_gqa=query.shape[0] != key.shape[0],
    )
    return out[0]


@cache
def _kernel(device: str) -> Any:
    """Compiled on CUDA; on a CPU the plain form, whose numbers the tests compare with."""
    from torch.nn.attention import flex_attention as torchs

    plain = torchs.flex_attention
    return torch.compile(plain, dynamic=True) if device == "cuda" else plain


def installed() -> bool:
    return find_spec("triton") is not None


def why_not(device: Device) -> str | None:
    """Why nothing can be compiled for it; None if something can."""
    if device.is_cpu:
        return "a CPU has kernels of our own"
    return None if installed() else "Triton isn't installed"


def refusal(query: Tensor, value: Tensor) -> str | None:
    """Why the compiled kernel can't do this; None if it can."""
    size = query.shape[-1]
    if value.shape[-1] != size:
        return f"heads of {size} for queries and {value.shape[-1]} for values"
    if (why := odd_size(size)) is not None:
        return why
    if query.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"numbers in {query.dtype}"
    return None


def odd_size(size: int) -> str | None:
    """Why the compiled kernel can't do heads of this size."""
    if SMALLEST_HEAD <= size <= LARGEST_HEAD and not size & (size - 1):
        return None
    return f"heads of {size}: a power of two from {SMALLEST_HEAD} to {LARGEST_HEAD} is wanted"
