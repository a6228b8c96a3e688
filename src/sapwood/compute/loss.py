"""Cross-entropy where there is a target, and nowhere else.

The gradient of the hidden state is computed in the same pass that computes the loss. The pass goes over the
vocabulary in parts and keeps, for each target, the largest logit so far, the sum of exponentials below it,
and the sum of the head's rows weighted with them (the streaming softmax of arXiv 1805.02867): each part of
the head is read once, which is also when a packed one is unpacked, a [N, vocabulary] tensor never exists, and
the backward pass only multiplies by a number. Only if the head itself learns (full fine-tuning), it goes
over the vocabulary once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sapwood.compute.backend import Backend
from sapwood.compute.fused import cross_entropy
from sapwood.native import loss as native
from sapwood.native.loss import Streams
from sapwood.native.workspace import converted
from sapwood.types import Head

ROWS, VOCABULARY = 1024, 4096  # targets and tokens at a time: fresh memory for more costs too much
PAD_TO = 32
Read = Callable[..., tuple[Tensor, Tensor]]  # `read_logits`, or its compiled form


@dataclass(frozen=True, slots=True)
class LossSum:
    """``total`` is a sum over ``num_targets`` targets, each times its weight; it is divided once, per
    optimizer step, by the sum of their weights."""

    total: torch.Tensor
    num_targets: int


class _LabelLoss(torch.autograd.Function):
    """rows: [N, D], targets: int64[N] -> sum of cross-entropies, fp32 scalar. weight, bias: the head's own
    if they take a gradient. counts: fp32[N], what each of them is multiplied with, or None."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor | None, bias: Tensor | None, targets: Tensor, head: Head,
        read: Read, counts: Tensor | None,
    ) -> Tensor:  # fmt: skip
        parts = [slice(i, i + ROWS) for i in range(0, len(rows), ROWS)]
        streams = [_Stream(rows[few], targets[few], head, read) for few in parts]
        for start, part in _weights(head, rows.dtype):
            for stream in streams:
                stream.read(start, part)
        ends = [
            stream.end(None if counts is None else counts[few])
            for stream, few in zip(streams, parts, strict=True)
        ]
        if rows.requires_grad:
            slopes = [slope for _, slope in ends if slope is not None]
            grad = torch.cat(slopes) if slopes else torch.empty_like(rows)
            trained = weight is not None or bias is not None
            ctx.save_for_backward(grad, *((rows, targets, _logs(streams, rows)) if trained else ()))
        ctx.head, ctx.counts = head, counts
        return sum((losses.sum() for losses, _ in ends), torch.zeros((), device=rows.device))

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad, *others = ctx.saved_tensors
        of_weight = of_bias = None
        if others:
            rows, targets, logs = others
            of_weight, of_bias = _head_gradients(ctx.head, rows, targets, logs, grad_total, ctx.counts)
        _, weight_learns, bias_learns, *_ = ctx.needs_input_grad
        own = of_weight if weight_learns else None, of_bias if bias_learns else None
        return grad * grad_total.to(grad.dtype), *own, None, None, None, None


def _logs(streams: Sequence[_Stream], rows: Tensor) -> Tensor:
    """fp32[N]: the logarithm of each softmax's sum."""
    return torch.cat([stream.log_sum() for stream in streams]) if streams else rows.new_empty(0)


def _head_gradients(
    head: Head, rows: Tensor, targets: Tensor, logs: Tensor, factor: Tensor, counts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The gradients of a trained head's weight, [vocabulary, D], and bias, times ``factor``."""
    grad, grad_bias = rows.new_zeros(head.weight.shape), rows.new_zeros(head.weight.shape[0])
    for at in range(0, len(rows), ROWS):
        few = slice(at, at + ROWS)
        for start, weight in _weights(head, rows.dtype):
            part = slice(start, start + len(weight))
            logits, tanh = _finished(_products(rows[few], weight, head, part), head.softcap, head.scale)
            slopes = logits.sub_(logs[few].unsqueeze(1)).exp_()
            inside = ((targets[few] >= start) & (targets[few] < part.stop)).nonzero()[:, 0]
            slopes[inside, targets[few][inside] - start] -= 1.0  # p - 1
            slopes = slopes if tanh is None else slopes.mul_(1.0 - tanh.square())
            slopes = slopes.mul_(factor * head.scale)
            slopes = (slopes if counts is None else slopes.mul_(counts[few].unsqueeze(1))).to(rows.dtype)
            grad[part].addmm_(slopes.T, rows[few])
            grad_bias[part] += slopes.sum(0)
    return grad, grad_bias


def _weights(head: Head, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """The head in parts, each with the number of its first token: [up to VOCABULARY, D] in the format of
    products. A part is gone when the next one comes."""
    for start in range(0, head.weight.shape[0], VOCABULARY):
        part = slice(start, min(start + VOCABULARY, head.weight.shape[0]))
        yield start, converted(head.weight[part], head.matmul_dtype or dtype)


def _products(rows: Tensor, weight: Tensor, head: Head, part: slice) -> Tensor:
    """[N, tokens of the part], before scale and soft cap."""
    bias = None if head.bias is None else head.bias[part].to(weight.dtype)
    return torch.nn.functional.linear(rows.to(weight.dtype), weight, bias)


class _Stream:
    """Cross-entropies of a few rows, and their gradient if it is asked for, part by part of the head.

    The target's own share of the gradient, p - 1, is added at the end: beside the others it would cancel.
    """

    def __init__(self, rows: Tensor, targets: Tensor, head: Head, read: Read) -> None:
        self._size, self._head, self._read = len(rows), head, read
        self._rows, self._targets = (_padded(x, -len(rows) % PAD_TO) for x in (rows, targets))
        self._streams = Streams.of(self._targets)
        wide = rows.new_zeros(self._rows.shape, dtype=torch.float32) if rows.requires_grad else None
        self._others, self._own = wide, None if wide is None else wide.clone()

    def read(self, start: int, weight: Tensor) -> None:
        """A part of the head, whose first token is ``start``."""
        head, part = self._head, slice(start, start + len(weight))
        logits = _products(self._rows, weight, head, part)
        weigh = self._others is not None
        logits, shrink = self._read(
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

    def log_sum(self) -> Tensor:
        """fp32[N]: the logarithm of the sum of all exponentials."""
        return (self._streams.top + self._streams.total.log())[: self._size]

    def end(self, counts: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """float32[N], and [N, D] if the rows take a gradient; both times ``counts``, fp32[N], if given."""
        streams = self._streams
        losses = streams.top + streams.total.log() - streams.label
        found = losses[: self._size] if counts is None else losses[: self._size] * counts
        if self._others is None or self._own is None:
            return found, None
        own = torch.expm1(-losses).mul_(streams.slope).unsqueeze(1)  # p - 1
        grad = self._others.div_(streams.total.unsqueeze(1)).addcmul_(own, self._own).mul_(self._head.scale)
        if counts is not None:
            grad[: self._size].mul_(counts.unsqueeze(1))
        return found, grad.to(self._rows.dtype)[: self._size]


def read_logits(
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
    """Products with the head -> logits, fp32, and the tanh of the soft cap if there is one."""
    logits, tanh = logits.float(), None
    if softcap is not None:
        tanh = torch.tanh(logits / softcap)
        logits = tanh * softcap
    return (logits * scale if scale != 1.0 else logits), tanh


def label_loss(
    hidden: Tensor,
    predict_at: Tensor,
    targets: Tensor,
    head: Head,
    backend: Backend,
    weights: Tensor | None = None,
) -> LossSum:
    """Sum of -weights[i] * log p(targets[i] | hidden[predict_at[i]]).

    hidden: [1, T, D] after the final norm; predict_at, targets: int64[N]; weights: fp32[N], or None for 1
    each. An empty N gives 0.
    """
    rows = hidden[0].index_select(0, predict_at)  # hidden_TD[predict_at] -> rows_ND
    read = native.read_logits if backend.takes(matmul_dtype=head.matmul_dtype or rows.dtype) else read_logits
    weight, bias = (
        x if isinstance(x, Tensor) and x.requires_grad else None for x in (head.weight, head.bias)
    )
    if weight is None and bias is None and weights is None and _fused(rows, head, backend):
        return LossSum(_by_liger(rows, targets, head), len(targets))
    total = _LabelLoss.apply(rows, weight, bias, targets, head, read, weights)
    return LossSum(total, len(targets))  # type: ignore[arg-type]


def _fused(rows: Tensor, head: Head, backend: Backend) -> bool:
    """Does liger-kernel compute this frozen head's loss? It knows no factor behind a soft cap."""
    plain = isinstance(head.weight, Tensor) and head.matmul_dtype in (None, rows.dtype)
    known = head.scale == 1.0 or head.softcap is None
    return bool(plain and known and len(rows)) and backend.fuses("loss", rows, head.weight)  # type: ignore[arg-type]


def _by_liger(rows: Tensor, targets: Tensor, head: Head) -> Tensor:
    """A factor of the logits multiplies what they are made of."""
    bias = head.bias
    if head.scale != 1.0:
        rows, bias = rows * head.scale, None if bias is None else bias * head.scale
    bias = None if bias is None else bias.to(rows.dtype)
    return cross_entropy(rows, head.weight, bias, targets, head.softcap)  # type: ignore[arg-type]
