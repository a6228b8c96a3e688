"""Fill a model that has no memory yet with the unpacked tensors of a GGUF file, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sapwood.errors import ModelError, Problem
from sapwood.model.gguf_file import GgufFile
from sapwood.model.gguf_map import is_permuted, parameter_names, to_torch_layout

if TYPE_CHECKING:
    import torch

CHUNK_ELEMENTS = 1 << 24  # unpacked at a time: bounds what lies beside the growing model to 64 MB


def fill_from_gguf(model: Any, file: GgufFile, dtype: torch.dtype) -> None:
    """Give every parameter of ``model`` (a transformers model on the meta device) its values, in ``dtype``.

    Raises ModelError naming every tensor that is missing, unexpected or misshapen, before unpacking any.
    """
    from torch import nn

    names = parameter_names(file)
    check_tensors(file, names, dict(model.named_parameters()))
    for tensor, name in names.items():
        _place(model, name, nn.Parameter(_unpack(file, tensor, dtype), requires_grad=False))
    _fill_buffers(model)
    model.tie_weights()


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
