"""Dropout masks from a counter: drawn when needed, drawn again in the backward pass, never stored.

A mask is a pure function of (seed, step, pack, input), so a resumed run, a recomputed layer and the backward
pass all see the same one, and nothing else that draws random numbers can shift it.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BITS = 15  # random bits an element: the keep rate is exact to 1 / 32,768
LEVELS = 2**BITS


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
    """int16[shape], all bits set where an element is kept and none where it is dropped, with probability
    ``rate``.

    Bits rather than bools, because masking is then one bitwise "and", whatever the number format. numpy's
    SFC64 is the fastest generator at hand, and its stream is fixed by numpy's compatibility policy.
    """
    size = math.prod(shape)
    words = np.random.SFC64(seed).random_raw((size + 3) // 4)
    bits = torch.from_numpy(words.view(np.int16)[:size]).bitwise_and_(LEVELS - 1)
    last = torch.tensor(min(round(rate * LEVELS), LEVELS - 1) - 1, dtype=torch.int16)  # that is dropped
    return torch.sub(last, bits, out=bits).bitwise_right_shift_(BITS).view(shape)  # the sign, in every bit


def masked(x: Tensor, keep: Tensor) -> Tensor:
    """``x`` where ``keep`` has its bits set, zero elsewhere; not rescaled."""
    integer = _INTEGER[x.element_size()]
    return (x.view(integer) & keep.to(x.device, integer)).view(x.dtype)


_INTEGER = {
    2: torch.int16,
    4: torch.int32,
    8: torch.int64,
}  # widening a mask extends its sign: all bits or none


def drop(x: Tensor, rate: float, seed: int) -> Tensor:
    """``x`` with some elements zeroed and the rest scaled by 1 / (1 - rate)."""
    return masked(x, keep_mask(x.shape, rate, seed)) / (1 - rate) if rate else x
