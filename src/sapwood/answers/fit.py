"""Who answers here: llama.cpp, or torch, and why."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

from sapwood.adapter.model import LoraModel
from sapwood.adapter.pairs import lora_pairs
from sapwood.answers.files import base_file, base_key
from sapwood.base.cache import cache_dir
from sapwood.base.storage.storages import weight_bytes
from sapwood.config.kinds import Method
from sapwood.config.sections import BaseConfig, LoraConfig
from sapwood.errors import SapwoodError
from sapwood.gguf.written import refuse_unwritable
from sapwood.machine.device import Device
from sapwood.machine.memory import available_memory
from sapwood.types import BaseSpec

LEAST = 32_000_000  # bytes of weights: torch has answered by a smaller model before llama.cpp has started
QUICK = ("fp32", "bf16")  # held so, many answers are faster by torch's kernels (`base.storage.quick_linear`)
SPARE = 1.2  # times the weights that must be free
PAIRS: tuple[Method, ...] = ("lora", "rslora", "lora+", "loftq")  # the base stays as it is


def why_not(spec: BaseSpec, held: BaseConfig | None, device: Device) -> str:
    """Why llama.cpp can't hold this base here, or needn't; empty if it can.

    held: how its weights are held, with no ``auto`` left; None if nobody knows.
    """
    if find_spec("xllamacpp") is None:
        return "xllamacpp isn't installed"
    if not device.is_cpu:
        return "the GPU is faster"
    if held is None:
        return "nothing says how its base is held"
    file = base_file(spec.path, held, base_key(spec, held))
    own = file == spec.path
    size = file.stat().st_size if own else weight_bytes(spec, _halved(held))
    if size < LEAST:
        return "the model is small"
    if own:
        return _too_large(size)
    try:
        refuse_unwritable(spec.hf_config)
    except SapwoodError as error:
        return error.problems[0].what
    if file.is_file():
        return _too_large(size)
    if shutil.disk_usage(_existing()).free < SPARE * size:
        return "its file has no room on the disk of the cache"
    return _too_large(2 * size)  # a file that is being written lies in memory first


def why_not_many(spec: BaseSpec, held: BaseConfig | None, device: Device) -> str:
    """The same of many answers side by side. One alone is llama.cpp's, over dense weights too."""
    if held is not None and held.storage in QUICK and device.compiled:
        return "it is the faster one over dense weights"
    return why_not(spec, held, device)


def why_not_trained(lora: LoraConfig) -> str:
    """The same of a model that is being trained, on any machine."""
    if lora.bias != "none":
        return "biases are trained too"
    return "" if lora.method in PAIRS else f"{lora.method} is more than pairs of matrices"


def why_not_adapter(model: LoraModel | None) -> str:
    """The same of an adapter: it must consist of pairs of matrices, on a base that stays as it is."""
    if model is None:
        return ""
    if model.start or model.divided is not None:
        return "its base isn't held here as it was"
    try:
        pairs = lora_pairs(model)
    except SapwoodError as error:
        return error.problems[0].what
    told = sum(pair.a.numel() + pair.b.numel() for pair in pairs)
    if told != sum(parameter.numel() for parameter in model.parameters.values()):
        return "the adapter is more than pairs of matrices"
    return ""


def _too_large(size: int) -> str:
    return "memory is short" if available_memory() < SPARE * size else ""


def _halved(held: BaseConfig) -> BaseConfig:
    return held.model_copy(update={"storage": "fp16"})


def _existing() -> str:
    folder = cache_dir().absolute()
    return str(next(path for path in (folder, *folder.parents) if path.is_dir()))
