"""The frozen model itself, in the storage that the config names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from sapwood.base.chatglm import known_layout
from sapwood.base.gguf_weights import fill_from_gguf, misshapen, pack_from_gguf, unexpected
from sapwood.base.inspect import bars_of_transformers, first_line, quiet, skeleton
from sapwood.base.storage.int8_linear import to_int8
from sapwood.base.storage.storages import settle_storage, storage_dtype, weight_bytes
from sapwood.config.sections import BaseConfig
from sapwood.errors import ModelError, Problem
from sapwood.gguf.file import read_gguf
from sapwood.machine.device import CPU, Device
from sapwood.machine.doing import doing
from sapwood.machine.memory import available_memory
from sapwood.native.heap import release_heap, use_heap
from sapwood.types import Base, BaseSpec, Head

if TYPE_CHECKING:
    import torch

CHECKED_TOKENS = 8192  # of the vocabulary, when the head is compared with the model's own logits
SPARE = 1.05  # of the weights' size: buffers, and what loading itself takes


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
        model = load(spec, config, dtype)
    model.eval().requires_grad_(False)
    head = _head(model)
    _check_head(model, head, spec)
    if config.storage == "int8-compute":
        to_int8(model)
    release_heap()
    matmul_dtype = torch.float32 if config.products == "fp32" else None
    head = replace(head, matmul_dtype=matmul_dtype)
    return Base(spec, model, head, config.storage, device, matmul_dtype)


def grow(base: Base, rows: int) -> Base:
    """``base`` with so many rows in its embedding and its head, for tokens that an adapter brings; the new
    rows are the adapter's to fill. Changes the model."""
    import torch

    if rows <= base.spec.hf_config.get_text_config().vocab_size:
        return base
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base.model.resize_token_embeddings(rows, mean_resizing=False)
    base.model.eval().requires_grad_(False)
    head = replace(_head(base.model), matmul_dtype=base.head.matmul_dtype)
    return replace(base, head=head, spec=replace(base.spec, hf_config=base.model.config))


def place(network: torch.nn.Module, device: Device) -> None:
    """`move` of a model that is only talked to. Raises ModelError where it doesn't fit there."""
    import torch

    try:
        move(network, device)
    except torch.OutOfMemoryError as error:
        mend = "CUDA_VISIBLE_DEVICES= in the environment takes the CPU"
        raise ModelError("the model doesn't fit on the GPU", str(device), first_line(error), mend) from None


def move(network: torch.nn.Module, device: Device) -> None:
    """Every weight from the CPU, where it was loaded, to ``device``, with what bitsandbytes keeps beside its
    own."""
    from sapwood.base.storage.bnb_linear import follow

    if device.is_cpu:
        return
    network.to(str(device))
    for module in network.modules():
        follow(module)


def _load_folder(spec: BaseSpec, config: BaseConfig, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    from sapwood.base.storage.bnb_linear import settings_for, settle

    with quiet(), known_layout(spec.hf_config), bars_of_transformers(f"loading {spec.source}"):
        try:
            model, report = cast("Any", AutoModelForCausalLM).from_pretrained(
                spec.path,
                config=spec.hf_config,
                dtype=dtype,
                quantization_config=settings_for(config, dtype),
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are reported below, all of them
            )
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            raise ModelError("the model can't be loaded", str(spec.path), first_line(error)) from None
    problems = [
        Problem(f"tensor {name} is missing", str(spec.path)) for name in sorted(report["missing_keys"])
    ]
    problems += [unexpected(name, spec.path) for name in sorted(report["unexpected_keys"])]
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
    model = skeleton(spec, dtype)
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


def _head(model: Any) -> Head:
    """The final projection as data; factors as the families that have them name them."""
    from sapwood.base.storage.gguf_linear import GgufLinear

    out = model.get_output_embeddings()
    config = model.config
    scale = float(getattr(config, "logit_scale", None) or 1.0)  # cohere multiplies
    scale /= float(getattr(config, "logits_scaling", None) or 1.0)  # granite divides
    cap = getattr(config, "final_logit_softcapping", None)
    weight = out.packed if isinstance(out, GgufLinear) else out.weight
    return Head(weight, getattr(out, "bias", None), scale, float(cap) if cap else None)


def _check_head(model: Any, head: Head, spec: BaseSpec) -> None:
    """Compare the head with the model's own logits on two tokens: an unknown factor would spoil the loss."""
    import torch

    ids = torch.arange(2)[None]
    part = slice(0, CHECKED_TOKENS)
    with torch.no_grad():
        wanted = model(ids, use_cache=False).logits.float()[..., part]
        hidden = model.get_decoder()(ids, use_cache=False).last_hidden_state
        bias = None if head.bias is None else head.bias[part]
        weight = head.weight[part]
        fits = hidden.shape[-1] == weight.shape[-1]  # some have a layer of their own between
        found = torch.nn.functional.linear(hidden, weight, bias).float() if fits else torch.zeros(())
    if head.softcap is not None:
        found = head.softcap * torch.tanh(found / head.softcap)
    found = found * head.scale
    if not torch.isfinite(wanted).all():
        mend = "the weights are damaged, or too large for base.storage fp16"
        raise ModelError("the base model gives numbers that aren't finite", str(spec.path), mend=mend)
    if (found - wanted).abs().max() > 0.02 * wanted.abs().max():
        why = "its logits aren't a scaled and capped projection of its last hidden state"
        raise ModelError(
            f"the head of {spec.hf_config.model_type} models isn't supported", str(spec.path), why
        )
