"""The adapter: how it is put on a base, how it starts, and its folder in PEFT's format."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from sapwood.adapter.methods import peft_settings, refuse_storage, with_adapter
from sapwood.base.folder import read_json
from sapwood.compute.backend import Backend
from sapwood.compute.dropout import DropoutClock
from sapwood.config.sections import LoraConfig, Method
from sapwood.errors import ModelError, NumericsError, Problem
from sapwood.types import Base, Batch, Head, LossSum

if TYPE_CHECKING:
    from sapwood.compute.flow import Flow

ADAPTER = "default"  # the only adapter of a run; PEFT leaves this name out of the file
TYPES = ("LORA", "IA3", "PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")  # PEFT's names of what can be opened
PARTS = (".lora_", ".ia3_")  # where the name of an adapted layer ends


@dataclass(slots=True)
class LoraModel:
    """A base and what is trained on it: an adapter of some method, or the base itself.

    peft: the PeftModel; the network itself in full fine-tuning. network: the transformers model inside it.
    backbone: its decoder without the head (ids -> final hidden state).
    parameters: what is trained, by PEFT's names, in the order of the model. targets: the adapted layers.
    backend: by which forms it computes, and where.
    divided: where the base lies in parts in several processes, what brings it together for one pack.
    flow: the format of activations between layers, where it isn't the base's own.
    neftune: strength of the noise on the embeddings while training.
    start: tensors as they were at the start, where the end needs them: PiSSA's A and B, the base's biases.
    """

    peft: Any
    network: Any
    backbone: nn.Module
    head: Head
    clock: DropoutClock
    parameters: dict[str, nn.Parameter]
    targets: tuple[str, ...]
    backend: Backend
    divided: Callable[[Batch], LossSum] | None = None
    flow: Flow | None = None
    neftune: float = 0.0
    method: Method = "lora"
    start: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """torch's name of where it computes."""
        return str(self.backend.device)

    @contextmanager
    def switched_off(self) -> Generator[None]:
        """While open, the network answers as the base alone. Full fine-tuning keeps none."""
        biases = {name: self.parameters[name] for name in self.start if name.endswith("bias")}
        own = {name: p.detach().clone() for name, p in biases.items()}
        with self.peft.disable_adapter():
            try:
                for name, p in biases.items():
                    p.data.copy_(self.start[name])
                yield
            finally:
                for name, p in biases.items():
                    p.data.copy_(own[name])


def attach_lora(base: Base, config: LoraConfig, seed: int = 0) -> LoraModel:
    """Put a fresh adapter on ``base``. B starts at zero, so step 0 equals the base; PiSSA and IA3 start equal
    to it too, a soft prompt and LoftQ do not.

    Raises ConfigError where targets match nothing, or only in part, or the storage doesn't suit the method.
    """
    refuse_storage(config, base.storage)
    if config.method == "full":
        from sapwood.adapter.full import unfreeze

        return unfreeze(base, seed)
    settings = peft_settings(base.model, config)
    return _attach(base, settings, config.method, seed)


def attach_saved(base: Base, folder: Path) -> LoraModel:
    """An adapter of any type that PEFT reads, on ``base``, to be talked to."""
    from peft import PeftConfig

    from sapwood.adapter.soft_prompt import is_prefix, lead_length

    settings = PeftConfig.from_pretrained(str(folder))
    settings.inference_mode = False  # PEFT's soft prompts read their saved form into a fresh encoder
    model = _attach(base, settings, "ia3", 0)
    tensors = read_adapter(folder)[1]
    if not lead_length(model.peft):
        restore_adapter(model, tensors, folder)
        return model
    model.method = "prefix" if is_prefix(model.peft) else "prompt"
    settings.inference_mode = True
    embedding = model.peft.prompt_encoder[ADAPTER].embedding
    saved = tensors.get("prompt_embeddings")
    if set(tensors) != {"prompt_embeddings"} or saved is None or saved.shape != embedding.weight.shape:
        raise ModelError("the soft prompt doesn't fit this model", str(folder))
    embedding.weight.data = saved.to(embedding.weight)
    return model


def _attach(base: Base, settings: Any, method: Method, seed: int) -> LoraModel:
    from sapwood.compute.flow import flow_of
    from sapwood.compute.lighten import lighten
    from sapwood.compute.linear.group import LoraLinear, speed_up

    on_linears = settings.peft_type == "LORA"
    if on_linears:
        settings._register_custom_module({nn.Linear: LoraLinear})
    backend = Backend.of(base.device)
    lighten(base.model, backend)
    storage_dtype = next(p.dtype for p in base.model.parameters() if p.is_floating_point())
    base.model.name_or_path = base.spec.source  # PEFT writes it into the adapter's config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = with_adapter(base.model, settings)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()  # master weights
    clock = DropoutClock(seed)
    model.eval()
    flow = None
    if on_linears:
        speed_up(model, clock, backend, base.matmul_dtype, storage_dtype)
        flow = flow_of(base.model, base.matmul_dtype, storage_dtype)
    if method == "loftq":
        from sapwood.adapter.loftq import start_from_rest

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            start_from_rest(model, base)
    parameters = {_saved_name(name): p for name, p in model.named_parameters() if p.requires_grad}
    adapted = {
        name.split(part)[0].rpartition(".")[2] for name in parameters for part in PARTS if part in name
    }
    start = {
        name: p.detach().clone()
        for name, p in parameters.items()
        if method == "pissa" or name.endswith("bias")
    }
    decoder, targets = base.model.get_decoder(), tuple(sorted(adapted))
    parts = (model, base.model, decoder, base.head, clock, parameters, targets, backend)
    return LoraModel(*parts, flow=flow, method=method, start=start)


def _saved_name(name: str) -> str:
    """A parameter's name as PEFT saves it."""
    return name.replace(f".{ADAPTER}", "").replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


def adapter_tensors(model: LoraModel) -> dict[str, Tensor]:
    """The adapter in PEFT's names, fp32, on the CPU."""
    return {name: parameter.detach().cpu().contiguous() for name, parameter in model.parameters.items()}


@dataclass(frozen=True, slots=True)
class LoraPair:
    """One adapted linear: y = x W^T + scale * x A^T B^T. ``module``: its name in the transformers model.

    a: float32[rank, in]; b: float32[out, rank].
    """

    module: str
    a: Tensor
    b: Tensor
    scale: float

    @classmethod
    def of(cls, name: str, layer: Any) -> LoraPair:
        """Of one of PEFT's layers."""
        a, b = (matrices[ADAPTER].weight.detach().float().cpu() for matrices in (layer.lora_A, layer.lora_B))
        return cls(name, a, b, float(layer.scaling[ADAPTER]))

    @property
    def rank(self) -> int:
        return len(self.a)


def lora_layers(model: LoraModel) -> list[tuple[str, Any]]:
    """PEFT's LoRA layers, DoRA's among them, by the name of the linear in the transformers model."""
    return [
        (name.removeprefix("base_model.model."), module)
        for name, module in cast("Iterable[tuple[str, nn.Module]]", model.peft.named_modules())
        if hasattr(module, "lora_A") and ADAPTER in cast("Any", module).lora_A
    ]


def has_pairs(model: LoraModel) -> bool:
    """Is the adapter pairs of matrices, and nothing else?"""
    layers = lora_layers(model)
    return bool(layers) and not any(ADAPTER in getattr(layer, "lora_variant", {}) for _, layer in layers)


def lora_pairs(model: LoraModel) -> list[LoraPair]:
    """The adapter by module, each with its own rank and scale as PEFT applies them (rank and alpha patterns,
    rsLoRA). Raises ModelError where it is more than pairs of matrices (DoRA, say)."""
    layers = lora_layers(model)
    mend = "export the whole model: --to gguf, or --to merged"
    if not layers:
        kind = model.peft.peft_config[ADAPTER].peft_type.value
        raise ModelError(f"a {kind} adapter has no pairs of matrices", "", "a LoRA file holds those", mend)
    if odd := [name for name, layer in layers if ADAPTER in getattr(layer, "lora_variant", {})]:
        why = "DoRA and the like have no scale"
        raise ModelError("the adapter is more than pairs of matrices", odd[0], why, mend)
    return [LoraPair.of(name, layer) for name, layer in layers]


def restore_adapter(model: LoraModel, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copy saved tensors into the adapter. Every name and shape must fit; nothing is copied otherwise."""
    problems = [
        Problem(f"adapter tensor {name} is {fault}", str(source), mend="use the base and config that made it")
        for name in sorted(set(model.parameters) | set(tensors))
        if (fault := _misfit(model.parameters.get(name), tensors.get(name)))
    ]
    if problems:
        raise ModelError(problems)
    with torch.no_grad():
        for name, parameter in model.parameters.items():
            parameter.copy_(tensors[name])


def _misfit(own: Tensor | None, saved: Tensor | None) -> str:
    if own is None:
        return "not part of this model"
    if saved is None:
        return "missing"
    if own.shape != saved.shape:
        return f"{list(saved.shape)}, where the model has {list(own.shape)}"
    return "" if torch.isfinite(saved).all() else "not finite"


def finite(tensors: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """``tensors``, all of them numbers. Raises NumericsError naming those that are not, before any is
    written."""
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        why = f"{len(bad)} of {len(tensors)} tensors; nothing was written"
        raise NumericsError(f"{bad[0]} is not finite", str(folder), why, "lower train.lr, and resume")
    return tensors


def write_trained(model: LoraModel, folder: Path) -> None:
    """What is trained, as it stands: what a checkpoint holds. For LoRA, DoRA and IA3 it is a PEFT folder."""
    settings = model.peft.peft_config[ADAPTER].to_dict() if model.method != "full" else None
    write_files(adapter_tensors(model), settings, folder)


def write_adapter(model: LoraModel, folder: Path) -> None:
    """``adapter_model.safetensors`` and ``adapter_config.json`` as PEFT reads them on the original base, byte
    for byte reproducible: sorted keys and targets, no times, no library versions."""
    from sapwood.adapter.soft_prompt import lead_length

    tensors = adapter_tensors(model)
    settings = model.peft.peft_config[ADAPTER].to_dict()
    if model.method == "pissa":
        tensors, settings = plain_lora(tensors, model.start, settings)
    if lead_length(model.peft):
        with torch.no_grad():
            tensors = {"prompt_embeddings": model.peft.get_prompt_embedding_to_save(ADAPTER).contiguous()}
    write_files(tensors, settings, folder)


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


def write_files(tensors: dict[str, Tensor], settings: dict[str, Any] | None, folder: Path) -> None:
    """An adapter's two files; without ``settings`` the tensors alone."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(finite(tensors, folder), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    if settings is None:
        return
    settings["inference_mode"] = True
    settings.pop("peft_version", None)
    for key, value in settings.items():
        if isinstance(value, set | list | tuple):
            settings[key] = sorted(value)
    text = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False, default=str)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An adapter folder's config and tensors. Raises ModelError naming the file that is missing or
    damaged."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    config_file = folder / "adapter_config.json"
    _insist(config_file)
    tensors = read_tensors(folder)
    settings = read_json(config_file)
    kind = settings.get("peft_type")
    if kind not in TYPES:
        known = f"known here: {', '.join(TYPES)}"
        raise ModelError(f"adapter type {kind!r}", str(config_file), known)
    keys = {field.name for field in fields(PEFT_TYPE_TO_CONFIG_MAPPING[kind])}  # type: ignore[index]
    if odd := [key for key, value in settings.items() if key not in keys and value]:
        why = "an unknown key may change what the adapter computes"
        raise ModelError(f"the adapter's config holds {', '.join(odd)[:200]}", str(config_file), why)
    return settings, tensors


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """What is trained, from a checkpoint or an adapter's folder."""
    from safetensors.torch import load_file

    weights = folder / "adapter_model.safetensors"
    _insist(weights)
    try:
        return load_file(weights)
    except Exception as error:
        raise ModelError("adapter weights can't be read", str(weights), str(error)) from None


def _insist(path: Path) -> None:
    if not path.is_file():
        what, mend = f"no {path.name}", "name a run or its adapter/"
        raise ModelError(what, str(path.parent), "not an adapter folder", mend)
