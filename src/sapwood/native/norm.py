"""RMSNorm as compiled kernels (`kernels/norm.cpp`)."""

from __future__ import annotations

import torch
from torch import Tensor

from sapwood.native.call import FORMS, at, kernel


def norm_forward(
    x: Tensor, weight: Tensor, eps: float, saved_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """RMSNorm of x: [..., D], contiguous; weight: fp32[D] -> the same shape; x in ``saved_dtype``, to be kept
    (itself if it has that format); and 1 / root mean square, fp32[...]."""
    rows, width = x.numel() // x.shape[-1], x.shape[-1]
    y, rstd = torch.empty_like(x), torch.empty(x.shape[:-1])
    saved = x if x.dtype == saved_dtype else torch.empty(x.shape, dtype=saved_dtype)
    kernel("norm_forward")(
        FORMS[x.dtype, saved_dtype], torch.get_num_threads(), rows, width, at(x), at(weight), eps, at(y),
        None if saved is x else at(saved), at(rstd),
    )  # fmt: skip
    return y, saved, rstd


def norm_backward(grad: Tensor, saved: Tensor, weight: Tensor, rstd: Tensor) -> Tensor:
    """grad: [..., D], contiguous -> the input's gradient."""
    width = grad.shape[-1]
    grad_x = torch.empty_like(grad)
    kernel("norm_backward")(
        FORMS[grad.dtype, saved.dtype], torch.get_num_threads(), grad.numel() // width, width, at(grad),
        at(saved), at(weight), at(rstd), at(grad_x),
    )  # fmt: skip
    return grad_x
