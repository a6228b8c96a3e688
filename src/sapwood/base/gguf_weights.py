"""Fill a model that has no memory yet with the tensors of a GGUF file, one after the other: unpacked, or in
the file's own blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sapwood.base.network.parts import is_across, is_linear, own_names
from sapwood.errors import ModelError, Problem
from sapwood.gguf.facts import row_of
from sapwood.gguf.file import GgufFile, GgufTensor
from sapwood.gguf.layout import (
    Grouped,
    has_other_columns,
    is_whole_only,
    places,
    to_torch_layout,
    to_torch_rows,
)
from sapwood.gguf.names import of_layer, sources
from sapwood.gguf.table.modules import BOTH, ROUTER, STEPS, THREE_KERNELS
from sapwood.gguf.types import PACKED_TYPES, unknown_types
from sapwood.machine.doing import counted

if TYPE_CHECKING:
    import torch

Quantise = Callable[[Any, Any], Any]  # (weight, bias or None) -> a module in the linear's place

PLAIN = {"torch.float32": "F32", "torch.bfloat16": "BF16", "torch.float16": "F16"}
STACK = 3  # dimensions of a stack of experts
WITHIN = ".mlp"  # the module in DBRX's experts that holds their matrices
CHUNK_ELEMENTS = 1 << 24  # unpacked at a time: bounds what lies beside the growing model to 64 MB


def fill_from_gguf(model: Any, file: GgufFile, dtype: torch.dtype, quantise: Quantise | None = None) -> None:
    """Give every parameter of ``model`` (a transformers model on the meta device) its values, in ``dtype``;
    ``quantise`` makes another module of each of the decoder's linears as soon as its weight is there.

    Raises ModelError naming every tensor that is missing, unexpected or misshapen, before unpacking any.
    """
    from torch import nn

    head = model.get_output_embeddings()
    wanted, found = _checked_sources(model, file)
    for name, tensors in counted(f"loading {file.path.name}", found.items(), len(found)):
        weight = _unpack(file, tensors, wanted[name], dtype, model.config)
        owner, module = _owner(model, name)
        if (
            quantise is not None
            and isinstance(module, nn.Linear)
            and module is not head
            and weight.dim() == 2
            and not _stays(tensors[0], module)
        ):
            model.set_submodule(owner, quantise(weight, module.bias))
        else:
            _place(model, name, weight)
        file.forget()
    _fill_buffers(model)
    model.tie_weights()


def pack_from_gguf(model: Any, file: GgufFile, dtype: torch.dtype) -> None:
    """Give every linear, embedding and expert of ``model`` (on the meta device) the file's own blocks, and
    everything else its values in ``dtype``, the number format of products. A tied head shares the embedding's
    blocks.

    Raises ModelError as `fill_from_gguf`, and for types of blocks that aren't unpacked in torch.
    """
    from torch import nn

    from sapwood.base.storage.gguf_experts import GgufExperts
    from sapwood.base.storage.gguf_linear import GgufEmbedding, GgufLinear, rows_last

    wanted, found = _checked_sources(model, file)
    _refuse_unknown(file)
    for name, tensors in counted(f"loading {file.path.name}", found.items(), len(found)):
        owner, module = _owner(model, name)
        packed = file.tensors[tensors[0]]
        grouped, kinds = Grouped.of(file, tensors), {file.tensors[tensor].type for tensor in tensors}
        if grouped and len(kinds) == 1:
            rows = grouped.joined([np.asarray(file.tensors[tensor].data) for tensor in tensors])
            model.set_submodule(
                owner, GgufLinear(packed.type, rows_last(rows, packed.type), dtype, module.bias)
            )
        elif grouped or has_other_columns(file, tensors[0]) or (is_linear(module) and len(kinds) > 1):
            plain = _unpack(file, tensors, wanted[name], dtype, model.config).T.unsqueeze(1).contiguous()
            model.set_submodule(owner, GgufLinear(PLAIN[str(dtype)], plain, dtype, module.bias))
        elif _stays(tensors[0], module):
            _place(model, name, _unpack(file, tensors, wanted[name], dtype, model.config))
        elif len(packed.shape) == 2 and (is_linear(module) or isinstance(module, nn.Embedding)):
            rows = [to_torch_rows(file, tensor) for tensor in tensors]
            blocks = rows_last(np.concatenate(rows) if len(rows) > 1 else rows[0], packed.type)
            if is_linear(module):
                made: nn.Module = GgufLinear(packed.type, blocks, dtype, module.bias, is_across(module))
            else:
                made = GgufEmbedding(packed.type, blocks, dtype, getattr(module, "scalar_embed_scale", 1.0))
            model.set_submodule(owner, made)
        elif len(packed.shape) == STACK:
            experts = module if isinstance(module, GgufExperts) else GgufExperts(module, dtype)
            for tensor in tensors:
                for which, stack in _matrices(tensor, file.tensors[tensor]):
                    experts.put(which, *_blocks_of_experts(stack))
            model.set_submodule(owner, experts)
        else:
            _place(model, name, _unpack(file, tensors, wanted[name], dtype, model.config))
        file.forget()
    embedding = model.get_input_embeddings()
    if "output.weight" not in file.tensors:
        model.set_output_embeddings(GgufLinear(embedding.packed.kind, embedding.weight, dtype))
    _fill_buffers(model)


def _stays(tensor: str, module: Any) -> bool:
    """Whether a linear must stay the module that it is: a model reads its weight without calling it, or it is
    a router that computes more, as Llama 4's."""
    from torch import nn

    name = of_layer(tensor).removesuffix(".weight")
    chooses = name == ROUTER and is_linear(module) and type(module).forward is not nn.Linear.forward
    return chooses or name in (STEPS, *THREE_KERNELS)


def _matrices(name: str, stack: GgufTensor) -> list[tuple[str, GgufTensor]]:
    """The stacks that a tensor of experts holds, with the names that `GgufExperts` has for them."""
    from sapwood.base.storage.gguf_experts import GATE, UP

    if not of_layer(name).startswith(BOTH):
        return [(name.split("_")[1], stack)]  # blk.0.ffn_gate_exps.weight
    gate, up = np.split(np.asarray(stack.data), 2, axis=1)
    return [(GATE, replace(stack, data=gate)), (UP, replace(stack, data=up))]


def _blocks_of_experts(stack: GgufTensor) -> tuple[str, Any]:
    """The type of a stack, and the blocks of each expert as `rows_last` orders those of a matrix."""
    import torch

    from sapwood.base.storage.gguf_linear import rows_last

    first = rows_last(np.asarray(stack.data[0]), stack.type)
    blocks = torch.empty(len(stack.data), *first.shape, dtype=first.dtype)
    for expert, rows in enumerate(stack.data):
        blocks[expert] = rows_last(np.asarray(rows), stack.type)
    return stack.type, blocks


def _checked_sources(model: Any, file: GgufFile) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
    """What the model wants (parameters, and the buffers that checkpoints hold), and where it lies."""
    kept, own = model.state_dict().keys(), own_names(model)
    wanted: dict[str, Any] = dict(model.named_parameters())
    wanted |= {name: buffer for name, buffer in model.named_buffers() if name in kept}
    found = {own(name): tensors for name, tensors in sources(file).items()}
    check_tensors(file, found, wanted, model.config)
    return wanted, found


def _refuse_unknown(file: GgufFile) -> None:
    kinds = unknown_types(file)
    if kinds:
        raise ModelError(
            f"blocks of type {', '.join(kinds)} can't stay packed",
            str(file.path),
            f"base.storage gguf knows {', '.join(PACKED_TYPES)}",
            "base.storage: bf16 unpacks the whole file while loading",
        )


def check_tensors(
    file: GgufFile, found: Mapping[str, Sequence[str]], wanted: Mapping[str, Any], config: Any
) -> None:
    """Compare the file's tensors with the parameters that the config describes."""
    lost = sorted(wanted.keys() - found.keys())
    problems = [Problem(f"tensor {name} is missing", str(file.path)) for name in lost]
    for name, tensors in found.items():
        if name not in wanted:
            problems += [unexpected(tensor, file.path) for tensor in tensors]
            continue
        grouped = Grouped.of(file, tensors)
        there = wanted[name]
        parts = grouped.apart(there) if grouped else places(row_of(file), tensors, there, config)
        for tensor, place in zip(tensors, parts, strict=True):
            shape, own = file.tensors[tensor].shape, tuple(place.shape)
            if _without_ones(shape) != _without_ones(own):  # the gate of a shared expert is often a vector
                problems.append(misshapen(tensor, shape, own, file.path))
    if problems:
        raise ModelError(problems)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def unexpected(name: str, path: Path) -> Problem:
    return Problem(f"unexpected tensor {name}", str(path), "the architecture has no place for it")


def misshapen(name: str, found: tuple[int, ...], wanted: tuple[int, ...], path: Path) -> Problem:
    why = f"the file has {list(found)}, the config asks for {list(wanted)}"
    return Problem(f"tensor {name} has another shape", str(path), why)


def _unpack(
    file: GgufFile, names: Sequence[str], wanted: Any, dtype: torch.dtype, config: Any
) -> torch.Tensor:
    """The values of what a model wants, as torch has them, unpacked a few rows, or a few experts, at a time.
    A buffer keeps the number format that the model gives it."""
    import torch
    from torch import nn

    out = torch.empty(wanted.shape, dtype=dtype if isinstance(wanted, nn.Parameter) else wanted.dtype)
    if (grouped := Grouped.of(file, names)) is not None:
        out.copy_(torch.from_numpy(grouped.joined([file.tensors[name].dense() for name in names])))
        return nn.Parameter(out, requires_grad=False)
    for name, part in zip(names, places(row_of(file), names, out, config), strict=True):
        tensor = file.tensors[name]
        rows = tensor.shape[0]
        whole = is_whole_only(file, name) or tensor.shape[1:] != part.shape[1:]
        step = rows if whole else max(1, CHUNK_ELEMENTS * rows // part.numel())
        for start in range(0, rows, step):
            some = tensor if whole else tensor.rows(start, start + step)
            values = torch.from_numpy(to_torch_layout(file, name, some.dense()))
            target = part if whole else part[start : start + step]
            target.copy_(values.reshape(target.shape))
    return nn.Parameter(out, requires_grad=False) if isinstance(wanted, nn.Parameter) else out


def _owner(model: Any, name: str) -> tuple[str, Any]:
    """The module that holds a parameter, or the experts that do: its path, and itself."""
    owner = name.rpartition(".")[0]
    owner = owner.removesuffix(WITHIN) if owner.endswith(f"experts{WITHIN}") else owner
    return owner, model.get_submodule(owner)


def _place(model: Any, name: str, values: Any) -> None:
    """Put a parameter or a buffer in its module, marked so that transformers' initialiser leaves it alone."""
    owner, _, leaf = name.rpartition(".")
    values._is_hf_initialized = True
    setattr(model.get_submodule(owner), leaf, values)


def _fill_buffers(model: Any) -> None:
    """Compute the buffers that no file stores (rotary frequencies, embedding scale), as from_pretrained does:
    give them memory, then run the model's own initialiser, which skips all that is marked as loaded."""
    import torch

    for name, buffer in list(model.named_buffers()):
        if buffer.device.type != "meta":  # it came from the file
            continue
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        module.register_buffer(leaf, torch.empty_like(buffer, device="cpu"), persistent=False)
    model.initialize_weights()
