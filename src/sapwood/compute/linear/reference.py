"""What a group of adapted linears computes, forward and backward, by torch's operations.

y_i = x W_i^T + b_i + s_i drop(x) A_i^T B_i^T          (LoRA: arXiv 2106.09685, equation 3)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sapwood.base.storage.frozen import FrozenWeight
from sapwood.compute.dropout import keep_mask
from sapwood.native.ops import Dropout

MIN_ROWS = 32  # for fewer tokens (generation) the weights' conversion would cost more than their product


@dataclass(frozen=True, slots=True)
class Call:
    """What the products need besides tensors: the frozen weights, a scale each, the mask's rate and seed, the
    format to multiply in, and the one to keep for the backward pass if that isn't the input's own.

    ``adapter``: A of each member, fp32[r_i, in], then B of each, fp32[out_i, r_i].
    """

    weights: tuple[FrozenWeight, ...]
    scales: tuple[float, ...]
    rate: float
    seed: int
    matmul_dtype: torch.dtype | None
    saved_dtype: torch.dtype | None = None

    @property
    def dropout(self) -> Dropout:
        return Dropout(self.rate, self.seed)

    def format_for(self, x: Tensor) -> torch.dtype:
        return self.matmul_dtype if self.matmul_dtype is not None and len(x) >= MIN_ROWS else x.dtype

    def forward(self, flat: Tensor, adapter: Sequence[Tensor]) -> tuple[list[Tensor], Tensor, Tensor]:
        """flat: [T, in] -> n outputs [T, out_i] in the format of products, and what the backward pass needs:
        the input in the format that is kept, and h = drop(x) A^T, [T, sum of ranks]."""
        n = len(self.weights)
        saved = flat if self.saved_dtype is None else flat.to(self.saved_dtype)
        h = _masked(saved, self._keep(saved)) @ self._stacked(adapter[:n], saved.dtype).T
        x = flat.to(self.format_for(flat))
        outputs: list[Tensor] = []
        for weight, scale, b, h_i in zip(
            self.weights, self.scales, adapter[n:], split(h, adapter[:n]), strict=True
        ):
            y = weight.forward(x)
            outputs.append(y.addmm_(h_i.to(y.dtype), (b * scale).to(y.dtype).T))
        return outputs, saved, h

    def backward(
        self,
        saved: Tensor,
        h: Tensor,
        adapter: Sequence[Tensor],
        grads: Sequence[Tensor],
        *,
        need_x: bool = True,
    ) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """grads: n times [T, out_i] -> the input's gradient [T, in] in the format of products, where it is
        needed, and the adapter's. saved, h: of `forward`."""
        n = len(self.weights)
        grad_x: Tensor | None = None
        grad_h: list[Tensor] = []
        grad_b: list[Tensor] = []
        for i, h_i in enumerate(split(h, adapter[:n])):
            g = grads[i]
            g = g.to(self.format_for(g))
            grad_h.append(g @ (adapter[n + i] * self.scales[i]).to(g.dtype))
            grad_b.append((g.T @ h_i.to(g.dtype)).float().mul_(self.scales[i]))
            if need_x:
                part = self.weights[i].input_grad(g)
                grad_x = part if grad_x is None else grad_x.add_(part)
        grad_h_all = torch.cat(grad_h, 1).to(saved.dtype)
        keep = self._keep(saved)
        grad_a = (grad_h_all.T @ _masked(saved, keep)).float().div_(1 - self.rate)
        if grad_x is not None:
            grad_x.add_(_masked(grad_h_all @ self._stacked(adapter[:n], saved.dtype), keep))
        return grad_x, (*grad_a.split([len(p) for p in adapter[:n]]), *grad_b)

    def _stacked(self, a: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """All A's as one [sum of ranks, in]; dropout's 1 / (1 - rate) is applied here, where it is
        cheapest."""
        return torch.cat(list(a)).div_(1 - self.rate).to(dtype)

    def _keep(self, flat: Tensor) -> Tensor | None:
        """1 and 0 in the format of ``flat``."""
        rows, columns = flat.shape
        return keep_mask(rows, columns, self.dropout, flat.device).to(flat.dtype) if self.rate else None


def _masked(flat: Tensor, keep: Tensor | None) -> Tensor:
    return flat if keep is None else flat * keep


def split(h: Tensor, a: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The columns of h that belong to each member."""
    return h.split([len(p) for p in a], 1)
