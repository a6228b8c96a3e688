"""Attention over a pack and rotary positions by compiled kernels: one pass, no gathered copies, and nothing
kept but what comes in and a number for each row. `segments` is the reference."""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapwood.compute import fused
from sapwood.compute.attention.segments import AttentionPlan, Rule, chain_of
from sapwood.compute.backend import Backend
from sapwood.machine.shortage import refuse_shortage
from sapwood.native import attention, ops
from sapwood.native.attention import Blocks
from sapwood.types import Segment

QUERIES = 64  # of a block: their scores are to lie in the second cache
ROTARY = "apply_rotary_pos_emb"  # how transformers calls it, in the file of each architecture
KEY = "native"  # among what forms make of a plan


def blocks_of(segments: Sequence[Segment]) -> Blocks:
    """Every segment's queries in blocks, each with its chain. A pure function of its argument."""
    blocks: list[tuple[int, int, int, int]] = []
    chains: list[np.ndarray] = []
    at = 0
    for index, segment in enumerate(segments):
        chains.append(chain_of(segments, index))
        for start in range(0, len(segment), QUERIES):
            count = min(QUERIES, len(segment) - start)
            blocks.append((segment.start + start, count, segment.position + start, at))
        at += len(chains[-1])
    return Blocks(torch.tensor(blocks, dtype=torch.int64), torch.from_numpy(np.concatenate(chains)))


class NativeAttention(torch.autograd.Function):
    """query: [H, T, D]; key, value: [KV, T, D] -> [H, T, D]."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, rule: Rule
    ) -> Tensor:
        if KEY not in plan.made:
            plan.made[KEY] = blocks_of(plan.segments)
        ctx.rule = (plan.made[KEY], rule.scale, rule.softcap, rule.window)
        out, logs = attention.attention_forward(query, key, value, *ctx.rule)
        saved_dtype = plan.saved_dtype or query.dtype
        ctx.save_for_backward(*(x.to(saved_dtype) for x in (query, key, value)), logs)
        return out.transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad = grad if grad.stride(2) == 1 else grad.contiguous()
        grads = attention.attention_backward(grad, *ctx.saved_tensors, *ctx.rule)
        return (*(each.transpose(0, 1) for each in grads), None, None)


def native_attention(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, rule: Rule) -> Tensor:
    """As `segments.segment_attention`."""
    return NativeAttention.apply(query, key, value, plan, rule)  # type: ignore[return-value]


# --- rotary positions -------------------------------------------------------------------------------------


class Rotated(torch.autograd.Function):
    """x: [1, H, T, D]; cos, sin: [T, D] -> [1, H, T, D]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return attention.rotate(x[0], cos, sin).transpose(0, 1)[None]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        grad = grad if grad.stride(3) == 1 else grad.contiguous()
        return attention.rotate(grad[0], *ctx.saved_tensors, back=True).transpose(0, 1)[None], None, None


def _rotary(usual: Any, backend: Backend) -> Any:
    """``usual``, or a kernel if it has the usual form."""
    twins = _Twins()

    def rotary(*given: Any, **named: Any) -> Any:
        if named or len(given) != 4 or not all(isinstance(one, Tensor) for one in given):
            return usual(*given, **named)
        q, k, cos, sin = given
        dim = q.shape[-1]
        fits = cos.shape == sin.shape == (1, q.shape[2], dim) and dim % 2 == 0
        plain = fits and len(q) == 1 and q.dtype == k.dtype == cos.dtype and q.stride(3) == k.stride(3) == 1
        if plain and backend.fuses("rotary", q, cos) and twins.are(cos) and twins.are(sin):
            return fused.rotary(q, k, cos, sin)
        if not plain or dim % (2 * ops.LANES) or not backend.takes(dim, matmul_dtype=q.dtype):
            return usual(*given)
        cos, sin = cos[0].contiguous(), sin[0].contiguous()
        return Rotated.apply(q, cos, sin), Rotated.apply(k, cos, sin)

    return rotary


class _Twins:
    """Are the halves of a tensor equal? Layers share their angles, so a GPU is asked once a pass."""

    def __init__(self) -> None:
        self._seen: list[tuple[Tensor, bool]] = []

    def are(self, angles: Tensor) -> bool:
        known = next((equal for seen, equal in self._seen if seen is angles), None)
        if known is None:
            known = torch.equal(*angles.chunk(2, -1))
            self._seen = [*self._seen[-3:], (angles, known)]  # of two kinds of layers, at most
        return known


def _is_usual(function: Any) -> bool:
    """Does this function turn halves by their angles? Found by asking it."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, heads, 3, 32, generator=generator) for heads in (2, 1))
    angle = torch.randn(1, 3, 16, generator=generator).repeat(1, 1, 2)
    try:
        found = function(q, k, angle.cos(), angle.sin())
        expected = [
            x * angle.cos() + torch.cat([-x[..., 16:], x[..., :16]], -1) * angle.sin() for x in (q, k)
        ]
        return all(torch.allclose(x, y, rtol=1e-6, atol=1e-6) for x, y in zip(found, expected, strict=True))
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        refuse_shortage(error, "the rotary embedding was tried")
        return False


@contextmanager
def quick_rotary(decoder: Any, backend: Backend) -> Generator[None]:
    """Inside, the architecture's file calls the kernel where it would turn queries and keys by its own
    function, if that is the usual one and there are kernels."""
    found = sys.modules[type(decoder).__module__]
    usual = getattr(found, ROTARY, None)
    kernel = backend.native or "rotary" in backend.fused
    if not kernel or usual is None or not _is_usual(usual):
        yield
        return
    setattr(found, ROTARY, _rotary(usual, backend))
    try:
        yield
    finally:
        setattr(found, ROTARY, usual)
