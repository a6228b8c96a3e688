"""The slow truths that references and compiled forms are held against: nothing saved, nothing shared."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sapwood.base.storage.int8_linear import LEVELS, TINY, outliers_of
from sapwood.compute.attention.segments import AttentionPlan, Rule, chain_of
from sapwood.compute.backend import Backend
from sapwood.compute.loss import LossSum
from sapwood.machine.device import CPU
from sapwood.types import Head, Segment

FASTEST = Backend.of(CPU)


def dense_mask(segments: Sequence[Segment], window: int | None = None) -> Tensor:
    """bool[T, T]: row t sees column u."""
    total = max(segment.stop for segment in segments)
    seen = torch.zeros(total, total, dtype=torch.bool)
    for index, segment in enumerate(segments):
        chain = chain_of(segments, index)
        for token in range(segment.start, segment.stop):
            last = segment.position + token - segment.start + 1
            first = 0 if window is None else max(0, last - window)
            seen[token, torch.from_numpy(chain[first:last])] = True
    return seen


def dense_attention(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, rule: Rule) -> Tensor:
    """`segments.segment_attention` by one dense [T, T] mask and plain autograd."""
    heads = query.shape[0] // key.shape[0]
    scores = query @ key.repeat_interleave(heads, 0).transpose(1, 2) * rule.scale
    if rule.softcap is not None:
        scores = torch.tanh(scores / rule.softcap) * rule.softcap
    seen = dense_mask(plan.segments, rule.window).to(query.device)
    return scores.masked_fill(~seen, float("-inf")).softmax(-1) @ value.repeat_interleave(heads, 0)


def attention_by_lengths(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int,
    *, scale: float, window_size: tuple[int, int], enable_gqa: bool,
) -> Tensor:  # fmt: skip
    """`torch.nn.attention.varlen.varlen_attn` as its documentation has it. query, key, value: [T, H, D];
    sequence i is the rows from ends[i] to ends[i + 1]."""
    behind, ahead = window_size
    ends = cu_seq_q.tolist()
    assert cu_seq_q.dtype == torch.int32 and torch.equal(cu_seq_q, cu_seq_k) and ends[-1] == len(query)
    assert max_q == max_k == max(b - a for a, b in pairwise(ends))
    assert enable_gqa == (query.shape[1] != key.shape[1])
    out: list[Tensor] = []
    for start, stop in pairwise(ends):
        q, k, v = (one[start:stop].float().transpose(0, 1) for one in (query, key, value))
        k, v = (one.repeat_interleave(len(q) // len(one), 0) for one in (k, v))
        at = torch.arange(stop - start)
        ahead_by = at[None] - at[:, None]
        seen = ((ahead_by <= ahead) | (ahead < 0)) & ((-ahead_by <= behind) | (behind < 0))
        scores = (q @ k.transpose(1, 2) * scale).masked_fill(~seen, float("-inf"))
        out.append((scores.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(out).to(query.dtype)


def whole_loss(
    hidden: Tensor,
    predict_at: Tensor,
    targets: Tensor,
    head: Head,
    _: Backend = FASTEST,
    weights: Tensor | None = None,
) -> LossSum:
    """`loss.label_loss` by all logits, then `torch.nn.functional.cross_entropy`."""
    logits = torch.nn.functional.linear(hidden[0, predict_at], head.weight[:], head.bias).float()
    if head.softcap is not None:
        logits = torch.tanh(logits / head.softcap) * head.softcap
    logits = logits * head.scale
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    return LossSum((losses if weights is None else losses * weights).sum(), len(targets))


def rounded_product(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """x: [T, in], codes: int8[out, in], scale: fp32[out, 1] -> [T, out]: the product of `Int8Weight` in
    double precision."""
    wide = x.double()
    exact = torch.zeros_like(wide)
    if count := outliers_of(*codes.T.shape):
        at = wide.abs().amax(0).topk(count).indices
        exact[:, at] = wide[:, at]
    rest = wide - exact
    row_scale = (rest.abs().amax(1, keepdim=True) / LEVELS).clamp(min=TINY)
    rounded = (rest / row_scale).round() * row_scale + exact
    return (rounded @ (codes.double() * scale).T).to(x.dtype)
