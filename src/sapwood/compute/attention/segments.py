"""Attention over a pack: each segment sees itself causally, and its ancestors. Never a dense [T, T] mask.

Linears run over the packed tokens; attention gathers the segments into a few padded groups, and computes
each as batched products. The keys of a segment are its chain of ancestors followed by itself, so key ``j``
of a chain stands at position ``j``, and "visible" is simply ``j <= position of the query``.

    queries [S, L]   one row per segment (or per block of a long one)
    keys    [S, K]   its chain; K >= L

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
MAX_WASTE = 1.25  # a group may compute this many times the scores that its members need
SHAPE_STEP = 16  # queries and keys of a group are padded to a multiple of this
KEEP_KEYS = 256  # up to so many keys a query, probabilities are cheaper to keep than to compute again


@dataclass(frozen=True, slots=True)
class Group:
    """Query blocks of similar shape, padded to one another.

    query: int64[S, L] and key: int64[S, K], token indices. query_position: int64[S, L], -1 where padded:
    padded queries repeat their block's first token, and their output is dropped. padded: is there any?
    """

    query: Tensor
    key: Tensor
    query_position: Tensor
    padded: bool


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """groups; ``restore``: int64[T], where token t stands among the groups' flattened queries; the segments;
    ``lead``: for each layer learnt keys and values [1, KV, P, D] in the place of the first P tokens'; the
    masks, by window, and blocks that other kernels made of the segments; ``kept``: the format to keep things
    in for the backward pass, where it isn't the inputs' own."""

    groups: tuple[Group, ...]
    restore: Tensor
    segments: tuple[Segment, ...]
    lead: tuple[tuple[Tensor, Tensor], ...] = ()
    masks: dict[int | str | None, Any] = field(default_factory=dict[int | str | None, Any], compare=False)
    kept: torch.dtype | None = None


def plan_attention(segments: Sequence[Segment], *, device: str = "cpu", block: int = BLOCK) -> AttentionPlan:
    """Group the segments of a pack by shape. A pure function of its arguments."""
    blocks = [b for index in range(len(segments)) for b in _blocks(segments, index, block)]
    blocks.sort(key=lambda b: (len(b[0]), len(b[1])), reverse=True)
    groups = [_group(members) for members in _similar(blocks)]
    restore = np.empty(max(segment.stop for segment in segments), np.int64)
    at = 0
    for query, _, position in groups:
        real = position.ravel() >= 0
        restore[query.ravel()[real]] = at + np.flatnonzero(real)
        at += query.size

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device)

    return AttentionPlan(
        tuple(Group(tensor(q), tensor(k), tensor(p), bool((p < 0).any())) for q, k, p in groups),
        tensor(restore),
        tuple(segments),
    )


_Block = tuple[np.ndarray, np.ndarray, int]  # query tokens, key tokens, position of the first query


def chain_of(segments: Sequence[Segment], index: int | None) -> np.ndarray:
    """Tokens of a segment and its ancestors, in order of position."""
    parts: list[np.ndarray] = []
    while index is not None:
        segment = segments[index]
        parts.append(np.arange(segment.start, segment.stop))
        index = segment.parent
    return np.concatenate(parts[::-1])


def _blocks(segments: Sequence[Segment], index: int, block: int) -> list[_Block]:
    segment = segments[index]
    chain = chain_of(segments, index)
    out: list[_Block] = []
    for start in range(0, len(segment), block):
        stop = min(start + block, len(segment))
        query = np.arange(segment.start + start, segment.start + stop)
        out.append((query, chain[: segment.position + stop], segment.position + start))
    return out


def _similar(blocks: Sequence[_Block]) -> list[list[_Block]]:
    """Split the sorted blocks where padding to the largest would waste too much."""
    groups: list[list[_Block]] = []
    needed = wide = long = 0
    for b in blocks:
        own = len(b[0]) * len(b[1])
        if groups:
            wider, longer = max(wide, len(b[1])), max(long, len(b[0]))
            if (len(groups[-1]) + 1) * wider * longer <= MAX_WASTE * (needed + own):
                groups[-1].append(b)
                needed, wide, long = needed + own, wider, longer
                continue
        groups.append([b])
        needed, wide, long = own, len(b[1]), len(b[0])
    return groups


def _round_up(extent: int) -> int:
    """Few distinct shapes: each new one costs a kernel its preparation."""
    return -(-extent // SHAPE_STEP) * SHAPE_STEP


def _group(members: Sequence[_Block]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    num_queries = _round_up(max(len(query) for query, _, _ in members))
    num_keys = _round_up(max(len(key) for _, key, _ in members))
    query = np.empty((len(members), num_queries), np.int64)
    key = np.empty((len(members), num_keys), np.int64)
    position = np.full((len(members), num_queries), -1, np.int64)
    for s, (q, k, first) in enumerate(members):
        query[s] = np.pad(q, (0, num_queries - len(q)), constant_values=q[0])
        key[s] = np.pad(k, (0, num_keys - len(k)), constant_values=k[0])
        position[s, : len(q)] = np.arange(first, first + len(q))
    return query, key, position


def hidden_from(query_position: Tensor, num_keys: int, window: int | None) -> Tensor:
    """bool[..., L, K]: True where key ``j`` (at position j) must not be seen. Key 0 is open to padded
    queries."""
    key_position = torch.arange(num_keys, device=query_position.device)
    position = query_position.clamp(min=0)[..., None]
    hidden = key_position > position
    return hidden if window is None else hidden | (key_position <= position - window)


@dataclass(frozen=True, slots=True)
class Rule:
    """How a layer attends: scores are q k^T times ``scale``. ``window``: a query sees the last ``window``
    positions, its own included (Gemma, Mistral). ``softcap``: scores become cap * tanh(score / cap) before
    the mask (Gemma 2).
    """

    scale: float
    window: int | None = None
    softcap: float | None = None


def _probabilities(q: Tensor, k: Tensor, group: Group, rule: Rule) -> tuple[Tensor, Tensor | None]:
    """q: [KV * S, G * L, D], k: [KV * S, K, D] -> probabilities [KV * S, G * L, K], and tanh of the soft
    cap."""
    scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=rule.scale)
    tanh = None
    if rule.softcap is not None:
        tanh = torch.tanh(scores / rule.softcap)
        scores = tanh * rule.softcap
    hidden = hidden_from(group.query_position, k.shape[1], rule.window)  # [S, L, K]
    num_segments, num_queries, num_keys = hidden.shape
    view = scores.view(-1, num_segments, scores.shape[1] // num_queries, num_queries, num_keys)
    view.masked_fill_(hidden[:, None], float("-inf"))
    return torch.softmax(scores, -1), tanh


def _query_index(group: Group, heads: int, length: int) -> Tensor:
    """int64[S * G * L]: rows of a [G * T] axis, so that one gather folds the query heads of a key head
    together."""
    head = torch.arange(heads, device=group.query.device)[None, :, None] * length
    return (group.query[:, None, :] + head).flatten()


def _take(x: Tensor, index: Tensor, num_segments: int) -> Tensor:
    """[KV, N, D] -> [KV * S, len(index) / S, D]."""
    return x.index_select(1, index).view(x.shape[0] * num_segments, -1, x.shape[2])


def _restore(parts: Sequence[Tensor], plan: AttentionPlan, kv: int, heads: int) -> Tensor:
    """Undo the gathering of queries: parts of [KV * S, G * L, D] -> [KV, G, T, D]."""
    dim = parts[0].shape[-1]
    flat: list[Tensor] = []
    for part, group in zip(parts, plan.groups, strict=True):
        num_segments, num_queries = group.query.shape
        by_head = part.view(kv, num_segments, heads, num_queries, dim).transpose(1, 2)
        flat.append(by_head.reshape(kv, heads, -1, dim))
    joined = flat[0] if len(flat) == 1 else torch.cat(flat, 2)
    return joined.index_select(2, plan.restore)


class _SegmentAttention(torch.autograd.Function):
    """query: [KV, G, T, D]; key: [KV, T, D]; value: [KV, T, V] -> [KV, G, T, V]; G query heads share a key
    head. V differs from D in latent attention (DeepSeek)."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, rule: Rule
    ) -> Tensor:
        kv, heads, length, dim = query.shape
        flat = query.reshape(kv, heads * length, dim)
        form = plan.kept or query.dtype
        parts: list[Tensor] = []
        kept: list[Tensor | None] = []
        for group in plan.groups:
            num_segments, num_keys = group.key.shape
            q = _take(flat, _query_index(group, heads, length), num_segments)
            k, v = (_take(x, group.key.flatten(), num_segments) for x in (key, value))
            p, _ = _probabilities(q, k, group, rule)
            parts.append(torch.bmm(p, v))
            kept.append(p.to(form) if num_keys <= KEEP_KEYS and rule.softcap is None else None)
        ctx.save_for_backward(query.to(form), key.to(form), value.to(form), *kept)
        ctx.plan, ctx.rule, ctx.dtype = plan, rule, query.dtype
        return _restore(parts, plan, kv, heads)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query, key, value, *kept = ctx.saved_tensors
        query, key, value = (x.to(ctx.dtype) for x in (query, key, value))
        plan, rule = ctx.plan, ctx.rule
        kv, heads, length, dim = query.shape
        flat, flat_grad = (x.reshape(kv, heads * length, -1) for x in (query, grad))
        # a shared prefix collects from all its children: summed in fp32 at least
        wide = torch.promote_types(key.dtype, torch.float32)
        grad_key, grad_value = (torch.zeros(x.shape, dtype=wide, device=x.device) for x in (key, value))
        parts: list[Tensor] = []
        for group, p in zip(plan.groups, kept, strict=True):
            num_segments = len(group.key)
            index, key_index = _query_index(group, heads, length), group.key.flatten()
            q, g = _take(flat, index, num_segments), _take(flat_grad, index, num_segments)
            k, v = (_take(x, key_index, num_segments) for x in (key, value))
            tanh = None
            if p is None:
                p, tanh = _probabilities(q, k, group, rule)
            p = p.to(ctx.dtype)
            if group.padded:
                real = (group.query_position >= 0).to(g.dtype)
                g.view(kv, num_segments, heads, -1, g.shape[-1]).mul_(real[:, None, :, None])
            grad_p = torch.bmm(g, v.transpose(1, 2))
            grad_s = torch._softmax_backward_data(grad_p, p, -1, p.dtype)  # pyright: ignore[reportPrivateUsage]
            if tanh is not None and rule.softcap is not None:
                grad_s = grad_s * (1 - tanh * tanh)
            parts.append(torch.baddbmm(q.new_empty(()), grad_s, k, beta=0, alpha=rule.scale))
            part_k = torch.baddbmm(q.new_empty(()), grad_s.transpose(1, 2), q, beta=0, alpha=rule.scale)
            part_v = torch.bmm(p.transpose(1, 2), g)
            grad_key.index_add_(1, key_index, part_k.view(kv, -1, dim).to(wide))
            grad_value.index_add_(1, key_index, part_v.view(kv, -1, part_v.shape[-1]).to(wide))
        return (
            _restore(parts, plan, kv, heads),
            grad_key.to(key.dtype),
            grad_value.to(value.dtype),
            None,
            None,
        )


def segment_attention(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, rule: Rule) -> Tensor:
    """query: [H, T, D]; key: [KV, T, D]; value: [KV, T, V] (H a multiple of KV) -> [H, T, V]."""
    kv = key.shape[0]
    folded = query.view(kv, -1, *query.shape[1:]) if query.is_contiguous() else query.unflatten(0, (kv, -1))
    out = _SegmentAttention.apply(folded, key, value, plan, rule)
    return out.flatten(0, 1)  # type: ignore[union-attr]


def segment_attention_reference(
    query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, rule: Rule
) -> Tensor:
    """The slow truth: one dense [T, T] mask, plain autograd."""
    heads = query.shape[0] // key.shape[0]
    scores = query @ key.repeat_interleave(heads, 0).transpose(1, 2) * rule.scale
    if rule.softcap is not None:
        scores = torch.tanh(scores / rule.softcap) * rule.softcap
    seen = dense_mask(plan.segments, rule.window).to(query.device)
    return scores.masked_fill(~seen, float("-inf")).softmax(-1) @ value.repeat_interleave(heads, 0)


def dense_mask(segments: Sequence[Segment], window: int | None = None) -> Tensor:
    """bool[T, T]: row t sees column u."""
    total = max(segment.stop for segment in segments)
    seen = torch.zeros(total, total, dtype=torch.bool)
    for index, segment in enumerate(segments):
        chain = torch.from_numpy(chain_of(segments, index))
        position = torch.arange(segment.position, segment.position + len(segment))
        seen[segment.start : segment.stop, chain] = ~hidden_from(position, len(chain), window)
    return seen
