"""How an adapter is put on a base, and how it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sapwood.adapter.effective import effective_head
from sapwood.adapter.elsewhere.restore import restore_saved
from sapwood.adapter.full import unfreeze
from sapwood.adapter.loftq import start_from_rest
from sapwood.adapter.methods import peft_settings, refuse_storage, saved_settings, with_adapter
from sapwood.adapter.model import ADAPTER, LoraModel, saved_name
from sapwood.adapter.pairs import lora_layers
from sapwood.adapter.places.ends import keep_format
from sapwood.adapter.soft_prompt import is_prefix, lead_length
from sapwood.base.storage.gguf_experts import GgufExperts
from sapwood.base.storage.gguf_linear import GgufEmbedding, GgufLinear
from sapwood.compute.backend import Backend
from sapwood.compute.dropout import DropoutClock
from sapwood.compute.flow import flow_of
from sapwood.compute.lighten import lighten
from sapwood.config.sections import LoraConfig
from sapwood.errors import ModelError, first_line
from sapwood.types import Base

PARTS = (".lora_", ".ia3_")  # where the name of an adapted layer ends


def attach_lora(base: Base, config: LoraConfig, seed: int = 0) -> LoraModel:
    """Put a fresh adapter on ``base``. B starts at zero, so step 0 equals the base. PiSSA and IA3 also start
    equal to the base; a soft prompt and LoftQ do not.

    Raises ConfigError if targets match nothing, or only in part, or the storage doesn't suit the method.
    """
    refuse_storage(config, base.storage)
    if config.method == "full":
        return unfreeze(base, seed)
    settings = peft_settings(base.model, config, base.spec.new_tokens)
    model = replace(attach(base, settings, seed), method=config.method)
    for _, layer in lora_layers(model) if config.dropout else ():
        layer.lora_dropout[ADAPTER] = nn.Dropout(config.dropout)  # experts take no dropout
    if config.method == "loftq":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            start_from_rest(model.peft, base)
    if config.method == "pissa":
        return replace(model, start={name: p.detach().clone() for name, p in model.parameters.items()})
    return model


def attach_saved(
    base: Base, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], source: Path
) -> LoraModel:
    """An adapter of any form that `forms` understands, on ``base``, to be talked to. ``settings`` and
    ``tensors``: what was read from ``source``.

    Raises ModelError if a tensor doesn't fit, naming each.
    """
    wanted = saved_settings(settings)
    try:
        model = attach(base, wanted)
    except (ValueError, TypeError) as error:
        raise ModelError("adapter config is not valid", str(source), first_line(error)) from None
    if not lead_length(model.peft):
        restore_saved(model.peft, tensors, source)
        return replace(model, head=effective_head(model))
    wanted.inference_mode = True
    embedding = model.peft.prompt_encoder[ADAPTER].embedding
    saved = tensors.get("prompt_embeddings")
    if set(tensors) != {"prompt_embeddings"} or saved is None or saved.shape != embedding.weight.shape:
        raise ModelError("the soft prompt doesn't fit this model", str(source))
    embedding.weight.data = saved.to(embedding.weight)
    return replace(model, method="prefix" if is_prefix(model.peft) else "prompt")


def _format_of(network: nn.Module) -> torch.dtype:
    """The number format that layers hand to each other. Blocks of a GGUF file may be plain numbers in
    another one."""
    packed = (GgufLinear, GgufEmbedding, GgufExperts)
    held = [module for module in network.modules() if not isinstance(module, packed)]
    return next(p.dtype for m in held for p in m.parameters(recurse=False) if p.is_floating_point())


def attach(base: Base, settings: Any, seed: int = 0) -> LoraModel:
    """``base`` with PEFT's modules for ``settings``, as they start at ``seed``, on the fast paths."""
    from sapwood.compute.linear.layer import LoraLinear, speed_up

    on_linears = settings.peft_type == "LORA"
    if on_linears:
        settings._register_custom_module({nn.Linear: LoraLinear})
    backend = Backend.of(base.device)
    lighten(base.model, backend)
    storage_dtype = _format_of(base.model)
    base.model.name_or_path = base.spec.source  # PEFT writes it into the adapter's config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = with_adapter(base.model, settings)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()  # master weights
    ends = any(getattr(settings, key, None) for key in ("modules_to_save", "trainable_token_indices"))
    if ends:
        keep_format(base.model, storage_dtype)
    clock = DropoutClock(seed)
    model.eval()
    flow = None
    if on_linears:
        speed_up(model, clock, backend, base.matmul_dtype, storage_dtype)
        flow = flow_of(base.model, base.matmul_dtype, storage_dtype)
    parameters = {saved_name(name): p for name, p in model.named_parameters() if p.requires_grad}
    return LoraModel(
        peft=model,
        network=base.model,
        backbone=base.backbone,
        head=base.head,
        clock=clock,
        parameters=parameters,
        targets=_targets(settings, parameters),
        backend=backend,
        ends=ends,
        flow=flow,
        start={name: p.detach().clone() for name, p in parameters.items() if name.endswith("bias")},
    )


def _targets(settings: Any, parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """The leaf names of the adapted layers."""
    named = getattr(settings, "target_modules", None) or ()
    if not isinstance(named, str):
        return tuple(sorted({name.rpartition(".")[2] for name in named}))
    found = {name.split(part)[0].rpartition(".")[2] for name in parameters for part in PARTS if part in name}
    return tuple(sorted(found))
