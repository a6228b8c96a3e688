"""The experts of a mixture whose weights stay packed as in the GGUF file.

Each expert that a token chose is unpacked when it is used, and once more in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sapwood.base.storage.gguf_linear import PackedMatrix, packed_product

GATE, UP, DOWN = "gate", "up", "down"
BIASES = ("gate_up_proj_bias", "down_proj_bias")  # of gate and up by turns; transformers' names
Product = Callable[[str, int, Tensor], Tensor]
"""(which matrix, of which expert, its input [n, in]) -> [n, out]"""


class GgufExperts(nn.Module):
    """Frozen gated experts: down(gated(gate x, up x)), summed by the router's weights.

    Blocks of each of the three: [experts, blocks of a row, bytes of a block, rows], as `gguf.blocks` has a
    matrix. module: transformers' experts, whose gate, order of rows and biases these have. dtype: what
    `dense` gives; products follow their input.
    """

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.form = Form.of(module)
        self.dtype = dtype
        self.kinds: dict[str, str] = {}
        for name, bias in module.named_parameters(recurse=False):
            if name in BIASES:
                self.register_parameter(name, bias)

    def put(self, which: str, kind: str, blocks: Tensor) -> None:
        parameter = nn.Parameter(blocks, requires_grad=False)
        parameter._is_hf_initialized = True  # type: ignore[attr-defined]
        self.register_parameter(which, parameter)
        self.kinds[which] = kind

    def matrix(self, which: str, expert: int) -> PackedMatrix:
        return PackedMatrix(self.kinds[which], self.get_parameter(which)[expert], self.dtype)

    def dense(self) -> dict[str, Tensor]:
        """The stacks that transformers has in the place of the blocks, gate_up_proj and down_proj: [experts,
        2 I, D] and [experts, D, I], or each expert's matrix turned."""
        experts = range(len(self.get_parameter(DOWN)))
        halves = ([self.matrix(which, e).dense() for which in (GATE, UP)] for e in experts)
        both = [
            torch.stack(pair, 1).flatten(0, 1) if self.form.turned else torch.cat(pair) for pair in halves
        ]
        stacks = {"gate_up_proj": both, "down_proj": [self.matrix(DOWN, e).dense() for e in experts]}
        return {name: self.form.turn(torch.stack(stack)) for name, stack in stacks.items()}

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """x: [T, D]; chosen, weights: [T, experts of a token]."""

        def product(which: str, e: int, h: Tensor) -> Tensor:
            return packed_product(h, self.matrix(which, e)) + self.form.bias(self, which, e)

        return mixed(x, chosen, weights, self.form, product)


@dataclass(frozen=True, slots=True)
class Form:
    """How transformers holds the experts of a family, and what they compute between two products.

    turned: inputs are the rows of a matrix; outputs of gate and up stand by turns, not one after the other.
    gated: (gate x, up x) -> what goes into down.
    """

    turned: bool
    gated: Callable[[Tensor, Tensor], Tensor]

    @classmethod
    def of(cls, module: Any) -> Form:
        """Of transformers' experts, or of `GgufExperts`."""
        if isinstance(module, GgufExperts):
            return module.form
        if not getattr(module, "is_transposed", False):
            return cls(False, partial(_gated, module.act_fn))
        return cls(True, partial(_gated_and_clamped, module.alpha, module.limit))

    def turn(self, stack: Tensor) -> Tensor:
        """A stack with outputs as rows from one as transformers has it, or the other way round."""
        return stack.swapaxes(-1, -2).contiguous() if self.turned else stack

    def halves(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Gate and up of a stack with outputs as rows."""
        if self.turned:
            return rows[:, ::2], rows[:, 1::2]
        gate, up = rows.chunk(2, 1)
        return gate, up

    def bias(self, module: Any, which: str, e: int) -> Tensor | float:
        """What one expert adds to a product; 0 for experts without biases."""
        both, down = (getattr(module, name, None) for name in BIASES)
        if both is None or down is None:
            return 0.0
        return down[e] if which == DOWN else both[e, (which == UP) :: 2]


def _gated(act_fn: Any, gate: Tensor, up: Tensor) -> Tensor:
    return act_fn(gate) * up


def _gated_and_clamped(alpha: float, limit: float, gate: Tensor, up: Tensor) -> Tensor:
    """GPT-OSS's."""
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return (up + 1) * gate * torch.sigmoid(alpha * gate)


def mixed(x: Tensor, chosen: Tensor, weights: Tensor, form: Form, product: Product) -> Tensor:
    """What gated experts give, by whatever multiplies their matrices. Arguments as `GgufExperts.forward`."""
    out = torch.zeros_like(x)
    experts: list[int] = chosen.unique().tolist()
    for e in experts:
        rows, place = (chosen == e).nonzero(as_tuple=True)
        h = x[rows]
        y = product(DOWN, e, form.gated(product(GATE, e, h), product(UP, e, h)))
        out = out.index_add(0, rows, (y * weights[rows, place, None]).to(out.dtype))
    return out
