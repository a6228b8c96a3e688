"""The tensors of a model folder, each read when it is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sapwood.base.folder import Folder
from sapwood.base.packed.formats import UNUSED, Packed, Read, packed_weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A quantised weight, which becomes float32 when it is sliced."""

    packed: Packed
    read: Read

    def __getitem__(self, _: Any) -> Tensor:
        return self.packed(self.read)


def stored_tensors(folder: Folder) -> dict[str, Any]:
    """By the names of the files, or by those that quantised weights had before. Each is read when it is
    sliced (``tensor[...]``), as transformers does while it loads: one after the other."""
    files = _files(folder)

    def read(name: str) -> Tensor:
        return files[name].get_tensor(name)

    packed = packed_weights(folder, read)
    plain = {name: files[name].get_slice(name) for name in _plain(folder, packed)}
    return plain | {name: Unpacked(one, read) for name, one in packed.items()}


def num_elements(folder: Folder) -> int:
    """How many numbers all weights have, in whatever form they are held."""
    files = _files(folder)
    packed = packed_weights(folder, lambda name: files[name].get_tensor(name))
    shapes = [folder.shapes[name] for name in _plain(folder, packed)]
    return sum(math.prod(shape) for shape in [*shapes, *(one.shape for one in packed.values())])


def _files(folder: Folder) -> dict[str, Any]:
    """The open file of each tensor."""
    from safetensors import safe_open

    opened = [safe_open(str(shard), framework="pt") for shard in folder.shards]
    return {name: file for file in opened for name in file.keys()}  # noqa: SIM118 - no mapping


def _plain(folder: Folder, packed: Mapping[str, Packed]) -> list[str]:
    """The tensors that are no part of a quantised weight."""
    used = {part for one in packed.values() for part in one.parts}
    return [name for name in folder.shapes if name not in used and not (packed and UNUSED.search(name))]
