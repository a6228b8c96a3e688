"""What the numbers of a quantised checkpoint mean. A rule takes the tensors that a format keeps for a weight,
and gives the weight in float32.

Sources: FP8 arXiv 2412.19437 (blocks of 128 x 128); MXFP4 the OCP specification of microscaling formats 1.0;
GPTQ arXiv 2210.17323 and AWQ arXiv 2306.00978, as AutoGPTQ and AutoAWQ lay them out; nf4 and fp4 arXiv
2305.14314, int8 arXiv 2208.07339, as bitsandbytes saves them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

WORD = 32  # bits of the integers that codes are packed in
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
MXFP4_BLOCK = 32
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # in which the eight codes of a word follow each other
EXPONENT = 127  # of a scale that is a power of two


def scaled(codes: Tensor, scale: Tensor, blocks: tuple[int, int] | None = None) -> Tensor:
    """codes: [..., out, in], 8 bits. scale: one, one for each row, or one for each block of a grid; exponents
    if they are whole numbers. blocks: rows and columns of one, which the last of an axis may not fill."""
    wide = codes.float()
    known = (scale.float() - EXPONENT).exp2() if scale.dtype == torch.uint8 else scale.float()
    if known.numel() == 1:
        return wide * known.reshape(())
    if known.dim() < wide.dim():
        known = known.reshape(*known.shape, *[1] * (wide.dim() - known.dim()))
    for axis, told in zip((-2, -1), blocks or (0, 0), strict=True):
        size, parts = wide.shape[axis], known.shape[axis]
        if parts not in (1, size):
            block = told if told and -(-size // told) == parts else size // parts
            known = known.repeat_interleave(block, axis).narrow(axis, 0, size)
    return wide * known


def rows_of_127(codes: Tensor, largest: Tensor) -> Tensor:
    """codes: int8[out, in]; largest: float32[out], which is what 127 stands for in a row."""
    return codes.float() * (largest.float() / 127)[:, None]


def mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """blocks: uint8[experts, out, in / 32, 16], two codes a byte, the lower first; scales: uint8[experts,
    out, in / 32], exponents -> float32[experts, in, out]."""
    table = torch.tensor([*FP4, *(-value for value in FP4)])
    codes = torch.stack([blocks & 15, blocks >> 4], -1).flatten(-2)
    values = table[codes.int()] * (scales.float() - EXPONENT).exp2()[..., None]
    return values.flatten(-2).transpose(-1, -2).contiguous()


def gptq(
    words: Tensor, zeros: Tensor, scales: Tensor, groups: Tensor | None = None, *, bits: int, below: int
) -> Tensor:
    """words: int32[in * bits / 32, out]; zeros: int32[groups, out * bits / 32], each ``below`` what is meant;
    scales: [groups, out]; groups: [in], the group of each input, in order without -> float32[out, in]."""
    codes = _lanes(words.T, bits).T
    if groups is None:
        groups = torch.arange(len(codes)) // (len(codes) // len(scales))
    zero = (_lanes(zeros, bits) + below) & (2**bits - 1)
    at = groups.long()
    return ((codes - zero[at]).float() * scales.float()[at]).T.contiguous()


def awq(words: Tensor, zeros: Tensor, scales: Tensor) -> Tensor:
    """words: int32[in, out / 8]; zeros: int32[groups, out / 8]; scales: [groups, out] -> float32[out, in]."""
    codes, zero = (_in_order(_lanes(packed, 4)) for packed in (words, zeros))
    size = len(codes) // len(zero)
    wide = (codes - zero.repeat_interleave(size, 0)).float() * scales.float().repeat_interleave(size, 0)
    return wide.T.contiguous()


def signed_words(words: Tensor, scale: Tensor, shape: Tensor, bits: int) -> Tensor:
    """words: int32[out, in * bits / 32], codes from -2^(bits - 1) on; scale: [out, groups]; shape: [2]."""
    out, width = (int(size) for size in shape)
    codes = _lanes(words, bits)[:, :width] - 2 ** (bits - 1)
    return scaled(codes[:out], scale)


def four_bits(*parts: Tensor, facts: Mapping[str, Any], shape: tuple[int, ...]) -> Tensor:
    """parts: codes, their table, scales, and a table and scales of those if they are codes too; at last
    the tensor that ``facts`` come from. shape: of the weight."""
    codes, table, scale, *nested = parts[:-1]
    if nested:
        outer, largest = nested
        scale = scales_by_table(scale, outer, largest, facts["nested_blocksize"], facts["nested_offset"])
    return by_table(codes, table, scale, facts["blocksize"], shape)


def by_table(codes: Tensor, table: Tensor, scale: Tensor, block: int, shape: tuple[int, ...]) -> Tensor:
    """codes: uint8, two a byte, the upper first; table: float32[16]; scale: one for ``block`` numbers."""
    flat = codes.flatten()
    values = table.float()[torch.stack([flat >> 4, flat & 15], 1).flatten().int()]
    values = values[: torch.Size(shape).numel()]
    return (values * scale.float().repeat_interleave(block)[: len(values)]).reshape(shape)


def scales_by_table(codes: Tensor, table: Tensor, scale: Tensor, block: int, offset: float) -> Tensor:
    """Scales that are quantised themselves: uint8 codes of float32[256], with one scale for ``block``."""
    return table.float()[codes.int()] * scale.float().repeat_interleave(block)[: len(codes)] + offset


def _lanes(words: Tensor, bits: int) -> Tensor:
    """The codes in each word, the lowest bits first: int32[..., n] -> int32[..., n * 32 / bits]."""
    shifts = torch.arange(0, WORD, bits, dtype=torch.int32)
    return ((words[..., None] >> shifts) & (2**bits - 1)).flatten(-2)


def _in_order(codes: Tensor) -> Tensor:
    return codes.unflatten(-1, (-1, len(AWQ_ORDER)))[..., list(AWQ_ORDER)].flatten(-2)
