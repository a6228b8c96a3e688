"""What a GGUF file calls tensors, and what transformers calls them.

Files hold the experts of a layer as one stack each of gate, up and down. transformers holds gate and up as
one stack, so a parameter can have several tensors. `layout` tells how their values lie.
"""

from __future__ import annotations

import re

from sapwood.errors import ModelError, Problem
from sapwood.gguf.facts import row_of
from sapwood.gguf.file import NUMBERS, GgufFile
from sapwood.gguf.keys import SHARED_KEYS, integer, layers_of
from sapwood.gguf.rope import DIVISORS, FACTORS, FOLDER
from sapwood.gguf.table.families import FAMILIES
from sapwood.gguf.table.modules import (
    BOTH,
    DECAY,
    LAYERS,
    OF_KEYS,
    OF_LAYER,
    OLDER,
    OTHER_ENDS,
    OUTSIDE,
    SKIP,
    STACKS,
)

_BLOCK = re.compile(r"blk\.(\d{1,6})\.")
_ONE_EXPERT = re.compile(r"blk\.\d+\.ffn_(gate|up|down)\.\d+\.weight")
_COMPUTED = {DIVISORS, *FACTORS.values()}  # read for the config, no parameter of its own


def module_names(architecture: str, num_layers: int, older: bool = False) -> dict[str, str]:
    """GGUF tensor name -> module name, both without ``.weight``: ``blk.0.attn_q`` -> ``model.layers.0…``. A
    stack of experts has the name of a parameter; one of gate and up has two tensors. So has what is named by
    its whole name (`is_whole`). ``older``: with what only older files have."""
    names = dict(OTHER_ENDS.get(architecture, OUTSIDE))
    layers = LAYERS.get(architecture, "model.layers")
    own = OF_LAYER[architecture] | (OLDER.get(architecture, {}) if older else {})
    for layer in range(num_layers):
        for tensor, module in own.items():
            names[f"blk.{layer}.{tensor}"] = f"{layers}.{layer}.{module}"
    for tensor in unread(architecture, num_layers):
        names.pop(tensor, None)
    return names


def unread(architecture: str, num_layers: int) -> list[str]:
    """Tensors that a file must have, and that nobody reads: those of keys and values of layers that use
    other layers' instead."""
    own = FAMILIES[architecture].own_keys or num_layers
    return [f"blk.{layer}.{tensor}" for layer in range(own, num_layers) for tensor in OF_KEYS]


def _keys_of_others(file: GgufFile, layers: int) -> list[str]:
    """Tensors that a file may have although it says that its last layers use keys of others."""
    shared = integer(file, SHARED_KEYS, 0)
    return [f"blk.{layer}.{tensor}" for layer in range(layers - shared, layers) for tensor in OF_KEYS]


def tensor_names(architecture: str, num_layers: int) -> dict[str, tuple[str, ...]]:
    """The inverse of `module_names`: the tensors of a module, whose rows follow each other in that order."""
    names: dict[str, tuple[str, ...]] = {}
    for tensor, module in module_names(architecture, num_layers).items():
        names[module] = (*names.get(module, ()), tensor)
    return names


def is_stack(tensor: str) -> bool:
    """Whether a tensor, named without ``.weight``, holds one matrix for each expert."""
    return tensor.rpartition(".")[2] in (*STACKS, BOTH)


def is_whole(architecture: str, tensor: str) -> bool:
    """Whether a tensor of the table has its whole name there, and is a parameter that no module is called
    after."""
    name = of_layer(tensor)
    bare = (DECAY, SKIP, *NUMBERS, *FAMILIES[architecture].bare)
    return name in bare or name.endswith((".weight", ".bias", ".scale"))


def of_layer(tensor: str) -> str:
    """What a tensor is called in every layer."""
    return tensor.split(".", 2)[2] if tensor.startswith("blk.") else tensor


def in_metadata(tensor: str) -> bool:
    """Whether a tensor of the table is one number, which files have in an array for all layers."""
    return of_layer(tensor) in NUMBERS


def file_name(architecture: str, tensor: str, leaf: str) -> str:
    """The name in a file of the weight or bias of a tensor of the table."""
    return tensor if is_whole(architecture, tensor) else f"{tensor}.{leaf}"


def parameter_names(file: GgufFile) -> dict[str, str]:
    """GGUF tensor name -> transformers parameter name, for every tensor that becomes one, or a part of one.

    Raises ModelError that lists the tensors which have no place in the architecture.
    """
    layers, architecture = layers_of(file), row_of(file)
    modules, left = module_names(architecture, layers, older=True), unread(architecture, layers)
    left += _keys_of_others(file, layers)
    if any(_ONE_EXPERT.fullmatch(tensor) for tensor in file.tensors):
        why = "newer files have one stack for all experts of a layer"
        raise ModelError("the file has tensors for single experts", str(file.path), why, FOLDER)
    names: dict[str, str] = {}
    strangers: list[Problem] = []
    for tensor in file.tensors:
        if (block := _BLOCK.match(tensor)) and layers <= int(block[1]) < integer(file, "block_count"):
            continue  # it guesses ahead
        stem, _, suffix = tensor.rpartition(".")
        if stem in left:
            continue
        if stem in modules and is_stack(stem) and suffix == "weight":
            names[tensor] = modules[stem]
        elif stem in modules and not is_stack(stem) and suffix in ("weight", "bias"):
            names[tensor] = f"{modules[stem]}.{suffix}"
        elif tensor in modules and is_whole(architecture, tensor):
            names[tensor] = modules[tensor]
        elif tensor not in _COMPUTED:
            strangers.append(
                Problem(
                    f"unexpected tensor {tensor}", str(file.path), f"{file.architecture} has no such tensor"
                )
            )
    if strangers:
        raise ModelError(strangers)
    return names


def sources(file: GgufFile) -> dict[str, tuple[str, ...]]:
    """transformers parameter name -> its tensors, whose rows follow each other in that order. Raises
    ModelError as `parameter_names`."""
    found: dict[str, tuple[str, ...]] = {}
    table = list(module_names(row_of(file), layers_of(file), older=True))
    place = {tensor: i for i, tensor in enumerate(table)}

    for tensor, name in parameter_names(file).items():
        found[name] = (*found.get(name, ()), tensor)

    def order(tensor: str) -> int:
        return place[tensor] if tensor in place else place[tensor.rpartition(".")[0]]

    return {name: tuple(sorted(tensors, key=order)) for name, tensors in found.items()}
