"""Cross-entropy over parts of the vocabulary as a compiled kernel (`kernels/loss.cpp`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sapwood.native.call import FORMS, at, kernel


@dataclass(slots=True)
class Streams:
    """Softmaxes of N rows as far as the vocabulary was read, each fp32[N]: the largest logit; the sum of all
    exponentials below it; the target's logit, and its slope, if it was met."""

    top: Tensor
    total: Tensor
    label: Tensor
    slope: Tensor

    @staticmethod
    def of(targets: Tensor) -> Streams:
        """Before the first part. targets: int64[N]."""
        like = torch.zeros(len(targets), device=targets.device)
        return Streams(like - torch.inf, like, like.clone(), like + 1)


def read_logits(
    logits: Tensor, targets: Tensor, start: int, softcap: float | None, scale: float, streams: Streams,
    *, weigh: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """logits: [N, V], contiguous, of the tokens from ``start``, before the soft cap. Brings ``streams`` up to
    date, and returns the same memory, and fp32[N], what sums over former parts are to be multiplied with.

    weigh: what is returned are weights, exp(logit - top) times the soft cap's slope, but 0 for the target.
    """
    rows, size = logits.shape
    shrink = torch.empty(rows)
    kernel("read_logits")(
        FORMS[logits.dtype, logits.dtype], torch.get_num_threads(), rows, size, at(logits), at(targets),
        start, softcap or 0.0, scale, int(weigh), at(streams.top), at(streams.total), at(streams.label),
        at(streams.slope), at(shrink),
    )  # fmt: skip
    return logits, shrink
