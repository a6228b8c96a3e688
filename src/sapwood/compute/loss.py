"""Cross-entropy where there is a target, and nowhere else.

The head is frozen, so the gradient of the hidden state can be computed in the same pass that computes the
loss. The pass goes over the vocabulary in parts and keeps, for each target, the largest logit so far, the sum
of exponentials below it, and the sum of the head's rows weighted with them (the streaming softmax of arXiv
1805.02867): each part of the head is read once, which is also when a packed one is unpacked, a [N,
vocabulary] tensor never exists, and the backward pass only multiplies by a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sapwood.native.loss import Streams, read_logits, suits
from sapwood.native.workspace import converted
from sapwood.types import Head, LossSum

ROWS, VOCABULARY = 1024, 4096  # targets and tokens at a time: fresh memory for more costs too much
PAD_TO = 32


class _LabelLoss(torch.autograd.Function):
    """rows: [N, D], targets: int64[N] -> sum of cross-entropies, fp32 scalar."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, targets: Tensor, head: Head) -> Tensor:
        parts = range(0, len(rows), ROWS)
        streams = [_Stream(rows[i : i + ROWS], targets[i : i + ROWS], head) for i in parts]
        for start, weight in _weights(head, rows.dtype):
            for stream in streams:
                stream.read(start, weight)
        total = torch.zeros((), dtype=torch.float32, device=rows.device)
        grad = torch.empty_like(rows) if rows.requires_grad else None
        for i, stream in zip(parts, streams, strict=True):
            losses, slopes = stream.end()
            total += losses.sum()
            if grad is not None and slopes is not None:
                grad[i : i + ROWS] = slopes
        if grad is not None:
            ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (grad,) = ctx.saved_tensors
        return grad * grad_total.to(grad.dtype), None, None


def _weights(head: Head, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """The head in parts, each with the number of its first token: [up to VOCABULARY, D] in the format of
    products. A part is gone when the next one comes."""
    for start in range(0, head.weight.shape[0], VOCABULARY):
        part = slice(start, min(start + VOCABULARY, head.weight.shape[0]))
        yield start, converted(head.weight[part], head.products or dtype)


class _Stream:
    """Cross-entropies of a few rows, and their gradient where it is asked for, part by part of the head.

    The target's own share of the gradient, p - 1, is added at the end: beside the others it would cancel.
    """

    def __init__(self, rows: Tensor, targets: Tensor, head: Head) -> None:
        self._size, self._head = len(rows), head
        self._rows, self._targets = (_padded(x, -len(rows) % PAD_TO) for x in (rows, targets))
        self._streams = Streams.of(self._targets)
        wide = rows.new_zeros(self._rows.shape, dtype=torch.float32) if rows.requires_grad else None
        self._others, self._own = wide, None if wide is None else wide.clone()

    def read(self, start: int, weight: Tensor) -> None:
        """A part of the head, whose first token is ``start``."""
        head, part = self._head, slice(start, start + len(weight))
        bias = None if head.bias is None else head.bias[part].to(weight.dtype)
        logits = torch.nn.functional.linear(self._rows.to(weight.dtype), weight, bias)
        read = read_logits if suits(logits) else _read_by_torch
        weigh = self._others is not None
        logits, shrink = read(
            logits, self._targets, start, head.softcap, head.scale, self._streams, weigh=weigh
        )
        if self._others is None or self._own is None:
            return
        self._others.mul_(shrink.unsqueeze(1))
        if weight.dtype == torch.float32:
            self._others.addmm_(logits, weight)
        else:
            self._others.add_(logits.to(weight.dtype) @ weight)
        here = ((self._targets >= part.start) & (self._targets < part.stop)).nonzero()[:, 0]
        self._own[here] = weight[self._targets[here] - start].float()

    def end(self) -> tuple[Tensor, Tensor | None]:
        """float32[N], and [N, D] where the rows take a gradient."""
        streams = self._streams
        losses = streams.top + streams.total.log() - streams.label
        if self._others is None or self._own is None:
            return losses[: self._size], None
        own = torch.expm1(-losses).mul_(streams.slope).unsqueeze(1)  # p - 1
        grad = self._others.div_(streams.total.unsqueeze(1)).addcmul_(own, self._own)
        return losses[: self._size], grad.mul_(self._head.scale).to(self._rows.dtype)[: self._size]


def _read_by_torch(
    logits: Tensor, targets: Tensor, start: int, softcap: float | None, scale: float, streams: Streams,
    *, weigh: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`native.loss.read_logits` by torch's operations."""
    logits, tanh = _finished(logits, softcap, scale)
    inside = (targets >= start) & (targets < start + logits.shape[1])
    at = (targets - start).clamp_(0, logits.shape[1] - 1).unsqueeze(1)
    streams.label = torch.where(inside, logits.gather(1, at).squeeze(1), streams.label)
    before, streams.top = streams.top, torch.maximum(streams.top, logits.amax(1))
    shrink = torch.exp(before - streams.top)
    weights = logits.sub_(streams.top.unsqueeze(1)).exp_()
    streams.total = streams.total.mul_(shrink).add_(weights.sum(1))
    if weigh:
        own = torch.where(inside, 0.0, weights.gather(1, at).squeeze(1))
        weights.scatter_(1, at, own.unsqueeze(1))
        if tanh is not None:
            slopes = tanh.square_().neg_().add_(1.0)
            streams.slope = torch.where(inside, slopes.gather(1, at).squeeze(1), streams.slope)
            weights.mul_(slopes)
    return weights, shrink


def _padded(x: Tensor, extra: int) -> Tensor:
    """``extra`` zero rows at the end: products come in few shapes, each of which a kernel prepares for
    once."""
    return torch.cat([x, x.new_zeros(extra, *x.shape[1:])]) if extra else x


def _finished(logits: Tensor, softcap: float | None, scale: float) -> tuple[Tensor, Tensor | None]:
    """Products with the head -> logits, fp32, and the tanh of the soft cap where there is one."""
    logits, tanh = logits.float(), None
    if softcap is not None:
        tanh = torch.tanh(logits / softcap)
        logits = tanh * softcap
    return (logits * scale if scale != 1.0 else logits), tanh


def _logits(rows: Tensor, head: Head) -> Tensor:
    """fp32 [N, vocabulary]."""
    return _finished(torch.nn.functional.linear(rows, head.weight[:], head.bias), head.softcap, head.scale)[0]


def label_loss(hidden: Tensor, predict_at: Tensor, targets: Tensor, head: Head) -> LossSum:
    """Sum of -log p(targets[i] | hidden[predict_at[i]]).

    hidden: [1, T, D] after the final norm; predict_at, targets: int64[N]. An empty N gives 0.
    """
    rows = hidden[0].index_select(0, predict_at)  # hidden_TD[predict_at] -> rows_ND
    if isinstance(head.weight, Tensor) and head.weight.requires_grad:
        return LossSum(_trained_head_loss(rows, targets, head.weight, head), len(targets))
    return LossSum(_LabelLoss.apply(rows, targets, head), len(targets))  # type: ignore[arg-type]


def _trained_head_loss(rows: Tensor, targets: Tensor, weight: Tensor, head: Head) -> Tensor:
    """The same sum where the head learns too (full fine-tuning): plain autograd over a few rows at a time,
    whose logits are computed again for the backward pass."""

    def part(rows: Tensor, targets: Tensor) -> Tensor:
        logits = _logits(rows, replace(head, weight=weight))
        return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")

    parts = zip(rows.split(ROWS), targets.split(ROWS), strict=True)
    return torch.stack([checkpoint(part, *both, use_reentrant=False) for both in parts]).sum()


def label_loss_reference(hidden: Tensor, predict_at: Tensor, targets: Tensor, head: Head) -> LossSum:
    """The slow truth: all logits, then `torch.nn.functional.cross_entropy`."""
    logits = _logits(hidden[0, predict_at], head)
    return LossSum(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"), len(targets))
