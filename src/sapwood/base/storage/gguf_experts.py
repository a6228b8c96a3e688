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
            torch.stack(pair, 1).flatten(0, 1) if self.form.by_turns else torch.cat(pair) for pair in halves
        ]
        stacks = {"gate_up_proj": both, "down_proj": [self.matrix(DOWN, e).dense() for e in experts]}
        return {name: self.form.turn(torch.stack(stack)) for name, stack in stacks.items()}

    def forward(self, x: Tensor, *chosen: Tensor) -> Tensor:
        """Arguments as `mixed`, or x alone as `each_for_itself`."""

        def product(which: str, e: int, h: Tensor) -> Tensor:
            return packed_product(h, self.matrix(which, e)) + self.form.bias(self, which, e)

        if not chosen:
            return each_for_itself(x, len(self.get_parameter(DOWN)), self.form, product)
        return mixed(x, *chosen, form=self.form, product=product)


@dataclass(frozen=True, slots=True)
class Form:
    """How transformers holds the experts of a family, and what they compute between two products.

    turned: inputs are the rows of a matrix.
    by_turns: outputs of gate and up stand by turns, not one after the other.
    gated: (gate x, up x) -> what goes into down.
    """

    turned: bool
    by_turns: bool
    gated: Callable[[Tensor, Tensor], Tensor]

    @classmethod
    def of(cls, module: Any) -> Form:
        """Of transformers' experts, or of `GgufExperts`."""
        if isinstance(module, GgufExperts):
            return module.form
        if not getattr(module, "is_transposed", False):
            return cls(inputs_are_rows(module), False, partial(_gated, module.act_fn))
        return cls(True, True, partial(_gated_and_clamped, module.alpha, module.limit))

    def turn(self, stack: Tensor) -> Tensor:
        """A stack with outputs as rows from one as transformers has it, or the other way round."""
        return stack.swapaxes(-1, -2).contiguous() if self.turned else stack

    def halves(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Gate and up of a stack with outputs as rows."""
        if self.by_turns:
            return rows[:, ::2], rows[:, 1::2]
        gate, up = rows.chunk(2, 1)
        return gate, up

    def bias(self, module: Any, which: str, e: int) -> Tensor | float:
        """What one expert adds to a product; 0 for experts without biases."""
        both, down = (getattr(module, name, None) for name in BIASES)
        if both is None or down is None:
            return 0.0
        return down[e] if which == DOWN else both[e, (which == UP) :: 2]


def inputs_are_rows(module: Any) -> bool:
    """Whether transformers' stacks of gated experts are [experts, D, 2 I] and [experts, I, D]. Llama 4's
    class has no word for it."""
    if not hasattr(module, "gate_up_proj"):
        return False
    into, down = module.gate_up_proj.shape, module.down_proj.shape
    return into[1] == down[2] and into[2] == 2 * down[1]


def _gated(act_fn: Any, gate: Tensor, up: Tensor) -> Tensor:
    return act_fn(gate) * up


def _gated_and_clamped(alpha: float, limit: float, gate: Tensor, up: Tensor) -> Tensor:
    """GPT-OSS's."""
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return (up + 1) * gate * torch.sigmoid(alpha * gate)


def each_for_itself(x: Tensor, experts: int, form: Form, product: Product) -> Tensor:
    """What each of Llama 4's experts gives, by whatever multiplies their matrices. x: [experts * T, D], all
    tokens times their weights for the first expert, then for the next. A token that didn't choose an expert
    is 0 there, and gives 0."""
    out: list[Tensor] = []
    for e, h in enumerate(x.view(experts, -1, x.shape[-1])):
        rows = h.any(-1).nonzero().ravel()
        some = h[rows]
        y = product(DOWN, e, form.gated(product(GATE, e, some), product(UP, e, some)))
        out.append(torch.zeros_like(h).index_add(0, rows, y.to(h.dtype)))
    return torch.cat(out)


def mixed(x: Tensor, chosen: Tensor, weights: Tensor, form: Form, product: Product) -> Tensor:
    """What gated experts give, by whatever multiplies their matrices, summed by weights. x: [T, D]; chosen,
    weights: [T, experts of a token]."""
    out = torch.zeros_like(x)
    experts: list[int] = chosen.unique().tolist()
    for e in experts:
        rows, place = (chosen == e).nonzero(as_tuple=True)
        h = x[rows]
        y = product(DOWN, e, form.gated(product(GATE, e, h), product(UP, e, h)))
        out = out.index_add(0, rows, (y * weights[rows, place, None]).to(out.dtype))
    return out
