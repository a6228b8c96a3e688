"""Attention over a pack: each segment sees itself causally, and its ancestors. Never a dense [T, T] mask.

Linears run over the packed tokens; attention takes the queries of a segment, in blocks if it is long, and
the keys of its chain: its ancestors' followed by its own. Key ``j`` of a chain stands at position ``j``, and
"visible" is simply ``j <= position of the query``.

Probabilities are kept for the backward pass while chains are short; for long ones they are computed again,
which keeps memory linear in the tokens. Source of the gradient: FlashAttention-2 (arXiv 2307.08691), section
3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapwood.types import Segment

BLOCK = 256  # queries of a long segment are computed in blocks of this many
KEEP_KEYS = 256  # up to so many keys a query, probabilities are cheaper to keep than to compute again
KEY = "reference"  # among what forms make of a plan


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """The segments of a pack; ``lead``: for each layer learnt keys and values [1, KV, P, D] in the place of
    the first P tokens'; ``made``: what each form made of the segments; ``saved_dtype``: the format to keep
    things in for the backward pass, where it isn't the inputs' own."""

    segments: tuple[Segment, ...]
    lead: tuple[tuple[Tensor, Tensor], ...] = ()
    made: dict[int | str | None, Any] = field(default_factory=dict[int | str | None, Any], compare=False)
    saved_dtype: torch.dtype | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """Queries of a segment, tokens ``start:stop`` of the pack, the first of them at ``position``; the tokens
    that the last one may see, by position: int64[K]."""

    start: int
    stop: int
    position: int
    keys: Tensor


def chain_of(segments: Sequence[Segment], index: int | None) -> np.ndarray:
    """Tokens of a segment and its ancestors, in order of position."""
    parts: list[np.ndarray] = []
    while index is not None:
        segment = segments[index]
        parts.append(np.arange(segment.start, segment.stop))
        index = segment.parent
    return np.concatenate(parts[::-1])


def blocks_of(segments: Sequence[Segment], device: torch.device | str = "cpu") -> list[Block]:
    """Every token once, as a query. A pure function of its arguments."""
    out: list[Block] = []
    for index, segment in enumerate(segments):
        chain = torch.from_numpy(chain_of(segments, index)).to(device)
        for start in range(0, len(segment), BLOCK):
            stop = min(start + BLOCK, len(segment))
            at, keys = segment.start, chain[: segment.position + stop]
            out.append(Block(at + start, at + stop, segment.position + start, keys))
    return out


@dataclass(frozen=True, slots=True)
class Rule:
    """How a layer attends: scores are q k^T times ``scale``. ``window``: a query sees the last ``window``
    positions, its own included (Gemma, Mistral). ``softcap``: scores become cap * tanh(score / cap) before
    the mask (Gemma 2).
    """

    scale: float
    window: int | None = None
    softcap: float | None = None


def _hidden(block: Block, window: int | None) -> Tensor:
    """bool[L, K]: True where key ``j`` (at position j) must not be seen."""
    keys = torch.arange(len(block.keys), device=block.keys.device)
    position = torch.arange(block.position, len(block.keys), device=block.keys.device)[:, None]
    hidden = keys > position
    return hidden if window is None else hidden | (keys <= position - window)


def _probabilities(q: Tensor, k: Tensor, block: Block, rule: Rule) -> tuple[Tensor, Tensor | None]:
    """q: [KV, G * L, D], k: [KV, K, D] -> probabilities [KV, G * L, K], and tanh of the soft cap."""
    scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=rule.scale)
    tanh = None
    if rule.softcap is not None:
        tanh = torch.tanh(scores / rule.softcap)
        scores = tanh * rule.softcap
    hidden = _hidden(block, rule.window)
    scores.view(len(q), -1, *hidden.shape).masked_fill_(hidden, float("-inf"))
    return torch.softmax(scores, -1), tanh


class SegmentAttention(torch.autograd.Function):
    """query: [KV, G, T, D]; key: [KV, T, D]; value: [KV, T, V] -> [KV, G, T, V]; G query heads share a key
    head. V differs from D in latent attention (DeepSeek)."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, rule: Rule
    ) -> Tensor:
        if KEY not in plan.made:
            plan.made[KEY] = blocks_of(plan.segments, query.device)
        saved_dtype = plan.saved_dtype or query.dtype
        out, saved = query.new_empty(*query.shape[:-1], value.shape[-1]), list[Tensor | None]()
        for block in plan.made[KEY]:
            rows = query[:, :, block.start : block.stop]
            k, v = key.index_select(1, block.keys), value.index_select(1, block.keys)
            p, _ = _probabilities(rows.flatten(1, 2), k, block, rule)
            out[:, :, block.start : block.stop] = torch.bmm(p, v).view(*rows.shape[:-1], -1)
            short = len(block.keys) <= KEEP_KEYS and rule.softcap is None
            saved.append(p.to(saved_dtype) if short else None)
        ctx.save_for_backward(*(x.to(saved_dtype) for x in (query, key, value)), *saved)
        ctx.blocks, ctx.rule, ctx.dtype = plan.made[KEY], rule, query.dtype
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query, key, value, *saved = ctx.saved_tensors
        query, key, value = (x.to(ctx.dtype) for x in (query, key, value))
        rule: Rule = ctx.rule
        # a shared prefix collects from all its children: summed in fp32 at least
        wide = torch.promote_types(key.dtype, torch.float32)
        grad_key, grad_value = (torch.zeros(x.shape, dtype=wide, device=x.device) for x in (key, value))
        grad_query = torch.empty_like(query)
        for block, p in zip(ctx.blocks, saved, strict=True):
            rows = query[:, :, block.start : block.stop]
            q, g = rows.flatten(1, 2), grad[:, :, block.start : block.stop].flatten(1, 2)
            k, v = key.index_select(1, block.keys), value.index_select(1, block.keys)
            p, tanh = _probabilities(q, k, block, rule) if p is None else (p.to(ctx.dtype), None)
            grad_p = torch.bmm(g, v.transpose(1, 2))
            grad_s = torch._softmax_backward_data(grad_p, p, -1, p.dtype)  # pyright: ignore[reportPrivateUsage]
            grad_s = grad_s if tanh is None else grad_s * (1 - tanh * tanh)
            grad_q = torch.baddbmm(q.new_empty(()), grad_s, k, beta=0, alpha=rule.scale)
            grad_query[:, :, block.start : block.stop] = grad_q.view(rows.shape)
            part = torch.baddbmm(q.new_empty(()), grad_s.transpose(1, 2), q, beta=0, alpha=rule.scale)
            grad_key.index_add_(1, block.keys, part.to(wide))
            grad_value.index_add_(1, block.keys, torch.bmm(p.transpose(1, 2), g).to(wide))
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None


def segment_attention(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, rule: Rule) -> Tensor:
    """query: [H, T, D]; key: [KV, T, D]; value: [KV, T, V] (H a multiple of KV) -> [H, T, V]."""
    out = SegmentAttention.apply(query.unflatten(0, (len(key), -1)), key, value, plan, rule)
    return out.flatten(0, 1)  # type: ignore[union-attr]
