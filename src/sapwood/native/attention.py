"""Attention over blocks of a pack, and rotary positions, as compiled kernels (`kernels/attention.cpp`)."""

from __future__ import annotations

import ctypes
from ctypes import Structure, c_float, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sapwood.native.call import FORMS, at, kernel, parts


class _Heads(Structure):
    _fields_ = (("data", c_void_p), ("head", c_int64), ("token", c_int64))


class _Blocks(Structure):
    _fields_ = (("blocks", c_void_p), ("count", c_int64), ("chains", c_void_p))


class _Rule(Structure):
    _fields_ = (("scale", c_float), ("softcap", c_float), ("window", c_int64))


@dataclass(frozen=True, slots=True)
class Blocks:
    """Queries in blocks, and the keys of each: of ``blocks`` int64[N, 4], the first token, the number of
    queries, the position of the first and where its chain begins in ``chains`` int64[...]: tokens by
    position."""

    blocks: Tensor
    chains: Tensor

    def struct(self) -> Any:
        return ctypes.byref(_Blocks(at(self.blocks), len(self.blocks), at(self.chains)))


def _heads(x: Tensor) -> Any:
    """[H, T, D], in any order but the last."""
    assert x.stride(2) == 1
    return ctypes.byref(_Heads(x.data_ptr(), x.stride(0), x.stride(1)))


def _rule(scale: float, softcap: float | None, window: int | None) -> Any:
    return ctypes.byref(_Rule(scale, softcap or 0.0, window or 0))


def attention_forward(
    q: Tensor, k: Tensor, v: Tensor, blocks: Blocks, scale: float, softcap: float | None, window: int | None
) -> tuple[Tensor, Tensor]:
    """q: [H, T, D]; k, v: [KV, T, D] -> [T, H, D], and the log of each softmax's sum, fp32[H, T]."""
    heads, length, dim = q.shape
    out = torch.empty(length, heads, dim, dtype=q.dtype)
    logs = torch.empty(heads, length)
    kernel("attention_forward")(
        FORMS[q.dtype, q.dtype], torch.get_num_threads(), heads, len(k), length, dim, _heads(q), _heads(k),
        _heads(v), blocks.struct(), _rule(scale, softcap, window), at(out), at(logs),
    )  # fmt: skip
    return out, logs


def attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, logs: Tensor, blocks: Blocks, scale: float,
    softcap: float | None, window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """grad: [H, T, D] -> the gradients of q, k and v, each [T, its heads, D] in grad's format."""
    heads, length, dim = q.shape
    kv = len(k)
    grad_q = torch.empty(length, heads, dim, dtype=grad.dtype)
    grad_k, grad_v = (torch.empty(length, kv, dim, dtype=grad.dtype) for _ in range(2))
    kernel("attention_backward")(
        FORMS[grad.dtype, q.dtype], torch.get_num_threads(), heads, kv, length, dim, _heads(grad), _heads(q),
        _heads(k), _heads(v), at(logs), blocks.struct(), _rule(scale, softcap, window), at(grad_q),
        at(grad_k), at(grad_v), at(parts(2 * grad_k.numel())),
    )  # fmt: skip
    return grad_q, grad_k, grad_v


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> Tensor:
    """x: [H, T, D], turned by the positions' angles (back: by the opposite ones) -> [T, H, D]. cos, sin: [T,
    D] in x's format. D: a multiple of 32."""
    heads, length, dim = x.shape
    y = torch.empty(length, heads, dim, dtype=x.dtype)
    kernel("rotate")(
        FORMS[x.dtype, x.dtype], torch.get_num_threads(), heads, length, dim, _heads(x), at(cos), at(sin),
        -1.0 if back else 1.0, at(y),
    )  # fmt: skip
    return y
