"""The trained model as a number format would have it: weights and inputs rounded in memory.

A check needs to know how much of a difference the format itself explains. The answer must not come from the
writer that is checked, or a fault of the writer would excuse itself. So nothing is written here: for a
moment, every product of the trained model is computed with rounded operands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sapwood.adapter.effective import Change
from sapwood.adapter.places.experts import stacks_in
from sapwood.base.network.parts import is_across, is_linear, text_names
from sapwood.base.storage.frozen import freeze
from sapwood.base.storage.gguf_experts import FUSED, GgufExperts, each_for_itself, mixed, one_below
from sapwood.base.storage.gguf_experts import Form as Experts
from sapwood.export.merge import held_out_loss
from sapwood.export.quantise import Quantiser
from sapwood.export.traces import Trace, far_from, rows_of
from sapwood.gguf.file import read_gguf
from sapwood.gguf.names import parameter_names
from sapwood.types import Example

FLOATS = ("F32", "F16", "BF16")
BLOCKS_OF_256 = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
Form = Callable[[str, Tensor], str]
"""(module, its weight) -> GGUF's name of the type that the weight has in the file."""


def yardstick(
    network: Any, traces: Sequence[Trace], form: Form, changes: Mapping[str, Change] | None, written: bool
) -> float:
    """Mean |difference of log p| that a format causes, as `check` measures it on an export.

    Args:
        form: the type of each weight.
        changes: how an adapter changes weights, if it is merged into them; None: it runs beside them.
        written: weights are rounded into their type; False: they have it already.
    """
    with rounded(network, form, changes, written):
        return far_from(traces, rows_of(network, traces))


def rounded_loss(
    network: Any, held: Sequence[Example], form: Form, changes: Mapping[str, Change] | None
) -> float:
    """The loss on held-out examples, in nats a target, with the weights as they come out of the types of
    ``form`` again. Arguments as `yardstick`."""
    with rounded(network, form, changes, True):
        return held_out_loss(network, held)


@torch.no_grad()
def in_formats(network: Any, opened: Any) -> Any:
    """A dense model as it computes in the number formats of ``opened``: the same model as another program
    opened it, from which nothing else is taken. Some buffers are in the weights' format, others are not."""
    own = dict([*network.named_parameters(), *network.named_buffers()])
    for name, tensor in (*opened.named_parameters(), *opened.named_buffers()):
        if name in own:  # a wrapper's parts beside text hold no weights here
            own[name].data = own[name].data.to(tensor.dtype)
    return network


@contextmanager
def rounded(network: Any, form: Form, changes: Mapping[str, Change] | None, written: bool) -> Generator[None]:
    """While open, linears, embeddings and experts of ``network`` compute with rounded operands, in fp32."""
    before: list[tuple[nn.Module, Any]] = []
    alone = text_names(network.get_base_model() if hasattr(network, "get_base_model") else network)
    try:
        with Quantiser() as quantiser:
            rounder = _Rounder(lambda name, weight: form(alone(name), weight), quantiser)
            for name, outer, base in _weights(network):
                if is_linear(base):
                    matrix = _matrix(base)
                    if matrix is None:
                        continue
                    rounder.matrices[name] = matrix
                before.append((outer, outer.__dict__.get("forward")))
                made = _embedding if isinstance(base, nn.Embedding) else _linear
                made = _experts if _is_mixture(base) else made
                outer.forward = partial(made, name, outer, outer.forward, base, rounder, changes, written)
            yield
    finally:
        for outer, own in before:
            del outer.forward
            if own is not None:
                outer.forward = own


@dataclass(slots=True)
class _Rounder:
    """Numbers as they come out of a type again. A type that takes a search for each block is searched
    for once for each weight; its blocks are kept meanwhile, as large as the file. matrices: what gives the
    weight of each linear, [out, in]."""

    form: Form
    quantiser: Quantiser
    blocks: dict[str, Any] = field(default_factory=dict[str, Any])
    matrices: dict[str, Callable[[], Tensor]] = field(default_factory=dict[str, Callable[[], Tensor]])

    def values(self, kind: str, values: Tensor) -> Tensor:
        if kind in FLOATS or kind == "Q8_0":
            return in_form(kind, values)
        flat = values.detach().reshape(-1, values.shape[-1]).cpu().numpy()
        return self._dense(kind, self.quantiser.packed(kind, flat), values)

    def whole(self, name: str, kind: str, weight: Tensor) -> Tensor:
        if kind in FLOATS or kind == "Q8_0":
            return in_form(kind, weight)
        if name not in self.blocks:
            self.blocks[name] = self.quantiser.packed(kind, weight.detach().cpu().numpy())
        return self._dense(kind, self.blocks[name], weight)

    def _dense(self, kind: str, blocks: Any, like: Tensor) -> Tensor:
        return torch.from_numpy(self.quantiser.dense(kind, blocks)).view(like.shape).to(like)


def _weights(network: Any) -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """(name in the transformers model, the module to ask, the base's module) for every matrix."""
    inside = {id(m.base_layer) for m in network.modules() if hasattr(m, "base_layer")}
    for name, outer in network.named_modules():
        if id(outer) in inside or any(part in name for part in (".lora_", ".ia3_l")):
            continue
        base = outer
        while hasattr(base, "base_layer"):  # of experts one around the other, for each stack
            base = base.base_layer
        embedding = isinstance(base, nn.Embedding) and getattr(base, "weight", base) is not None
        if is_linear(base) or embedding or _is_mixture(base):
            yield name.removeprefix("base_model.model."), outer, base


def _matrix(base: Any) -> Callable[[], Tensor] | None:
    """What gives a linear's weight; None for one that computes more, as some routers do, which files have in
    fp32. Asked before its forward is another: `freeze` may try that."""
    if is_across(base) and not isinstance(base, nn.Linear):
        return lambda: base.weight.detach().T
    try:
        return freeze(base).dense
    except TypeError:
        return None


def _linear(
    name: str,
    outer: Any,
    whole: Callable[[Tensor], Tensor],
    base: Any,
    rounder: _Rounder,
    changes: Mapping[str, Change] | None,
    written: bool,
    x: Tensor,
) -> Tensor:
    weight, bias = rounder.matrices[name]().float().contiguous(), base.bias
    bias = None if bias is None else bias.float()
    kind = rounder.form(name, weight)
    beside = whole(x) - base(x) if outer is not base and changes is None else 0
    if changes is not None:
        change = changes.get(f"{name}.weight", _same)
        weight = change(weight.T).T.contiguous() if is_across(base) else change(weight)
        bias = None if bias is None else changes.get(f"{name}.bias", _same)(bias)
    weight = rounder.whole(name, kind, weight) if written else weight
    return (nn.functional.linear(input_of(kind, _as_narrow(x)), weight, bias) + beside).to(x.dtype)


def _experts(
    name: str,
    outer: Any,
    whole: Callable[..., Tensor],
    base: Any,
    rounder: _Rounder,
    changes: Mapping[str, Change] | None,
    written: bool,
    x: Tensor,
    *chosen: Tensor,
) -> Tensor:
    """Stacks of experts. Those that a file can hold are gated; what is no file's is by the module's own
    forward, whose two products have nothing rounded between them."""
    own, mixture = _stacks(base), _as_gated(base)
    before = base.dense() if isinstance(base, GgufExperts) else {leaf: p.data for leaf, p in own.items()}
    stacks: dict[str, Tensor] = {}
    kinds: dict[str, str] = {}
    for leaf, held in before.items():
        change = _same if changes is None else changes.get(f"{name}.{leaf}", _same)
        weight = change(held.float())
        weight = mixture.stack(leaf, weight) if mixture else weight
        kinds[leaf] = rounder.form(f"{name}.{leaf}", weight)
        stacks[leaf] = rounder.whole(f"{name}.{leaf}", kinds[leaf], weight) if written else weight
    if (outer is base or changes is not None) and mixture and set(kinds.values()) != {"F32"}:
        matrices = mixture.matrices(stacks)
        into = {which: kinds[leaf] for leaf, parts in mixture.parts.items() for which in parts}

        def product(which: str, e: int, h: Tensor) -> Tensor:
            return input_of(into[which], h) @ matrices[which][e].T + mixture.bias(base, which, e)

        if not chosen:
            experts = len(next(iter(matrices.values())))
            return each_for_itself(_as_narrow(x), experts, mixture, product).to(x.dtype)
        return mixed(_as_narrow(x), *chosen, form=mixture, product=product).to(x.dtype)
    try:
        for leaf, stack in own.items():
            stack.data = mixture.held(leaf, stacks[leaf]) if mixture else stacks[leaf]
        forward = base if outer is not base and changes is not None else whole
        return forward(input_of(next(iter(kinds.values())), _as_narrow(x)), *chosen).to(x.dtype)
    finally:
        for leaf, stack in own.items():
            stack.data = before[leaf]


def _as_gated(module: Any) -> Experts | None:
    """The form of experts that a file can hold."""
    gated = isinstance(module, GgufExperts) or stacks_in(module).keys() == FUSED.keys()
    return Experts.of(module) if gated or one_below(module) else None


def _stacks(module: nn.Module) -> dict[str, nn.Parameter]:
    """What holds the experts of a mixture, by its names in the module."""
    return stacks_in(module) or one_below(module)


def _is_mixture(module: nn.Module) -> bool:
    return isinstance(module, GgufExperts) or bool(_stacks(module))


def _embedding(
    name: str,
    outer: Any,
    whole: Callable[[Tensor], Tensor],
    base: Any,
    rounder: _Rounder,
    changes: Mapping[str, Change] | None,
    written: bool,
    ids: Tensor,
) -> Tensor:
    """An embedding's rows are rounded one by one, so only the rows that were looked up are rounded."""
    rows = whole(ids)
    if not written:
        return rows
    return rounder.values(rounder.form(name, rows), rows.float()).to(rows.dtype)


def _as_narrow(x: Tensor) -> Tensor:
    """``x`` in fp32. If the model computes in bf16 or fp16, each number is moved by up to half a step: the
    run's own format and the export's format each cause a part of the difference."""
    if x.dtype == torch.float32:
        return x
    share = torch.rand(x.shape, generator=torch.Generator().manual_seed(x.numel())) * 2 - 1
    return x.float() * (1 + share * (torch.finfo(x.dtype).eps / 2))


def _same(weight: Tensor) -> Tensor:
    return weight


# --- types of a file --------------------------------------------------------------------------------------


def whole_file(kind: str) -> Form:
    """A file whose matrices all have one type; those whose rows make no whole blocks are in F16."""
    return lambda _, weight: kind if weight.shape[-1] % 32 == 0 or kind != "Q8_0" else "F16"


def types_in(path: Path) -> tuple[Form, str]:
    """The types in a GGUF file, and the one that most matrices have. A tied head has the embedding's."""
    file = read_gguf(path)
    modules = {name.removesuffix(".weight"): tensor for tensor, name in parameter_names(file).items()}
    types = {module: file.tensors[tensor].type for module, tensor in modules.items()}
    types.setdefault("lm_head", file.tensors["token_embd.weight"].type)
    matrices = Counter(tensor.type for tensor in file.tensors.values() if len(tensor.shape) > 1)
    return lambda name, _: types[name], matrices.most_common(1)[0][0]


# --- formats ----------------------------------------------------------------------------------------------


def in_form(kind: str, values: Tensor) -> Tensor:
    """float32 values as they come out of ``kind`` again. Blocks go along the last dimension."""
    match kind:
        case "F16":
            return values.half().float()
        case "BF16":
            return values.bfloat16().float()
        case "Q8_0":
            return _in_blocks(values, 32)
        case _:
            return values


def input_of(kind: str, x: Tensor) -> Tensor:
    """What llama.cpp multiplies a weight of type ``kind`` with: 16-bit floats, or blocks of 8-bit numbers."""
    if kind in FLOATS:
        return in_form(kind, x)
    return _in_blocks(x, 256 if kind in BLOCKS_OF_256 or kind.startswith("IQ") else 32)


def _in_blocks(values: Tensor, size: int) -> Tensor:
    """Each block in 255 steps of its largest absolute value."""
    blocks = values.reshape(-1, size)
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    steps = torch.round(blocks / torch.where(scale == 0, 1, scale))
    return (steps * scale.half().float()).reshape(values.shape)
