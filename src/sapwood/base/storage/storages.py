"""The forms that a frozen base can be held in: which fit a model, how many bytes each takes, which is taken.

========  ==========================================================================
storage   how a weight of a linear is held
========  ==========================================================================
fp32      as it is; bf16 and fp16 likewise: products are computed in that format
gguf      the file's own blocks, unpacked where a layer is used; embedding, head and experts too
nf4, fp4  4 bits by bitsandbytes, unpacked likewise; embedding and head stay dense
int8      8 bits by bitsandbytes; embedding and head stay dense
int8-     8 bits, and multiplied as such: activations are rounded too; the backward pass, embedding
compute   and head stay dense (`int8_linear`)
========  ==========================================================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sapwood.base.inspect import skeleton
from sapwood.config.kinds import Storage
from sapwood.config.sections import BaseConfig
from sapwood.errors import ConfigError
from sapwood.gguf.file import GgufFile, read_gguf
from sapwood.gguf.layout import has_other_columns
from sapwood.gguf.names import parameter_names
from sapwood.gguf.types import unknown_types
from sapwood.machine.device import Device
from sapwood.machine.measure import fastest_matmul_dtype, machine_facts, torch_dtype
from sapwood.machine.memory import available_memory
from sapwood.types import BaseSpec

if TYPE_CHECKING:
    import torch

DENSE = ("fp32", "bf16", "fp16")
BITSANDBYTES = ("nf4", "fp4", "int8")
FILLED = 0.9  # of free memory, at most: the rest is the system's


def storage_dtype(config: BaseConfig) -> torch.dtype:
    """The number format of the base's dense weights, and the one that packed weights are unpacked into.
    ``config``: it has no ``auto`` left."""
    return torch_dtype(config.storage if config.storage in DENSE else config.compute_dtype)


def _dtype_name(config: BaseConfig, device: Device) -> Any:
    """The name of `storage_dtype`; if ``config`` leaves it open, what is fastest there."""
    name = config.storage if config.storage in DENSE else config.compute_dtype
    return machine_facts(device)["dtype"] if name == "auto" else name


# --- which, and why ---------------------------------------------------------------------------------------


def candidates(spec: BaseSpec, config: BaseConfig, device: Device) -> tuple[Storage, ...]:
    """What ``auto`` may take for this model, the best first: dense is fastest, the file's own blocks are
    exact, 4 bits by bitsandbytes are neither and are for models that don't fit otherwise."""
    return (_dtype_name(config, device), _packed(spec))


def smaller_storages(spec: BaseSpec, config: BaseConfig, device: Device) -> list[Storage]:
    """Storages in which the same base takes less than in ``config``'s, which is not ``auto``; the largest
    first."""
    own = weight_bytes(spec, config)
    others: tuple[Storage, ...] = ("bf16", _packed(spec))
    sizes = {name: weight_bytes(spec, with_storage(spec, config, name, device)) for name in others}
    return sorted((name for name in others if sizes[name] < own), key=lambda name: -sizes[name])


def _packed(spec: BaseSpec) -> Storage:
    return "gguf" if spec.path.is_file() and not unknown_types(read_gguf(spec.path)) else "nf4"


def with_storage(spec: BaseSpec, config: BaseConfig, storage: Storage, device: Device) -> BaseConfig:
    """``config`` with a storage that is not ``auto``, and the number format of its products.

    Raises ConfigError if this base can't be held so.
    """
    changed = config.model_copy(update={"storage": storage})
    _refuse(spec, changed, device)
    return _with_dtype(changed, device)


def settle_storage(spec: BaseSpec, config: BaseConfig, device: Device, free: int | None = None) -> BaseConfig:
    """``config`` without ``auto``: the first candidate whose weights alone fit. A run is planned as a whole
    (`plan.choose_plan`); this is for a base that is only talked to. ``free``: bytes that can be had, in RAM,
    through which all weights come, and on the device; this machine's if not given. Raises ConfigError as
    `with_storage`.
    """
    if config.storage != "auto":
        return with_storage(spec, config, config.storage, device)
    found = [with_storage(spec, config, storage, device) for storage in candidates(spec, config, device)]
    room = FILLED * (min(available_memory(), device.memory()[1]) if free is None else free)
    return next((base for base in found if weight_bytes(spec, base) <= room), found[-1])


def _with_dtype(config: BaseConfig, device: Device) -> BaseConfig:
    """``config`` with the number format of products. A dense storage is itself a number format, and may be
    multiplied in another one. Blocks may be unpacked into any format."""
    if config.storage not in DENSE and config.compute_dtype == "auto":
        config = config.model_copy(update={"compute_dtype": _dtype_name(config, device)})
    if config.storage in (*DENSE, "int8-compute", "gguf") and config.products == "auto":
        own = _dtype_name(config, device)
        products = "stored" if fastest_matmul_dtype(own, device) == own else "fp32"
        config = config.model_copy(update={"products": products})
    return config


def _refuse(spec: BaseSpec, config: BaseConfig, device: Device) -> None:
    if config.storage == "gguf" and spec.path.is_dir():
        why = f"{spec.source} is a folder of safetensors, its weights aren't packed"
        raise ConfigError("base.storage gguf needs a GGUF file", "base.storage", why, "nf4 packs any model")
    from sapwood.base.storage.int8_linear import int8_pays

    if config.storage == "int8-compute" and not int8_pays(device):
        why = f"multiplying in 8 bits isn't faster here than in {machine_facts(device)['products']}"
        if not device.is_cpu:
            why = "it is for processors that multiply in 8 bits faster, and this run is on a GPU"
        raise ConfigError(
            "int8-compute would be slower on this machine", "base.storage", why, "leave it at auto"
        )


# --- how many bytes ---------------------------------------------------------------------------------------


def weight_bytes(spec: BaseSpec, config: BaseConfig) -> int:
    """Bytes that the base's weights take in memory. ``config``: it has no ``auto`` left."""
    width = storage_dtype(config).itemsize
    if config.storage == "gguf":
        return _packed_bytes(read_gguf(spec.path), width)
    shapes = _shapes(spec)
    if config.storage in DENSE:
        return width * (shapes.rest + sum(rows * columns for rows, columns in shapes.linears))
    quantised = sum(_quantised_bytes(rows, columns, config) for rows, columns in shapes.linears)
    return quantised + width * shapes.rest


def unpacked_bytes(spec: BaseSpec, config: BaseConfig) -> int:
    """Bytes of the largest weight that is unpacked at a time; 0 in a dense storage."""
    if config.storage in DENSE:
        return 0
    sizes = [rows * columns for rows, columns in _shapes(spec).linears]
    if config.storage == "gguf":  # experts one by one
        tensors = read_gguf(spec.path).tensors.values()
        sizes += [math.prod(tensor.shape[1:]) for tensor in tensors if len(tensor.shape) == 3]
    largest = max(sizes, default=0)
    return largest * storage_dtype(config).itemsize


def _packed_bytes(file: GgufFile, width: int) -> int:
    """Matrices as they are; vectors, and matrices with columns in another order, in the number format of
    products."""
    total = 0
    for name in parameter_names(file):
        tensor = file.tensors[name]
        packed = len(tensor.shape) > 1 and not has_other_columns(file, name)
        total += tensor.data.nbytes if packed else width * math.prod(tensor.shape)
    return total


def _quantised_bytes(rows: int, columns: int, config: BaseConfig) -> int:
    """bitsandbytes: int8 with one fp32 scale a row; 4 bits with one scale for 64 numbers, which is fp32, or
    8 bits with one fp32 scale for 256 of them."""
    size = rows * columns
    if config.storage.startswith("int8"):
        return size + 4 * rows
    blocks = -(-size // 64)
    scales = blocks + 4 * -(-blocks // 256) if config.double_quant else 4 * blocks
    return -(-size // 2) + scales


@dataclass(frozen=True, slots=True)
class _Shapes:
    """linears: (rows, columns) of the decoder's; rest: elements of everything else, tied weights once."""

    linears: Sequence[tuple[int, int]]
    rest: int


# A plan asks some 20 times, and a model may have thousands of modules to count.
_known: WeakKeyDictionary[BaseSpec, _Shapes] = WeakKeyDictionary()


def _shapes(spec: BaseSpec) -> _Shapes:
    if spec not in _known:
        _known[spec] = _counted(spec)
    return _known[spec]


def _counted(spec: BaseSpec) -> _Shapes:
    from torch import nn

    model = skeleton(spec)
    head = model.get_output_embeddings()
    all_linears: list[Any] = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    linears = [m.weight for m in all_linears if m.weight is not None]
    total = sum(parameter.numel() for parameter in model.parameters())
    shapes = [(int(weight.shape[0]), int(weight.shape[1])) for weight in linears]
    return _Shapes(tuple(shapes), total - sum(rows * columns for rows, columns in shapes))
