"""An adapter's two files in PEFT's format: written from a model, read as settings and tensors."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sapwood.adapter.elsewhere.pickled import pickled_tensors
from sapwood.adapter.facts import SETTINGS
from sapwood.adapter.forms import defaults, refuse_unknown_settings, refuse_unknown_tensors
from sapwood.adapter.model import ADAPTER, LoraModel, adapter_tensors, saved_name
from sapwood.adapter.soft_prompt import lead_length
from sapwood.base.folder import read_json
from sapwood.base.sources import hub_id
from sapwood.errors import ModelError, NumericsError
from sapwood.machine.shortage import refuse_shortage

WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"  # how PEFT saved before safetensors
SIZES = {  # of settings that tell a size: the key, and the tensors whose first dimension it is
    "LORA": ("r", ".lora_A."),
    "LOHA": ("r", ".hada_w1_b"),
    "VERA": ("r", ".vera_lambda_d"),
    **dict.fromkeys(("ADALORA", "LOKR", "IA3"), ("r", "")),
}
MISFIT = "the config and the weights belong to different adapters: copy both again"
TWICE = re.compile(r"\.(modules_to_save|original_module)\.\w+$")  # PEFT also saves these of a grown embedding
ALWAYS = ("peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "target_modules", "bias")


def finite(tensors: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """``tensors``, all of them numbers. Raises NumericsError naming those that are not, before any is
    written."""
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        why = f"{len(bad)} of {len(tensors)} tensors; nothing was written"
        raise NumericsError(f"{bad[0]} holds NaN or infinity", str(folder), why, "lower train.lr, and resume")
    return tensors


def write_trained(model: LoraModel, folder: Path) -> None:
    """What is trained, as it stands: what a checkpoint holds. For LoRA, DoRA and IA3 it is a PEFT folder."""
    settings = model.peft.peft_config[ADAPTER].to_dict() if model.method != "full" else None
    write_files(adapter_tensors(model), settings, folder)


def write_adapter(model: LoraModel, folder: Path) -> None:
    """``adapter_model.safetensors`` and ``adapter_config.json`` as PEFT reads them on the original base, byte
    for byte reproducible: sorted keys and targets, no times, no library versions."""
    tensors = adapter_tensors(model)
    settings = model.peft.peft_config[ADAPTER].to_dict()
    if model.method == "pissa":
        tensors, settings = plain_lora(tensors, model.start, settings)
    tensors |= _tied(model, tensors)
    if lead_length(model.peft):
        with torch.no_grad():
            tensors = {"prompt_embeddings": model.peft.get_prompt_embedding_to_save(ADAPTER).contiguous()}
    write_files(tensors, settings, folder)


def _tied(model: LoraModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The head that is a trained embedding, which PEFT saves by both names."""
    every = model.peft.named_parameters(remove_duplicate=False)
    named = [(saved_name(name), p) for name, p in every if ".modules_to_save." in name]
    own = {id(parameter): name for name, parameter in model.parameters.items()}
    return {n: tensors[own[id(p)]].clone() for n, p in named if id(p) in own and n not in tensors}


def plain_lora(
    tensors: Mapping[str, Tensor], start: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """PiSSA as a LoRA of twice the rank, for the original base: its base gave s B0 A0 away at the start, so
    W - s B0 A0 + s B A = W + s [B, -B0] [A; A0]. The conversion that PEFT documents for it."""
    joined = dict(tensors)
    for name in (name for name in tensors if ".lora_" in name):
        first = start[name].cpu()
        b = ".lora_B." in name
        joined[name] = torch.cat([tensors[name], -first if b else first], 1 if b else 0).contiguous()
    rank = settings["r"]
    # the scale stays alpha / rank, or alpha / sqrt(rank)
    return joined, {
        **settings,
        "r": 2 * rank,
        "lora_alpha": 2 * settings["lora_alpha"],
        "init_lora_weights": True,
    }


def write_files(tensors: dict[str, Tensor], settings: Mapping[str, Any] | None, folder: Path) -> None:
    """An adapter's two files; without ``settings`` the tensors alone."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(finite(tensors, folder), folder / WEIGHTS, metadata={"format": "pt"})
    if settings is not None:
        text = json.dumps(plain(settings), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        (folder / SETTINGS).write_text(text + "\n", encoding="utf-8")


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """PEFT's settings as JSON data: what differs from its default, and the few fields that every version
    wants to see. An older PEFT refuses any field that it doesn't know, whatever its value.

    The base is named as libraries find it: ``ORG/NAME`` for one from a hub.
    """
    usual = defaults(_name(settings["peft_type"]))
    told = {
        key: value
        for key, value in settings.items()
        if key in ALWAYS or (key != "peft_version" and value != usual.get(key))
    }
    told |= {"inference_mode": True, "base_model_name_or_path": hub_id(told["base_model_name_or_path"])}
    return {key: _json(value) for key, value in told.items()}


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An adapter folder's settings and tensors, of a form that is understood.

    Raises ModelError: a file is missing or damaged; a field or a tensor is of no known form; the settings
    don't fit the tensors.
    """
    where = str(_insist(folder / SETTINGS))
    settings = read_json(folder / SETTINGS)
    refuse_unknown_settings(settings, where)
    tensors = {name: t for name, t in read_tensors(folder).items() if not TWICE.search(name)}
    refuse_unknown_tensors(settings, tensors, str(folder / WEIGHTS))
    _refuse_whole_numbers(tensors, str(folder / WEIGHTS))
    _refuse_misfit(settings, tensors, where)
    return settings, tensors


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """What is trained, from a checkpoint or an adapter's folder; a pickle is read in a process of its own."""
    if not (folder / WEIGHTS).is_file() and (folder / PICKLED).is_file():
        return pickled_tensors(folder / PICKLED)
    return load_tensors(_insist(folder / WEIGHTS))


def load_tensors(weights: Path) -> dict[str, Tensor]:
    """Of a safetensors file. Raises ModelError for one that is damaged."""
    from safetensors.torch import load_file

    try:
        return load_file(weights)
    except Exception as error:
        refuse_shortage(error, "an adapter was read")
        raise ModelError("adapter weights can't be read", str(weights), str(error)) from None


def _refuse_whole_numbers(tensors: Mapping[str, Tensor], where: str) -> None:
    """Quantised weights without their scales would load as well, and mean something else."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ModelError(
                f"{name} holds whole numbers ({kind})",
                where,
                "an adapter is trained in floating point, and whole numbers need a scale",
                "save it in fp32",
            )


def _refuse_misfit(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> None:
    """Sizes that the settings tell, and the tensors have: nothing is allocated for a size that is only
    told."""
    kind = settings["peft_type"]
    key, part = SIZES.get(kind, ("num_virtual_tokens", "prompt_embeddings"))
    told = settings.get(key, defaults(kind).get(key))
    ranks = {name: len(tensor) for name, tensor in tensors.items() if part and part in name}
    pattern: Mapping[str, int] = settings.get("rank_pattern") or {}
    if pattern and key == "r":
        if ranks and (most := max([told, *pattern.values()])) > max(ranks.values()):
            raise ModelError(
                f"the config says rank {most}",
                where,
                f"the largest tensor has rank {max(ranks.values())}",
                MISFIT,
            )
        return
    stacked = settings.get("target_parameters")  # a stack of experts has so many ranks for each
    for name, rank in ranks.items():
        if rank != told and not (stacked and told and rank % told == 0):
            raise ModelError(f"the config says {key}: {told!r}", where, f"{name} has {rank}", MISFIT)


def _name(kind: Any) -> str:
    return str(getattr(kind, "value", kind))


def _json(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return sorted(value) if isinstance(value, set | list | tuple) else value


def _insist(path: Path) -> Path:
    if path.is_file():
        return path
    mend = "name a run or its adapter/"
    raise ModelError(f"no {path.name}", str(path.parent), "not an adapter folder", mend)
