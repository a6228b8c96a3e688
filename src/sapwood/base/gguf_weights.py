"""Fill a model that has no memory yet with the tensors of a GGUF file, one after the other: unpacked, or in
the file's own blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sapwood.errors import ModelError, Problem
from sapwood.gguf.file import GgufFile
from sapwood.gguf.map import is_permuted, parameter_names, to_torch_layout, to_torch_rows
from sapwood.gguf.types import PACKED_TYPES, unknown_types
from sapwood.machine.doing import counted

if TYPE_CHECKING:
    import torch

Quantise = Callable[[Any, Any], Any]  # (weight, bias or None) -> a module in the linear's place

CHUNK_ELEMENTS = 1 << 24  # unpacked at a time: bounds what lies beside the growing model to 64 MB


def fill_from_gguf(model: Any, file: GgufFile, dtype: torch.dtype, quantise: Quantise | None = None) -> None:
    """Give every parameter of ``model`` (a transformers model on the meta device) its values, in ``dtype``;
    ``quantise`` makes another module of each of the decoder's linears as soon as its weight is there.

    Raises ModelError naming every tensor that is missing, unexpected or misshapen, before unpacking any.
    """
    from torch import nn

    head = model.get_output_embeddings()
    names = _checked_names(model, file)
    for tensor, name in counted(f"loading {file.path.name}", names.items(), len(names)):
        weight = nn.Parameter(_unpack(file, tensor, dtype), requires_grad=False)
        owner, module = _owner(model, name)
        if (
            quantise is not None
            and isinstance(module, nn.Linear)
            and module is not head
            and weight.dim() == 2
        ):
            model.set_submodule(owner, quantise(weight, module.bias))
        else:
            _place(model, name, weight)
        file.forget()
    _fill_buffers(model)
    model.tie_weights()


def pack_from_gguf(model: Any, file: GgufFile, dtype: torch.dtype) -> None:
    """Give every linear and embedding of ``model`` (on the meta device) the file's own blocks, and everything
    else its values in ``dtype``, the number format of products. A tied head shares the embedding's blocks.

    Raises ModelError as `fill_from_gguf`, and for types of blocks that aren't unpacked in torch.
    """
    from torch import nn

    from sapwood.base.storage.gguf_linear import GgufEmbedding, GgufLinear, rows_last

    names = _checked_names(model, file)
    _refuse_unknown(file)
    for tensor, name in counted(f"loading {file.path.name}", names.items(), len(names)):
        owner, module = _owner(model, name)
        packed = file.tensors[tensor]
        if len(packed.shape) == 2 and isinstance(module, nn.Linear | nn.Embedding):
            blocks = rows_last(to_torch_rows(file, tensor), packed.type)
            if isinstance(module, nn.Linear):
                made: nn.Module = GgufLinear(packed.type, blocks, dtype, module.bias)
            else:
                made = GgufEmbedding(packed.type, blocks, dtype, getattr(module, "scalar_embed_scale", 1.0))
            model.set_submodule(owner, made)
        else:
            _place(model, name, nn.Parameter(_unpack(file, tensor, dtype), requires_grad=False))
        file.forget()
    embedding = model.get_input_embeddings()
    if "lm_head.weight" not in names.values():
        model.set_output_embeddings(GgufLinear(embedding.packed.kind, embedding.weight, dtype))
    _fill_buffers(model)


def _checked_names(model: Any, file: GgufFile) -> dict[str, str]:
    names = parameter_names(file)
    check_tensors(file, names, dict(model.named_parameters()))
    return names


def _refuse_unknown(file: GgufFile) -> None:
    kinds = unknown_types(file)
    if kinds:
        raise ModelError(
            f"blocks of type {', '.join(kinds)} can't stay packed",
            str(file.path),
            f"base.storage gguf knows {', '.join(PACKED_TYPES)}",
            "base.storage: bf16 unpacks the whole file while loading",
        )


def check_tensors(file: GgufFile, names: Mapping[str, str], wanted: Mapping[str, Any]) -> None:
    """Compare the file's tensors with the parameters that the config describes."""
    lost = sorted(wanted.keys() - names.values())
    problems = [Problem(f"tensor {name} is missing", str(file.path)) for name in lost]
    for tensor, name in names.items():
        shape = file.tensors[tensor].shape
        if name not in wanted:
            problems.append(unexpected(tensor, file.path))
        elif shape != tuple(wanted[name].shape):
            problems.append(misshapen(tensor, shape, tuple(wanted[name].shape), file.path))
    if problems:
        raise ModelError(problems)


def unexpected(name: str, path: Path) -> Problem:
    return Problem(f"unexpected tensor {name}", str(path), "the architecture has no place for it")


def misshapen(name: str, found: tuple[int, ...], wanted: tuple[int, ...], path: Path) -> Problem:
    why = f"the file has {list(found)}, the config asks for {list(wanted)}"
    return Problem(f"tensor {name} has another shape", str(path), why)


def _unpack(file: GgufFile, name: str, dtype: torch.dtype) -> torch.Tensor:
    """One tensor's values as torch wants them, unpacked a few rows at a time."""
    import torch

    tensor = file.tensors[name]
    out = torch.empty(tensor.shape, dtype=dtype)
    rows = tensor.shape[0]
    whole = is_permuted(file, name) or len(tensor.shape) == 1
    step = rows if whole else max(1, CHUNK_ELEMENTS * rows // out.numel())
    for start in range(0, rows, step):
        part = tensor if whole else tensor.rows(start, start + step)
        out[start : start + step] = torch.from_numpy(to_torch_layout(file, name, part.dense()))
    return out


def _owner(model: Any, name: str) -> tuple[str, Any]:
    """The module that holds a parameter: its path, and itself."""
    owner = name.rpartition(".")[0]
    return owner, model.get_submodule(owner)


def _place(model: Any, name: str, parameter: Any) -> None:
    """Put a parameter in its module, marked so that transformers' initialiser leaves it alone."""
    owner, _, leaf = name.rpartition(".")
    parameter._is_hf_initialized = True
    setattr(model.get_submodule(owner), leaf, parameter)


def _fill_buffers(model: Any) -> None:
    """Compute the buffers that no file stores (rotary frequencies, embedding scale), as from_pretrained does:
    give them memory, then run the model's own initialiser, which skips all that is marked as loaded."""
    import torch

    for name, buffer in list(model.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        module.register_buffer(leaf, torch.empty_like(buffer, device="cpu"), persistent=False)
    model.initialize_weights()
