"""Cross-entropy where there is a target, and nowhere else.

The head is frozen, so the gradient of the hidden state can be computed in the same pass that computes the
loss, chunk by chunk: a [N, vocabulary] tensor never exists, and the backward pass only multiplies by a
number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sapwood.types import Head, LossSum

CHUNK_BYTES = 64 * 2**20  # of fp32 logits at a time: large enough for full matrix speed, small beside a pack

PAD_TO = 32


class _LabelLoss(torch.autograd.Function):
    """rows: [N, D], targets: int64[N] -> sum of cross-entropies, fp32 scalar."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, targets: Tensor, head: Head) -> Tensor:
        need_grad = rows.requires_grad
        chunk = max(PAD_TO, CHUNK_BYTES // (4 * head.weight.shape[0]))
        total = torch.zeros((), dtype=torch.float32, device=rows.device)
        grad = torch.empty_like(rows) if need_grad else None
        for start in range(0, len(rows), chunk):
            part, target = rows[start : start + chunk], targets[start : start + chunk]
            size = len(part)
            part, target = (_padded(x, -size % PAD_TO) for x in (part, target))
            logits, tanh = _logits(part, head)
            log_z = torch.logsumexp(logits, -1)
            total += (log_z - logits.gather(-1, target[:, None])[:, 0])[:size].sum()
            if grad is None:
                continue
            g = logits.sub_(log_z[:, None]).exp_()  # softmax, in place
            g.scatter_add_(1, target[:, None], g.new_full((len(target), 1), -1.0))
            if head.scale != 1.0:
                g.mul_(head.scale)
            if tanh is not None:
                g.mul_(1 - tanh * tanh)
            grad[start : start + size] = (g.to(rows.dtype) @ head.weight)[:size]
        if grad is not None:
            ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (grad,) = ctx.saved_tensors
        return grad * grad_total.to(grad.dtype), None, None


def _padded(x: Tensor, extra: int) -> Tensor:
    """``extra`` zero rows at the end: products come in few shapes, each of which a kernel prepares for
    once."""
    return torch.cat([x, x.new_zeros(extra, *x.shape[1:])]) if extra else x


def _logits(rows: Tensor, head: Head) -> tuple[Tensor, Tensor | None]:
    """fp32 [N, V], and the tanh of the soft cap where there is one."""
    logits = torch.nn.functional.linear(rows, head.weight, head.bias).float()
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
    return LossSum(_LabelLoss.apply(rows, targets, head), len(targets))  # type: ignore[arg-type]


def label_loss_reference(hidden: Tensor, predict_at: Tensor, targets: Tensor, head: Head) -> LossSum:
    """The slow truth: all logits, then `torch.nn.functional.cross_entropy`."""
    logits, _ = _logits(hidden[0, predict_at], head)
    return LossSum(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"), len(targets))
