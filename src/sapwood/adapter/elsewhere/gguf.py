"""LoRA adapters in GGUF files, as llama.cpp applies them: the inverse of `export.gguf_adapter`.

``NAME.weight.lora_a`` [r, in] and ``.lora_b`` [out, r]; the product is multiplied by ``adapter.lora.alpha``
/ r, or by 1 if alpha is 0 (llama.cpp's ``llama-adapter.h``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sapwood.base.inspect import on_meta
from sapwood.base.network.parts import is_wrapper, own_names
from sapwood.errors import ModelError, Problem
from sapwood.gguf.file import GgufFile
from sapwood.gguf.layout import Grouped, to_torch_columns_of, to_torch_rows_of
from sapwood.gguf.names import is_stack, module_names, tensor_names
from sapwood.gguf.table.families import architecture_of, in_files

NAME = re.compile(r"(?P<tensor>.+)\.weight\.lora_(?P<part>[ab])")


def from_gguf(file: GgufFile, config: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """PEFT's settings and tensors. config: of the base, as transformers has it.

    Raises ModelError for another architecture than the base's, and for tensors that have no place in it.
    """
    where = str(file.path)
    text, own = config.get_text_config(), _own_names(config)
    kind, architecture = file.metadata.get("adapter.type"), architecture_of(text)
    if kind != "lora":
        raise ModelError(f"adapter type {kind!r} isn't supported", where, "only LoRA adapters are read")
    if file.architecture != in_files(architecture):
        why = f"it is for {file.architecture}, the base is {in_files(architecture)}"
        raise ModelError("the adapter doesn't fit this base", where, why)
    modules = module_names(architecture, text.num_hidden_layers)
    named = {name: NAME.fullmatch(name) for name in file.tensors}
    problems = [
        Problem(f"the adapter holds {name}", where, f"{architecture} has no linear for it")
        for name, found in named.items()
        if found is None
        or found["tensor"] not in modules
        or "token_embd" in name
        or is_stack(found["tensor"])
    ]
    if problems:
        raise ModelError(problems)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for name, found in sorted(named.items()):  # gate before up, if both are one linear
        assert found is not None
        values = file.tensors[name].dense()
        back = to_torch_rows_of if found["part"] == "b" else to_torch_columns_of
        values = torch.from_numpy(back(architecture, found["tensor"], values, text).copy())
        module = own(modules[found["tensor"]])
        matrix = _matrix(module, found["part"])
        if found["part"] == "a":
            ranks[module] = len(values)
            if not torch.equal(tensors.setdefault(matrix, values), values):
                why = (
                    f"{architecture} has {module} for it and for another tensor, whose lora_a is another one"
                )
                raise ModelError(f"the adapter holds {name}", where, why)
        else:
            tensors[matrix] = torch.cat([tensors[matrix], values]) if matrix in tensors else values
    for module, names in tensor_names(architecture, text.num_hidden_layers).items():
        grouped, matrix = Grouped.of_config(architecture, names, text), _matrix(own(module), "b")
        if grouped is not None and matrix in tensors:
            if len(tensors[matrix]) != len(grouped.order):
                raise ModelError(f"the adapter doesn't hold all of {' and '.join(names)}", where, module)
            tensors[matrix] = torch.from_numpy(grouped.joined([tensors[matrix].numpy()]))
    return _settings(ranks, file.metadata.get("adapter.lora.alpha"), where), tensors


def _matrix(module: str, part: str) -> str:
    return f"base_model.model.{module}.lora_{part.upper()}.weight"


def _own_names(config: Any) -> Callable[[str], str]:
    """From the names of a language model by itself to those that it has in the model of ``config``."""
    return own_names(on_meta(config, "adapter")) if is_wrapper(config) else str


def _settings(ranks: dict[str, int], alpha: Any, where: str) -> dict[str, Any]:
    if not ranks or not isinstance(alpha, int | float):
        lost = "LoRA matrices" if not ranks else "adapter.lora.alpha"
        raise ModelError(f"the file has no {lost}", where, "it isn't a whole adapter", "convert it again")
    rank = max(ranks.values())
    others = {module: own for module, own in ranks.items() if own != rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": float(alpha) or float(rank),
        "rank_pattern": others,
        "alpha_pattern": {} if alpha else {module: float(own) for module, own in others.items()},
        "target_modules": sorted(ranks),
        "bias": "none",
        "base_model_name_or_path": None,
    }
