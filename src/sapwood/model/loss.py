"""Cross-entropy where there is a target, and nowhere else.

The head is frozen, so the gradient of the hidden state can be computed in the same pass that computes the
loss. The pass goes over the vocabulary in parts and keeps, for each target, the largest logit so far, the sum
of exponentials below it, and the sum of the head's rows weighted with them (the streaming softmax of arXiv
1805.02867): each part of the head is read once, which is also when a packed one is unpacked, a [N,
vocabulary] tensor never exists, and the backward pass only multiplies by a number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sapwood.model.workspace import converted
from sapwood.types import Head, LossSum

ROWS, VOCABULARY = 1024, 4096  # targets and tokens at a time: fresh memory for more costs too much
PAD_TO = 32


class _LabelLoss(torch.autograd.Function):
    """rows: [N, D], targets: int64[N] -> sum of cross-entropies, fp32 scalar."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, targets: Tensor, head: Head) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=rows.device)
        grad = torch.empty_like(rows) if rows.requires_grad else None
        for start in range(0, len(rows), ROWS):
            part, target = rows[start : start + ROWS], targets[start : start + ROWS]
            size = len(part)
            part, target = (_padded(x, -size % PAD_TO) for x in (part, target))
            losses, part_grad = _stream(part, target, head, grad is not None)
            total += losses[:size].sum()
            if grad is not None and part_grad is not None:
                grad[start : start + size] = part_grad[:size]
        if grad is not None:
            ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (grad,) = ctx.saved_tensors
        return grad * grad_total.to(grad.dtype), None, None


def _stream(rows: Tensor, targets: Tensor, head: Head, need_grad: bool) -> tuple[Tensor, Tensor | None]:
    """Cross-entropies fp32[N] of a few rows, and their gradient [N, D] where asked for.

    The target's own share of the gradient, p - 1, is added at the end: beside the others it would cancel.
    """
    top = rows.new_full((len(rows),), -torch.inf, dtype=torch.float32)
    total, label, slope = torch.zeros_like(top), torch.zeros_like(top), torch.ones_like(top)
    products = head.products or rows.dtype
    wide = rows.to(products)
    others = rows.new_zeros(rows.shape, dtype=torch.float32) if need_grad else None
    for start in range(0, head.weight.shape[0], VOCABULARY):
        part = slice(start, min(start + VOCABULARY, head.weight.shape[0]))
        weight = converted(head.weight[part], products)
        logits, tanh = _logits(
            wide, weight, None if head.bias is None else head.bias[part].to(products), head
        )
        inside = (targets >= part.start) & (targets < part.stop)
        at = (targets - start).clamp_(0, len(weight) - 1).unsqueeze(1)
        label = torch.where(inside, logits.gather(1, at).squeeze(1), label)
        before, top = top, torch.maximum(top, logits.amax(1))
        shrink = torch.exp(before - top)
        weights = logits.sub_(top.unsqueeze(1)).exp_()
        total = total.mul_(shrink).add_(weights.sum(1))
        if others is None:
            continue
        weights.scatter_(1, at, torch.where(inside, 0.0, weights.gather(1, at).squeeze(1)).unsqueeze(1))
        if tanh is not None:
            slopes = tanh.square_().neg_().add_(1.0)
            slope = torch.where(inside, slopes.gather(1, at).squeeze(1), slope)
            weights.mul_(slopes)
        others.mul_(shrink.unsqueeze(1)).add_(weights.to(products) @ weight)
    losses = top + total.log() - label
    if others is None:
        return losses, None
    own = torch.expm1(-losses).mul_(slope).unsqueeze(1)  # p - 1
    grad = others.div_(total.unsqueeze(1)).addcmul_(own, head.weight[targets].float())
    return losses, grad.mul_(head.scale).to(rows.dtype)


def _padded(x: Tensor, extra: int) -> Tensor:
    """``extra`` zero rows at the end: products come in few shapes, each of which a kernel prepares for
    once."""
    return torch.cat([x, x.new_zeros(extra, *x.shape[1:])]) if extra else x


def _logits(rows: Tensor, weight: Tensor, bias: Tensor | None, head: Head) -> tuple[Tensor, Tensor | None]:
    """fp32 [N, V] of some rows of the head, and the tanh of the soft cap where there is one."""
    logits = torch.nn.functional.linear(rows, weight, bias).float()
    tanh = None
    if head.softcap is not None:
        tanh = torch.tanh(logits / head.softcap)
        logits = tanh * head.softcap
    return (logits * head.scale if head.scale != 1.0 else logits), tanh


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
        logits, _ = _logits(rows, weight, head.bias, head)
        return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")

    parts = zip(rows.split(ROWS), targets.split(ROWS), strict=True)
    return torch.stack([checkpoint(part, *both, use_reentrant=False) for both in parts]).sum()


def label_loss_reference(hidden: Tensor, predict_at: Tensor, targets: Tensor, head: Head) -> LossSum:
    """The slow truth: all logits, then `torch.nn.functional.cross_entropy`."""
    logits, _ = _logits(hidden[0, predict_at], head.weight[:], head.bias, head)
    return LossSum(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"), len(targets))
