"""The experts of a mixture whose weights stay packed as in the GGUF file.

Each expert that a token chose is unpacked when it is used, and once more in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sapwood.base.storage.gguf_linear import PackedMatrix, packed_product

GATE, UP, DOWN = "gate", "up", "down"
BIASES = ("gate_up_proj_bias", "down_proj_bias")  # of gate and up by turns; transformers' names
FUSED = {"gate_up_proj": (GATE, UP), "down_proj": (DOWN,)}  # what a parameter of transformers holds
ONE_BELOW = {"mlp.w1": (GATE,), "mlp.v1": (UP,), "mlp.w2": (DOWN,)}  # of DBRX
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
        """What transformers holds in the place of the blocks, by its names: gate_up_proj and down_proj are
        [experts, 2 I, D] and [experts, D, I], or each expert's matrix turned."""
        experts = range(len(self.get_parameter(DOWN)))
        found: dict[str, Tensor] = {}
        for name, parts in self.form.parts.items():
            each = [self.form.joined([self.matrix(which, e).dense() for which in parts]) for e in experts]
            found[name] = self.form.held(name, torch.stack(each))
        return found

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

    turned: names of parameters in which inputs are the rows of a matrix.
    by_turns: outputs of gate and up stand by turns, not one after the other.
    gated: (gate x, up x) -> what goes into down.
    parts: the matrices that each parameter holds.
    below: so many experts stand one below the other in a matrix; 0: a parameter is a stack.
    """

    turned: Sequence[str]
    by_turns: bool
    gated: Callable[[Tensor, Tensor], Tensor]
    parts: Mapping[str, tuple[str, ...]]
    below: int = 0

    @classmethod
    def of(cls, module: Any) -> Form:
        """Of transformers' experts, or of `GgufExperts`."""
        if isinstance(module, GgufExperts):
            return module.form
        if one_below(module):
            gated = partial(_gated, module.mlp.activation_fn)
            return cls(("mlp.w2",), False, gated, ONE_BELOW, module.num_experts)
        if not getattr(module, "is_transposed", False):
            turned = tuple(FUSED) if inputs_are_rows(module) else ()
            return cls(turned, False, partial(_gated, module.act_fn), FUSED)
        return cls(tuple(FUSED), True, partial(_gated_and_clamped, module.alpha, module.limit), FUSED)

    def stack(self, name: str, values: Tensor) -> Tensor:
        """A parameter of transformers as a stack with outputs as rows."""
        values = values.unflatten(0, (self.below, -1)) if self.below else values
        return values.mT.contiguous() if name in self.turned else values

    def held(self, name: str, stack: Tensor) -> Tensor:
        """The inverse of `stack`."""
        stack = stack.mT.contiguous() if name in self.turned else stack
        return stack.flatten(0, 1) if self.below else stack

    def matrices(self, stacks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gate, up and down, each as a stack with outputs as rows, from such stacks of the parameters."""
        found: dict[str, Tensor] = {}
        for name, parts in self.parts.items():
            rows, count = stacks[name], len(parts)
            some = [rows[:, i::count] for i in range(count)] if self.by_turns else rows.chunk(count, 1)
            found |= zip(parts, some, strict=True)
        return found

    def joined(self, matrices: Sequence[Tensor]) -> Tensor:
        """The rows of one expert's matrices as a parameter has them."""
        return torch.stack(list(matrices), 1).flatten(0, 1) if self.by_turns else torch.cat(list(matrices))

    def bias(self, module: Any, which: str, e: int) -> Tensor | float:
        """What one expert adds to a product; 0 for experts without biases."""
        both, down = (getattr(module, name, None) for name in BIASES)
        if both is None or down is None:
            return 0.0
        return down[e] if which == DOWN else both[e, (which == UP) :: 2]


def one_below(module: Any) -> dict[str, nn.Parameter]:
    """The parameters of experts that stand one below the other in a matrix, as DBRX's do in a module of
    their own, by their names in ``module``. Empty for all others."""
    inner = getattr(module, "mlp", None)
    own = dict(inner.named_parameters(recurse=False)) if isinstance(inner, nn.Module) else {}
    found = {f"mlp.{name}": parameter for name, parameter in own.items()}
    return found if found.keys() == ONE_BELOW.keys() else {}


def number_below(module: Any) -> int:
    """How many experts stand `one_below` the other in a module; 0: it has none that do."""
    if isinstance(module, GgufExperts):
        return module.form.below
    return Form.of(module).below if one_below(module) else 0


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
    """What gated experts give, by whatever multiplies their matrices, summed by weights. x: [..., D], which
    are T tokens; chosen, weights: [T, experts of a token]."""
    shape, x = x.shape, x.reshape(-1, x.shape[-1])
    out = torch.zeros_like(x)
    experts: list[int] = chosen.unique().tolist()
    for e in experts:
        rows, place = (chosen == e).nonzero(as_tuple=True)
        h = x[rows]
        y = product(DOWN, e, form.gated(product(GATE, e, h), product(UP, e, h)))
        out = out.index_add(0, rows, (y * weights[rows, place, None]).to(out.dtype))
    return out.view(shape)
