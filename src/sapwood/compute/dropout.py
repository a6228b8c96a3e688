"""Dropout masks from a counter: drawn when needed, drawn again in the backward pass, never stored.

A mask is a pure function of (seed, step, pack, input, row, column). A resumed run, a recomputed layer, the
backward pass and another device all see the same one, and nothing else that draws numbers can shift it.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapwood.native.ops import LANES, Dropout

CHUNK = 8 * LANES  # columns whose bits come from the same counters
AT_ONCE = 1 << 16  # counters: what is computed of them stays in a processor's cache
LOW = 0xFFFFFFFF  # 32 bits


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


def keep_mask(rows: int, columns: int, drop: Dropout, device: torch.device | str = "cpu") -> Tensor:
    """bool[rows, columns]: is an element kept? The bits of `native.ops.keep_mask`, whatever the device.

    A counter's eight numbers of 16 bits belong to eight columns, `LANES` apart. On a CPU numpy computes them:
    torch would have its threads meet after each of a hundred small operations.
    """
    chunks = -(-columns // CHUNK)
    kept: Any = torch.empty(rows, chunks, 8, LANES, dtype=torch.bool, device=device)
    lane: Any = torch.arange(chunks * LANES, dtype=torch.int32, device=device)[None]
    row: Any = torch.arange(rows, dtype=torch.int32, device=device)[:, None]
    out, lane, row = (
        (x.numpy() for x in (kept, lane, row)) if kept.device.type == "cpu" else (kept, lane, row)
    )
    step = max(1, AT_ONCE // lane.shape[1])
    for start in range(0, rows, step):
        part = slice(start, start + step)
        words = _philox(lane, row[part], drop.seed)
        numbers = [word & 0xFFFF for word in words] + [word >> 16 & 0xFFFF for word in words]
        for i, number in enumerate(numbers):
            out[part, :, i] = (number >= drop.level).reshape(-1, chunks, LANES)
    return kept.view(rows, -1)[:, :columns]


def _philox(a: Any, b: Any, seed: int) -> tuple[Any, Any, Any, Any]:
    """Philox4x32 with 7 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) of the
    counters (a, b, 0, 0), which are broadcast. int32 arrays of numpy or torch, whose bits are unsigned."""
    c = d = a[:1, :1] * 0
    key = seed & LOW, seed >> 32
    for _ in range(7):
        (high_a, low_a), (high_c, low_c) = _product(a, 0xD2511F53), _product(c, 0xCD9E8D57)
        a, b, c, d = high_c ^ b ^ _signed(key[0]), low_c, high_a ^ d ^ _signed(key[1]), low_a
        key = (key[0] + 0x9E3779B9) & LOW, (key[1] + 0xBB67AE85) & LOW
    return a, b, c, d


def _product(x: Any, factor: int) -> tuple[Any, Any]:
    """The upper and the lower 32 bits."""
    of: Any = torch if isinstance(x, Tensor) else np
    halves = ((of.asarray(x, dtype=of.int64) & LOW) * factor).view(of.int32).reshape(*x.shape, 2)
    return halves[..., 1], halves[..., 0]


def _signed(word: int) -> int:
    return word - (word >> 31 << 32)
