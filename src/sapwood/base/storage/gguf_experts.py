"""The experts of a mixture whose weights stay packed as in the GGUF file.

Each expert that a token chose is unpacked when it is used, and once more in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sapwood.base.storage.gguf_linear import PackedMatrix, packed_product

GATE, UP, DOWN = "gate", "up", "down"
Product = Callable[[str, int, Tensor], Tensor]
"""(which matrix, of which expert, its input [n, in]) -> [n, out]"""


class GgufExperts(nn.Module):
    """Frozen gated experts: down(act(gate x) * up x), summed by the router's weights.

    Blocks of each of the three: [experts, blocks of a row, bytes of a block, rows], as `gguf.blocks` has a
    matrix. dtype: what `dense` gives; products follow their input.
    """

    def __init__(self, act_fn: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.act_fn = act_fn
        self.dtype = dtype
        self.kinds: dict[str, str] = {}

    def put(self, which: str, kind: str, blocks: Tensor) -> None:
        parameter = nn.Parameter(blocks, requires_grad=False)
        parameter._is_hf_initialized = True  # type: ignore[attr-defined]
        self.register_parameter(which, parameter)
        self.kinds[which] = kind

    def matrix(self, which: str, expert: int) -> PackedMatrix:
        return PackedMatrix(self.kinds[which], self.get_parameter(which)[expert], self.dtype)

    def dense(self) -> dict[str, Tensor]:
        """The stacks that transformers has in the place of the blocks: gate_up_proj [experts, 2 I, D], and
        down_proj [experts, D, I]."""
        experts = range(len(self.get_parameter(DOWN)))
        gates = [torch.cat([self.matrix(which, e).dense() for which in (GATE, UP)]) for e in experts]
        downs = [self.matrix(DOWN, e).dense() for e in experts]
        return {"gate_up_proj": torch.stack(gates), "down_proj": torch.stack(downs)}

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """x: [T, D]; chosen, weights: [T, experts of a token]."""
        return mixed(
            x, chosen, weights, self.act_fn, lambda which, e, h: packed_product(h, self.matrix(which, e))
        )


def mixed(x: Tensor, chosen: Tensor, weights: Tensor, act_fn: Any, product: Product) -> Tensor:
    """What gated experts give, by whatever multiplies their matrices. Arguments as `GgufExperts.forward`."""
    out = torch.zeros_like(x)
    experts: list[int] = chosen.unique().tolist()
    for e in experts:
        rows, place = (chosen == e).nonzero(as_tuple=True)
        h = x[rows]
        y = product(DOWN, e, act_fn(product(GATE, e, h)) * product(UP, e, h))
        out = out.index_add(0, rows, (y * weights[rows, place, None]).to(out.dtype))
    return out
