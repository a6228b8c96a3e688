"""The frozen model itself, in the storage that the config names."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sapwood.base.chatglm import known_layout
from sapwood.base.folder import read_folder
from sapwood.base.gguf_weights import fill_from_gguf, misshapen, pack_from_gguf, unexpected
from sapwood.base.inspect import bars_of_transformers, on_meta, quiet, whole_names
from sapwood.base.network.head import read_head, regrown
from sapwood.base.network.parts import decoder_of, hollow, is_wrapper, text_class
from sapwood.base.packed.stored import stored_tensors
from sapwood.base.storage.int8_linear import to_int8
from sapwood.base.storage.quick_linear import quicken
from sapwood.base.storage.storages import settle_storage, storage_dtype, weight_bytes
from sapwood.config.sections import BaseConfig
from sapwood.errors import ModelError, Problem, first_line
from sapwood.gguf.file import read_gguf
from sapwood.machine.device import CPU, Device
from sapwood.machine.doing import doing
from sapwood.machine.memory import available_memory
from sapwood.machine.shortage import refuse_shortage
from sapwood.native.heap import release_heap, use_heap
from sapwood.types import Base, BaseSpec

if TYPE_CHECKING:
    import torch

SPARE = 1.05  # times the weights' size: room for buffers and for loading itself


def load_base(spec: BaseSpec, config: BaseConfig, device: Device = CPU) -> Base:
    """Load the weights: a model in eval mode whose parameters take no gradient, and its head as data.

    Memory stays near the size of the loaded model: tensors are read, converted and placed one by one. They
    lie in RAM; ``device`` is where they will compute, once `move` has taken them there.

    Raises:
        ConfigError: the base can't be held in that storage.
        ModelError: a tensor is missing, unexpected or misshapen (all are named), or memory doesn't suffice.
    """
    import torch

    if device.heap:
        use_heap()
    config = settle_storage(spec, config, device)
    dtype = storage_dtype(config)
    _check_memory(spec, config)
    with doing(f"loading {spec.source}"):
        load = _load_folder if spec.path.is_dir() else _load_file
        model = load(_as_stored(spec), config, dtype)
    spec = _resized(model, spec, spec.rows)
    _begin_rows(model, spec)
    model.eval().requires_grad_(False)
    _read_from_the_left(model)
    head, backbone = read_head(model, spec)
    if config.storage == "int8-compute":
        to_int8(model)
    release_heap()
    matmul_dtype = torch.float32 if config.products == "fp32" else None
    if device.compiled:
        quicken(model, matmul_dtype)
    head = replace(head, matmul_dtype=matmul_dtype)
    return Base(spec, model, backbone, head, config.storage, device, matmul_dtype)


def grow(base: Base, rows: int) -> Base:
    """``base`` with so many rows in its embedding and its head, for tokens that an adapter brings. The
    adapter fills the new rows. Changes the model."""

    spec = _resized(base.model, base.spec, rows)
    if spec is base.spec:
        return base
    base.model.eval().requires_grad_(False)
    return replace(base, head=regrown(base.head, base.model), spec=spec)


def _as_stored(spec: BaseSpec) -> BaseSpec:
    """The rows that the files hold, of a model whose vocabulary has grown since."""
    if spec.stored_rows is None:
        return spec
    config = copy.deepcopy(spec.hf_config)
    config.get_text_config().vocab_size = spec.stored_rows
    return replace(spec, hf_config=config)


def _resized(model: Any, spec: BaseSpec, rows: int) -> BaseSpec:
    """Give ``model`` so many rows at least; ``spec`` with the config that it has then."""
    import torch

    held = model.config.get_text_config().vocab_size
    if rows <= held:
        return spec
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.resize_token_embeddings(rows, mean_resizing=False)
    return replace(spec, hf_config=model.config, stored_rows=spec.stored_rows or held)


def _read_from_the_left(model: Any) -> None:
    """Some models look ahead in the part of a prompt that a caller marks (PaliGemma). Rows mark none, and
    torch's own attention then takes a mask that was left out for one that hides nothing."""
    if getattr(model.config.get_text_config(), "use_bidirectional_attention", None):
        modules: list[Any] = list(decoder_of(model).modules())
        for module in modules:
            if getattr(module, "is_causal", None) is False:
                module.is_causal = True


def _begin_rows(model: Any, spec: BaseSpec) -> None:
    """Set the row of each new token, in embedding and head, to the mean of the tokens that spelled it
    before."""
    import torch

    with torch.no_grad():
        for end in (model.get_input_embeddings(), model.get_output_embeddings()) if spec.new_tokens else ():
            for id, pieces in spec.new_tokens.items():
                end.weight[id] = end.weight[list(pieces)].float().mean(0).to(end.weight.dtype)


def place(network: torch.nn.Module, device: Device) -> None:
    """`move` of a model that only answers. Raises ModelError if the model doesn't fit there."""
    import torch

    try:
        move(network, device)
    except torch.OutOfMemoryError as error:
        mend = "CUDA_VISIBLE_DEVICES= in the environment takes the CPU"
        raise ModelError("the model doesn't fit on the GPU", str(device), first_line(error), mend) from None


def move(network: torch.nn.Module, device: Device) -> None:
    """Move every weight from the CPU to ``device``, with what bitsandbytes keeps beside its weights."""
    from sapwood.base.storage.bnb_linear import follow

    if device.is_cpu:
        return
    network.to(str(device))
    for module in network.modules():
        follow(module)


def _load_folder(spec: BaseSpec, config: BaseConfig, dtype: torch.dtype) -> Any:
    from sapwood.base.storage.bnb_linear import settings_for, settle

    with quiet(), known_layout(spec.hf_config), bars_of_transformers(f"loading {spec.source}"):
        try:
            model, report = text_class(spec.hf_config).from_pretrained(
                None,
                config=spec.hf_config,
                state_dict=stored_tensors(read_folder(spec.path)),
                dtype=dtype,
                quantization_config=settings_for(config, dtype, spec),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are reported below, all of them
            )
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            refuse_shortage(error, "the model was loaded")
            raise ModelError("the model can't be loaded", str(spec.path), first_line(error)) from None
    problems = [
        Problem(f"tensor {name} is missing", str(spec.path)) for name in sorted(report["missing_keys"])
    ]
    odd = report["unexpected_keys"] - whole_names(spec)
    # what lies beside the language model is read, and checked, by an export
    beside = tuple(f"{name}." for name in hollow(model)) if is_wrapper(spec.hf_config) else ()
    problems += [unexpected(name, spec.path) for name in sorted(odd) if not name.startswith(beside)]
    problems += [
        misshapen(name, tuple(found), tuple(wanted), spec.path)
        for name, found, wanted in sorted(report["mismatched_keys"])
    ]
    if problems:
        raise ModelError(problems)
    model._weight_conversions = []  # a merged model is saved as what it is, not in the layout it came in
    return settle(model)


def _load_file(spec: BaseSpec, config: BaseConfig, dtype: torch.dtype) -> Any:
    """Build the module tree without memory, then give it one tensor after the other."""
    from sapwood.base.storage.bnb_linear import quantiser

    file = read_gguf(spec.path)
    model = on_meta(spec.hf_config, str(spec.path), dtype)
    if config.storage == "gguf":
        pack_from_gguf(model, file, dtype)
    else:
        fill_from_gguf(model, file, dtype, quantiser(config, dtype))
    return model


def _check_memory(spec: BaseSpec, config: BaseConfig) -> None:
    need, free = int(weight_bytes(spec, config) * SPARE), available_memory()
    if need > free:
        raise ModelError(
            "not enough memory for the base model",
            str(spec.path),
            f"its weights take {need / 1e9:.1f} GB in {config.storage}, {free / 1e9:.1f} GB are free",
            "base.storage: auto takes what fits; or close other programs, or take a smaller model",
        )
