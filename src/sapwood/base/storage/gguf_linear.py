"""Modules whose weight stays packed as in the GGUF file: a linear, an embedding, and the matrix in both.

A weight is unpacked when it is used, into memory that the next one uses again: in the forward pass, once
more in the backward pass, and never as a whole model. For PEFT and everyone else the modules are `nn.Linear`
and `nn.Embedding`; only their ``weight`` holds blocks and not a matrix.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sapwood.gguf.blocks import BLOCK_TYPES, unpack
from sapwood.native.workspace import workspace

AT_ONCE = 1 << 26  # values of a weight unpacked at a time: 128 MB in bf16; heads of large models are larger


class PackedMatrix:
    """A frozen matrix W [rows, columns] in blocks.

    blocks: uint8[blocks of a row, bytes of a block, rows], or the plain numbers as [columns, 1, rows].
    kind: GGUF's name of the type. dtype: what `__getitem__` and `dense` give; products follow their input.
    """

    __slots__ = ("blocks", "dtype", "kind")

    def __init__(self, kind: str, blocks: Tensor, dtype: torch.dtype) -> None:
        self.kind = kind
        self.blocks = blocks
        self.dtype = dtype

    @property
    def shape(self) -> torch.Size:
        count, _, rows = self.blocks.shape
        return torch.Size((rows, count * BLOCK_TYPES[self.kind].size))

    @property
    def device(self) -> torch.device:
        return self.blocks.device

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Some rows of the matrix, unpacked: [n, columns]. Those of a slice are valid until the next product
        or slice of any matrix; rows of an index [n] are a copy."""
        if isinstance(rows, slice):
            return self._transposed(self.dtype, rows).T
        chosen = self.blocks.index_select(2, rows)
        out = torch.empty(self.shape[1], len(rows), dtype=self.dtype, device=self.device)
        return unpack(self.kind, chosen, out).T.contiguous()

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [T, columns] W^T + b."""
        parts = self._parts()
        bias = bias if bias is None else bias.to(x.dtype)
        if len(parts) == 1:
            w = self._transposed(x.dtype, parts[0])
            return torch.mm(x, w) if bias is None else torch.addmm(bias, x, w)
        y = x.new_empty(len(x), self.shape[0])
        for part in parts:
            y[:, part] = x @ self._transposed(x.dtype, part)
        return y if bias is None else y.add_(bias)

    def input_grad(self, g: Tensor) -> Tensor:
        """g [T, rows] W."""
        first, *others = self._parts()
        grad = g[:, first] @ self._transposed(g.dtype, first).T
        for part in others:
            grad.addmm_(g[:, part], self._transposed(g.dtype, part).T)
        return grad

    def dense(self) -> Tensor:
        out = torch.empty(self.shape[::-1], dtype=self.dtype, device=self.device)
        return unpack(self.kind, self.blocks, out).T.contiguous()

    def _parts(self) -> list[slice]:
        rows, columns = self.shape
        step = max(1, AT_ONCE // columns)
        return [slice(start, min(rows, start + step)) for start in range(0, rows, step)]

    def _transposed(self, dtype: torch.dtype, rows: slice) -> Tensor:
        """[columns, n] in memory that the next call uses again."""
        blocks = self.blocks[:, :, rows]
        if blocks.dtype == dtype:
            return blocks.squeeze(1)
        shape = (self.shape[1], blocks.shape[2])
        return unpack(self.kind, blocks, workspace("weight", shape, dtype, self.device))


class _PackedProduct(torch.autograd.Function):
    """x[T, in] W^T + b; the backward pass unpacks W once more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: PackedMatrix, bias: Tensor | None) -> Tensor:
        ctx.matrix = matrix
        return matrix.product(x, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return ctx.matrix.input_grad(grad), None, None


def packed_product(x: Tensor, matrix: PackedMatrix, bias: Tensor | None = None) -> Tensor:
    """x[..., in] W^T + b, with a gradient for x. Falcon adds to it in place, which a function of its own may
    not be the last to shape for."""
    y: Any = _PackedProduct.apply(x.flatten(0, -2), matrix, bias)
    return y.unflatten(0, x.shape[:-1])


class GgufLinear(nn.Linear):
    """A frozen linear over packed blocks. turned: the model's own module has inputs as rows."""

    def __init__(
        self, kind: str, blocks: Tensor, dtype: torch.dtype, bias: Any = None, turned: bool = False
    ) -> None:
        nn.Module.__init__(self)
        self.bias = bias
        self.turned = turned
        self.packed = PackedMatrix(kind, _frozen(self, blocks), dtype)
        self.out_features, self.in_features = self.packed.shape

    def forward(self, input: Tensor) -> Tensor:
        return packed_product(input, self.packed, self.bias)


class GgufEmbedding(nn.Embedding):
    """An embedding over packed blocks: only the rows that are looked up are unpacked.

    scale: what Gemma 3 multiplies its embeddings with, rounded to their number format.
    """

    def __init__(self, kind: str, blocks: Tensor, dtype: torch.dtype, scale: float = 1.0) -> None:
        nn.Module.__init__(self)
        self.packed = PackedMatrix(kind, _frozen(self, blocks), dtype)
        self.num_embeddings, self.embedding_dim = self.packed.shape
        self.padding_idx = None
        self.scale = scale

    def forward(self, input: Tensor) -> Tensor:
        rows = self.packed[input.flatten()].view(*input.shape, self.embedding_dim)
        return rows if self.scale == 1.0 else rows.mul_(torch.tensor(self.scale, dtype=rows.dtype))


def _frozen(module: nn.Module, blocks: Tensor) -> Tensor:
    """``blocks`` as the module's ``weight``, so that it moves with the module; marked so that transformers'
    initialiser leaves it alone."""
    weight = blocks if isinstance(blocks, nn.Parameter) else nn.Parameter(blocks, requires_grad=False)
    weight._is_hf_initialized = True  # type: ignore[attr-defined]
    module.weight = weight
    return weight


def rows_last(rows: NDArray[np.uint8], kind: str) -> Tensor:
    """The bytes of a matrix, [rows, bytes of a row] as in a file, in the order of `gguf_blocks`: a copy."""
    form = BLOCK_TYPES[kind]
    count, width = len(rows), rows.shape[1] // form.dtype.itemsize
    out = torch.empty(width, count, dtype=form.dtype)
    step = max(1, AT_ONCE // width // 64)
    for start in range(0, count, step):  # a few rows at a time, which the processor's cache holds
        part = torch.from_numpy(np.array(rows[start : start + step])).view(form.dtype)
        out[:, start : start + step] = part.T
    return out.view(-1, form.width, count)
