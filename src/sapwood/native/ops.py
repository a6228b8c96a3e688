"""The compiled kernels as functions of tensors. All run on the CPU; none of them is known to autograd.

Activations are fp32 or bf16 [T, columns], columns a multiple of 16; what is kept for the backward pass has
the same format or is bf16. ``bt``: B^T times the adapter's scale, fp32[r, O]. ``a``: A of a group's members,
fp32[R, D]. Results are the same bits for the same number of threads. Raises nothing: `compute.backend` says
beforehand which kernels can be had.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import Structure, c_float, c_int64, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sapwood.native.call import FORMS, at, kernel, parts
from sapwood.native.workspace import workspace

LANES = 16
LEVELS = 2**16  # a dropout rate is exact to one of so many
MOST_RANKS = 256
FEW = 64  # rows up to which `few_rows` is the faster product; on AVX2, libraries win from 96 on


# --- how C++ sees them ------------------------------------------------------------------------------------


class _Product(Structure):
    _fields_ = (("data", c_void_p), ("ld", c_int64), ("row_scale", c_void_p), ("column_scale", c_void_p),
                ("bias", c_void_p), ("narrow", c_int64))  # fmt: skip


class _Dropout(Structure):
    _fields_ = (("seed", c_uint64), ("level", c_uint32), ("kept", c_float))


class _Side(Structure):
    _fields_ = (("product", _Product), ("h", c_void_p), ("ldh", c_int64), ("bt", c_void_p), ("ldb", c_int64),
                ("r", c_int64))  # fmt: skip


class _SideBack(Structure):
    _fields_ = (("columns", c_void_p), ("codes", c_void_p), ("scale", c_void_p), ("grad", c_void_p),
                ("h", c_void_p), ("bt", c_void_p), ("ldh", c_int64), ("ldb", c_int64), ("r", c_int64),
                ("grad_h", c_void_p), ("grad_bt", c_void_p))  # fmt: skip


# --- what they take ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Product:
    """What a large product gave: fp32 or bf16 [T, O] as it is, or int32[T, O] times row_scale[T] and
    column_scale[O]; plus bias[O]. Scales and bias are fp32."""

    data: Tensor
    row_scale: Tensor | None = None
    column_scale: Tensor | None = None
    bias: Tensor | None = None

    def struct(self) -> _Product:
        data = self.data
        assert data.stride(1) == 1
        return _Product(data.data_ptr(), data.stride(0), at(self.row_scale), at(self.column_scale),
                        at(self.bias), data.dtype == torch.bfloat16)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dropout:
    """A mask, before it is drawn. level: numbers of 16 bits below it stand for an element that is dropped."""

    rate: float
    seed: int

    @property
    def level(self) -> int:
        return min(round(self.rate * LEVELS), LEVELS - 1)

    def struct(self) -> Any:
        return ctypes.byref(_Dropout(self.seed, self.level, 1 / (1 - self.rate)))


@dataclass(frozen=True, slots=True)
class Codes:
    """int8[T, D] and the scale of each row, fp32[T]."""

    codes: Tensor
    scale: Tensor

    @staticmethod
    def room(rows: int, columns: int) -> Codes:
        return Codes(torch.empty(rows, columns, dtype=torch.int8), torch.empty(rows))


# --- the kernels ------------------------------------------------------------------------------------------


def keep_mask(rows: int, columns: int, drop: Dropout) -> Tensor:
    """fp32[rows, columns]: 1 / (1 - rate) for an element that is kept, 0 for one that is dropped."""
    out = torch.empty(rows, columns)
    kernel("keep_mask")(torch.get_num_threads(), rows, columns, drop.struct(), at(out))
    return out


def transposed(x: Tensor, factor: float) -> Tensor:
    """factor * x^T for a small fp32 matrix, contiguous."""
    rows, columns = x.shape
    x, out = x.contiguous(), torch.empty(columns, rows)
    kernel("transposed")(rows, columns, at(x), factor, at(out))
    return out


def read_input(
    x: Tensor,
    a: Tensor,
    drop: Dropout,
    saved_dtype: torch.dtype,
    *,
    keep: bool = True,
    room: Codes | None = None,
    exact: Tensor | None = None,
) -> tuple[Tensor | None, Tensor]:
    """x: [T, D] -> x in ``saved_dtype`` if it is to be kept, and h = drop(x) A^T: fp32[T, R].

    room: is filled with x rounded to 8 bits. exact: int64[k], columns that are left out there, and stand
    behind h instead, which is [T, R + k] then.
    """
    (rows, width), ranks = x.shape, len(a)
    saved = torch.empty(rows, width, dtype=saved_dtype) if keep else None
    extra = 0 if exact is None else len(exact)
    h = torch.empty(rows, ranks + extra)
    columns = None if exact is None else torch.ones(width).index_fill_(0, exact, 0.0)
    codes, scale = (None, None) if room is None else (room.codes, room.scale)
    kernel("read_input")(
        FORMS[x.dtype, saved_dtype], torch.get_num_threads(), rows, width, at(x), at(saved), at(columns),
        at(codes), at(scale), at(a), ranks, drop.struct(), at(h), ranks + extra, at(exact), extra,
    )  # fmt: skip
    return saved, h


def are_few(x: Tensor, weight: Tensor) -> bool:
    """Can, and should, `few_rows` multiply them?"""
    rows, formats = x.numel() // x.shape[-1], (torch.float32, torch.bfloat16)
    fit = x.dtype in formats and weight.dtype in formats and x.shape[-1] % LANES == 0
    return rows <= FEW and fit and x.device.type == "cpu" and weight.is_contiguous()


def few_rows(x: Tensor, weight: Tensor) -> Tensor:
    """x: [T, D], weight: [O, D], each in fp32 or bf16 -> x weight^T, fp32[T, O], summed in fp32. A row's
    result is the same bits whatever the other rows are."""
    x, (rows, width) = x.float().contiguous(), x.shape
    y = torch.empty(rows, len(weight))
    narrow = int(weight.dtype == torch.bfloat16)
    kernel("few_rows")(
        torch.get_num_threads(), rows, len(weight), width, at(x), at(weight), narrow, at(y)
    )  # fmt: skip
    return y


def write_output(product: Product, h: Tensor, bt: Tensor, dtype: torch.dtype) -> Tensor:
    """[T, O] in ``dtype``: the product plus h bt. h: fp32[T, r], perhaps columns of a wider one."""
    rows, width = product.data.shape
    y = torch.empty(rows, width, dtype=dtype)
    kernel("write_output")(
        FORMS[dtype, dtype], torch.get_num_threads(), rows, width, ctypes.byref(product.struct()), at(h),
        h.stride(0), at(bt), len(bt), at(y),
    )  # fmt: skip
    return y


@dataclass(frozen=True, slots=True)
class Side:
    """One of a gated MLP's two products, [T, F], with its adapter: h fp32[T, r], bt fp32[r, F]; either may be
    columns of a wider one."""

    product: Product
    h: Tensor
    bt: Tensor

    def struct(self) -> Any:
        bt = self.bt
        assert bt.stride(1) == 1
        return ctypes.byref(
            _Side(self.product.struct(), at(self.h), self.h.stride(0), at(bt), bt.stride(0), len(bt))
        )


def gated_forward(
    gate: Side, up: Side, gelu: bool, matmul_dtype: torch.dtype, saved_dtype: torch.dtype, *, tops: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """-> gate and up, one beside the other, [T, 2 F] in ``saved_dtype``; act(gate) * up, [T, F] in
    ``matmul_dtype``, valid until the next call; the largest magnitude of each of its columns, fp32[F], if
    ``tops`` asks for them."""
    rows, width = gate.product.data.shape
    saved = torch.empty(rows, 2 * width, dtype=saved_dtype)
    inner = workspace("inner", (rows, width), matmul_dtype, torch.device("cpu"))
    most = torch.empty(width) if tops else None
    kernel("gated_forward")(
        FORMS[matmul_dtype, saved_dtype], torch.get_num_threads(), rows, width, gate.struct(), up.struct(),
        int(gelu), at(saved), at(saved[:, width:]), 2 * width, at(inner), at(most),
        at(parts(width)),
    )  # fmt: skip
    return saved, inner, most


def read_grad(
    g: Tensor,
    bt: Tensor,
    h: Tensor,
    grad_h: Tensor,
    *,
    room: Codes | None = None,
    columns: Tensor | None = None,
) -> Tensor:
    """g: [T, O], an output's gradient. Fills ``grad_h`` fp32[T, r] with g bt^T, and ``room`` with g * columns
    rounded to 8 bits; returns the gradient of bt, h^T g."""
    rows, width = g.shape
    grad_bt = torch.empty(len(bt), width)
    codes, scale = (None, None) if room is None else (room.codes, room.scale)
    kernel("read_grad")(
        FORMS[g.dtype, g.dtype], torch.get_num_threads(), rows, width, at(g), at(columns), at(codes),
        at(scale), at(bt), len(bt), at(h), h.stride(0), at(grad_h), grad_h.stride(0), at(grad_bt),
        at(parts(grad_bt.numel())),
    )  # fmt: skip
    return grad_bt


def write_grad(
    products: Sequence[Product], grad_h: Tensor, a: Tensor, saved: Tensor, drop: Dropout, dtype: torch.dtype,
    *, need_x: bool = True,
) -> tuple[Tensor | None, Tensor]:  # fmt: skip
    """grad_h: fp32[T, R], saved: [T, D] -> the input's gradient [T, D] in ``dtype``, if it is needed: the
    products' sum plus drop(grad_h a); and the gradient of a, grad_h^T drop(saved)."""
    rows, width = saved.shape
    grad_x = torch.empty(rows, width, dtype=dtype) if need_x else None
    grad_a = torch.empty_like(a)
    structs = (_Product * max(1, len(products)))(*(product.struct() for product in products))
    kernel("write_grad")(
        FORMS[dtype, saved.dtype], torch.get_num_threads(), rows, width, structs, len(products), at(grad_h),
        len(a), at(a), at(saved), drop.struct(), at(grad_x), at(grad_a),
        at(parts(a.numel())),
    )  # fmt: skip
    return grad_x, grad_a


@dataclass(frozen=True, slots=True)
class SideBack:
    """What one side of a gated MLP needs on the way back. h, grad_h: fp32[T, r]; bt, grad_bt: fp32[r, F].
    Filled are grad_h, grad_bt, and ``to``: codes of the gradient times ``columns``, or the gradient
    itself."""

    h: Tensor
    bt: Tensor
    grad_h: Tensor
    grad_bt: Tensor
    to: Codes | Tensor
    columns: Tensor | None = None

    def struct(self) -> _SideBack:
        codes, scale, grad = (
            (self.to.codes, self.to.scale, None) if isinstance(self.to, Codes) else (None, None, self.to)
        )
        assert self.h.stride(0) == self.grad_h.stride(0) and self.bt.stride(0) == self.grad_bt.stride(0)
        return _SideBack(
            at(self.columns), at(codes), at(scale), at(grad), at(self.h), at(self.bt), self.h.stride(0),
            self.bt.stride(0), len(self.bt), at(self.grad_h), at(self.grad_bt),
        )  # fmt: skip


def gated_backward(
    through: Product, grad_h: Tensor, a: Tensor, drop: Dropout, saved: Tensor, gelu: bool,
    gate: SideBack, up: SideBack,
) -> Tensor:  # fmt: skip
    """From the gradient of what down_proj read, as its product gave it, to what gate and up multiply next;
    fills ``gate`` and ``up``, and returns the gradient of down_proj's A. grad_h, a: of down_proj; saved: of
    `gated_forward`."""
    rows, width = through.data.shape
    grad_a = torch.empty_like(a)
    sides = (_SideBack * 2)(gate.struct(), up.struct())
    matmul_dtype = torch.float32 if isinstance(gate.to, Codes) else gate.to.dtype
    kernel("gated_backward")(
        FORMS[matmul_dtype, saved.dtype], torch.get_num_threads(), rows, width,
        ctypes.byref(through.struct()), at(grad_h), at(a), len(a), drop.struct(), at(saved),
        at(saved[:, width:]), 2 * width, int(gelu), sides, at(grad_a),
        at(parts(width * (len(a) + len(gate.bt) + len(up.bt)))),
    )  # fmt: skip
    return grad_a
