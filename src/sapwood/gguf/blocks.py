"""The values in GGUF's packed blocks, in torch: one function for each type of block.

Blocks of a matrix [rows, columns] stand here with their rows last::

    uint8[blocks of a row, bytes of a block, rows]  ->  values[columns, rows], the matrix transposed

so that every step below runs over thousands of neighbouring bytes; the file's own order (all bytes of a
block side by side) would give it 16 or 32. Measured on a 1536 x 576 matrix in Q4_1: 0.5 ms against 3.4 ms;
the product with 1,024 tokens takes 11 ms.

The arithmetic is that of the `gguf` package: scale times integer is exact in fp32 for every type, so that a
fused multiply-add rounds once, as in the package. Source: ggml-quants of the GGML project.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sapwood.native.workspace import workspace

AT_ONCE = 1 << 19  # values unpacked at a time on a CPU: in fp32 they stay in the processor's cache
AT_ONCE_CUDA = 1 << 26  # a device wants few large kernels

NIBBLES = (0, 4)
PAIRS = (0, 2, 4, 6)
BITS = tuple(range(8))
IQ4_NL_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)

MXFP4_VALUES = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


@dataclass(frozen=True, slots=True)
class BlockType:
    """size: values in a block; width: bytes of it (numbers of ``dtype`` for plain ones); unpack: b[n, width,
    rows], values[n, size, rows] in fp32, which it fills."""

    size: int
    width: int
    unpack: Callable[[Tensor, Tensor], object]
    dtype: torch.dtype = torch.uint8


def unpack(kind: str, blocks: Tensor, out: Tensor) -> Tensor:
    """Fill ``out`` [columns, rows] with the values of ``blocks`` [n, width, rows], each rounded once from
    fp32, and return it."""
    form = BLOCK_TYPES[kind]
    count, _, rows = blocks.shape
    values = out.view(count, form.size, rows)
    most = AT_ONCE if blocks.device.type == "cpu" else AT_ONCE_CUDA
    wide = min(rows, max(1, most // form.size))
    deep = max(1, most // (form.size * wide))
    for left in range(0, rows, wide):
        for top in range(0, count, deep):
            part = blocks[top : top + deep, :, left : left + wide]
            target = values[top : top + deep, :, left : left + wide]
            if out.dtype == torch.float32:
                form.unpack(part, target)
            else:
                shape = (part.shape[0], form.size, part.shape[2])
                exact = workspace("exact", shape, torch.float32, blocks.device)
                form.unpack(part, exact)
                target.copy_(exact)
    return out


# --- parts of blocks --------------------------------------------------------------------------------------


def _half(b: Tensor, at: int) -> Tensor:
    """The fp16 number in bytes ``at`` and ``at + 1``: fp32[n, 1, rows]."""
    bits = b[:, at].to(torch.int16) | (b[:, at + 1].to(torch.int16) << 8)
    return bits.view(torch.float16).float().unsqueeze(1)


def _spread(b: Tensor, shifts: Sequence[int], mask: int, name: str = "fields") -> Tensor:
    """Bit fields of bytes: b[n, groups, width, rows] -> uint8[n, groups * len(shifts) * width, rows], all of
    the first shift, then all of the second … in each group."""
    n, groups, width, rows = b.shape
    out = workspace(name, (n, groups, len(shifts), width, rows), torch.uint8, b.device)
    for i, shift in enumerate(shifts):
        if shift == 0:
            torch.bitwise_and(b, mask, out=out[:, :, i])
            continue
        torch.bitwise_right_shift(b, shift, out=out[:, :, i])
        if mask != 255 >> shift:  # else the shift leaves nothing but the field
            out[:, :, i].bitwise_and_(mask)
    return out.view(n, -1, rows)


def _groups(b: Tensor, start: int, stop: int, groups: int) -> Tensor:
    """Bytes ``start:stop`` of each block in ``groups`` equal runs: [n, groups, width, rows]."""
    return b[:, start:stop].unflatten(1, (groups, (stop - start) // groups))


def _scaled(q: Tensor, out: Tensor, scale: Tensor, minimum: Tensor | None = None) -> None:
    """out = scale * q + minimum; a scale and a minimum [n, groups, rows] for each run of values."""
    groups = scale.shape[1]
    values = out.unflatten(1, (groups, out.shape[1] // groups))
    values.copy_(q.unflatten(1, (groups, out.shape[1] // groups)))
    if minimum is None:
        values.mul_(scale.unsqueeze(2))
    else:
        torch.addcmul(minimum.unsqueeze(2), values, scale.unsqueeze(2), out=values)


# --- blocks of 32 -----------------------------------------------------------------------------------------


def _q4_0(b: Tensor, out: Tensor) -> None:
    d = _half(b, 0)
    _scaled(_spread(_groups(b, 2, 18, 1), NIBBLES, 15), out, d, -8 * d)


def _q4_1(b: Tensor, out: Tensor) -> None:
    _scaled(_spread(_groups(b, 4, 20, 1), NIBBLES, 15), out, _half(b, 0), _half(b, 2))


def _fifth_bits(q: Tensor, b: Tensor, at: int) -> Tensor:
    return q.add_(_spread(_groups(b, at, at + 4, 4), BITS, 1, "high"), alpha=16)


def _q5_0(b: Tensor, out: Tensor) -> None:
    d = _half(b, 0)
    q = _fifth_bits(_spread(_groups(b, 6, 22, 1), NIBBLES, 15), b, 2)
    _scaled(q, out, d, -16 * d)


def _q5_1(b: Tensor, out: Tensor) -> None:
    q = _fifth_bits(_spread(_groups(b, 8, 24, 1), NIBBLES, 15), b, 4)
    _scaled(q, out, _half(b, 0), _half(b, 2))


def _q8_0(b: Tensor, out: Tensor) -> None:
    _scaled(b[:, 2:34].view(torch.int8), out, _half(b, 0))


def _iq4_nl(b: Tensor, out: Tensor) -> None:
    q = _spread(_groups(b, 2, 18, 1), NIBBLES, 15)
    table = torch.tensor(IQ4_NL_VALUES, dtype=torch.int8, device=b.device)
    _scaled(table.index_select(0, q.flatten().int()).view(q.shape), out, _half(b, 0))


def _mxfp4(b: Tensor, out: Tensor) -> None:
    """Numbers of 4 bits (the table has them twice as large), and a power of two as a scale."""
    q = _spread(_groups(b, 1, 17, 1), NIBBLES, 15)
    table = torch.tensor(MXFP4_VALUES, dtype=torch.int8, device=b.device)
    scale = torch.exp2(b[:, :1].float() - 128)
    _scaled(table.index_select(0, q.flatten().int()).view(q.shape), out, scale)


# --- blocks of 256 ----------------------------------------------------------------------------------------


def _q2_k(b: Tensor, out: Tensor) -> None:
    q = _spread(_groups(b, 16, 80, 2), PAIRS, 3)
    scale = _half(b, 80) * (b[:, :16] & 15)
    minimum = _half(b, 82) * (b[:, :16] >> 4)
    _scaled(q, out, scale, -minimum)


def _q3_k(b: Tensor, out: Tensor) -> None:
    q = _spread(_groups(b, 32, 96, 2), PAIRS, 3)
    q.add_(_spread(_groups(b, 0, 32, 1), BITS, 1, "high"), alpha=4)  # a bit that is not set means 4 less
    low = _spread(_groups(b, 96, 104, 1), NIBBLES, 15, "low scales")
    scales = low.add_(_spread(_groups(b, 104, 108, 1), PAIRS, 3, "high scales"), alpha=16)
    scale = _half(b, 108) * (scales.float() - 32)
    _scaled(q, out, scale, -4 * scale)


def _scales_and_minima(b: Tensor) -> tuple[Tensor, Tensor]:
    """8 scales and 8 minima of 6 bits each, in bytes 4 to 15 of Q4_K and Q5_K: fp32[n, 8, rows] each."""
    scale, minimum, both = b[:, 4:8], b[:, 8:12], b[:, 12:16]
    scales = torch.cat([scale & 63, (both & 15) | ((scale >> 2) & 48)], 1)
    minima = torch.cat([minimum & 63, (both >> 4) | ((minimum >> 2) & 48)], 1)
    return _half(b, 0) * scales, _half(b, 2) * minima


def _q4_k(b: Tensor, out: Tensor) -> None:
    scale, minimum = _scales_and_minima(b)
    _scaled(_spread(_groups(b, 16, 144, 4), NIBBLES, 15), out, scale, -minimum)


def _q5_k(b: Tensor, out: Tensor) -> None:
    scale, minimum = _scales_and_minima(b)
    q = _spread(_groups(b, 48, 176, 4), NIBBLES, 15)
    q.add_(_spread(_groups(b, 16, 48, 1), BITS, 1, "high"), alpha=16)
    _scaled(q, out, scale, -minimum)


def _q6_k(b: Tensor, out: Tensor) -> None:
    q = _spread(_groups(b, 0, 128, 2), NIBBLES, 15)
    q.add_(_spread(_groups(b, 128, 192, 2), PAIRS, 3, "high"), alpha=16)
    scale = _half(b, 208) * b[:, 192:208].view(torch.int8)
    _scaled(q, out, scale, -32 * scale)


def _plain(b: Tensor, out: Tensor) -> None:
    out.copy_(b)


BLOCK_TYPES = {
    "F32": BlockType(1, 1, _plain, torch.float32),
    "F16": BlockType(1, 1, _plain, torch.float16),
    "BF16": BlockType(1, 1, _plain, torch.bfloat16),
    "Q4_0": BlockType(32, 18, _q4_0),
    "Q4_1": BlockType(32, 20, _q4_1),
    "Q5_0": BlockType(32, 22, _q5_0),
    "Q5_1": BlockType(32, 24, _q5_1),
    "Q8_0": BlockType(32, 34, _q8_0),
    "IQ4_NL": BlockType(32, 18, _iq4_nl),
    "MXFP4": BlockType(32, 17, _mxfp4),
    "Q2_K": BlockType(256, 84, _q2_k),
    "Q3_K": BlockType(256, 110, _q3_k),
    "Q4_K": BlockType(256, 144, _q4_k),
    "Q5_K": BlockType(256, 176, _q5_k),
    "Q6_K": BlockType(256, 210, _q6_k),
}
