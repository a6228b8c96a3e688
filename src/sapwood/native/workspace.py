"""Memory that is used again. Fresh memory comes from the system page by page, and for a matrix that can cost
more than the computation."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

_held = threading.local()


def workspace(name: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor whose memory is kept for the next one of the same name, for each thread: valid until then."""
    buffers: dict[tuple[str, torch.dtype, torch.device], Tensor] = _held.__dict__.setdefault("buffers", {})
    key, size = (name, dtype, device), math.prod(shape)
    found = buffers.get(key)
    if found is None or found.numel() < size:
        found = buffers[key] = torch.empty(size, dtype=dtype, device=device)
    return found[:size].view(*shape)


def converted(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """``weight`` in ``dtype``: itself, or a copy that is valid until the next call."""
    if weight.dtype == dtype:
        return weight
    return workspace("converted", weight.shape, dtype, weight.device).copy_(weight)
