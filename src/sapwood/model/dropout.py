"""Dropout masks from a counter: drawn when needed, drawn again in the backward pass, never stored.

A mask is a pure function of (seed, step, pack, input), so a resumed run, a recomputed layer and the backward
pass all see the same one, and nothing else that draws random numbers can shift it.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = 2**16  # 16 random bits an element: the keep rate is exact to 1 / 65,536


@dataclass(slots=True)
class DropoutClock:
    """Where the run is. One object is shared by all layers; the loop moves it on before each pack."""

    seed: int = 0
    step: int = 0
    pack: int = 0

    def at(self, layer: int) -> int:
        """A 63-bit seed for the mask of input ``layer``, now."""
        counter = struct.pack("<4q", self.seed, self.step, self.pack, layer)
        return int.from_bytes(hashlib.blake2b(counter, digest_size=8).digest(), "little") >> 1


def keep_mask(shape: torch.Size | tuple[int, ...], rate: float, seed: int) -> Tensor:
    """bool[shape], False with probability ``rate`` (to 1 / 65,536)."""
    size = 1
    for extent in shape:
        size *= extent
    words = torch.empty((size + 3) // 4, dtype=torch.int64)
    words.random_(-(2**63), None, generator=torch.Generator().manual_seed(seed))
    lowest = min(round(rate * LEVELS), LEVELS - 1) - LEVELS // 2  # int16 holds no LEVELS // 2
    return (words.view(torch.int16)[:size] >= lowest).view(shape)


def drop(x: Tensor, rate: float, seed: int) -> Tensor:
    """``x`` with some elements zeroed and the rest scaled by 1 / (1 - rate)."""
    if rate == 0:
        return x
    keep = keep_mask(x.shape, rate, seed).to(x.device)
    return torch.where(keep, x, 0).mul_(1 / (1 - rate))
