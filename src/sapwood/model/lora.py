"""The adapter: which linears get one, how it starts, and its folder in PEFT's format."""

from __future__ import annotations

import difflib
import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sapwood.config import LoraConfig
from sapwood.errors import ConfigError, ModelError, NumericsError, Problem
from sapwood.model.dropout import DropoutClock
from sapwood.model.folder import read_json
from sapwood.types import Base, Batch, Head, LossSum

ADAPTER = "default"  # the only adapter of a run; PEFT leaves this name out of the file


@dataclass(slots=True)
class LoraModel:
    """A base with an adapter on it.

    peft: the PeftModel. network: the transformers model inside it. backbone: its decoder without the head
    (ids -> final hidden state).
    parameters: the adapter's, by PEFT's names, in the order of the model.
    divided: where the base lies in parts in several processes, what brings it together for one pack.
    neftune: strength of the noise on the embeddings while training.
    """

    peft: Any
    network: Any
    backbone: nn.Module
    head: Head
    clock: DropoutClock
    parameters: dict[str, nn.Parameter]
    targets: tuple[str, ...]
    divided: Callable[[Batch], LossSum] | None = None
    neftune: float = 0.0

    @property
    def device(self) -> str:
        return str(next(iter(self.parameters.values())).device)


def attach_lora(base: Base, config: LoraConfig, seed: int = 0) -> LoraModel:
    """Put a fresh adapter on ``base``. B starts at zero, so step 0 equals the base.

    Raises ConfigError where targets match nothing, or only in part.
    """
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    from sapwood.model.fast_blocks import lighten
    from sapwood.model.fast_lora import LoraLinear, speed_up

    targets = resolve_targets(base.model, config.targets)
    settings = PeftConfig(
        r=config.rank,
        lora_alpha=int(config.alpha) if config.alpha.is_integer() else config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_rslora=config.method == "rslora",
        bias="none",
        task_type="CAUSAL_LM",
    )
    settings._register_custom_module({nn.Linear: LoraLinear})  # pyright: ignore[reportPrivateUsage]
    lighten(base.model)
    base.model.name_or_path = base.spec.source  # PEFT writes it into the adapter's config
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a name that is going away
        torch.manual_seed(seed)
        model = get_peft_model(base.model, settings)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()  # master weights
    clock = DropoutClock(seed)
    model.eval()
    speed_up(model, clock)
    parameters = {
        name.replace(f".{ADAPTER}.", "."): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    adapted = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in parameters})
    return LoraModel(
        model, base.model, base.model.get_decoder(), base.head, clock, parameters, tuple(adapted)
    )


def resolve_targets(model: Any, targets: str | tuple[str, ...]) -> tuple[str, ...] | str:
    """``all-linear`` as the sorted leaf names of the decoder's linears; a list checked; a regular expression
    checked."""
    head = model.get_output_embeddings()
    modules: Iterable[tuple[str, nn.Module]] = model.named_modules()
    named = list(modules)
    linears = [name for name, m in named if isinstance(m, nn.Linear) and m is not head]
    leaves = sorted({name.rpartition(".")[2] for name in linears})
    if targets == "all-linear":
        return tuple(leaves)
    if isinstance(targets, str):
        try:
            pattern = re.compile(targets)
        except re.error as error:
            raise ConfigError("lora.targets is no regular expression", "lora.targets", str(error)) from None
        if not any(pattern.fullmatch(name) for name in linears):
            raise ConfigError(
                f"lora.targets matches no linear layer: {targets!r}",
                "lora.targets",
                "a regular expression must match full names",
                f"layers here: {', '.join(linears[:7])} …",
            )
        odd = [name for name, _ in named if pattern.fullmatch(name) and name not in linears]
        if odd:
            raise ConfigError(
                f"lora.targets matches more than linear layers: {targets!r}",
                "lora.targets",
                f"{odd[0] or 'the whole model'} is no linear layer of the decoder; only those are adapted",
                "end the expression in the names of layers, q_proj or v_proj say",
            )
        return targets
    if not targets:
        raise ConfigError("lora.targets is empty", "lora.targets", mend=f"names here: {', '.join(leaves)}")
    problems: list[Problem] = []
    for target in targets:
        if any(name == target or name.endswith(f".{target}") for name in linears):
            continue
        near = difflib.get_close_matches(target, leaves, n=1)
        mend = f"did you mean {near[0]}?" if near else f"names here: {', '.join(leaves)}"
        problems.append(
            Problem(f"lora.targets: no linear layer is called {target!r}", "lora.targets", mend=mend)
        )
    if problems:
        raise ConfigError(problems)
    return tuple(sorted(targets))


def adapted_linears(model: Any, targets: tuple[str, ...] | str) -> list[nn.Linear]:
    """The linears of a model that get an adapter; ``targets`` as `resolve_targets` gives them."""
    head = model.get_output_embeddings()
    return [
        module
        for name, module in cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
        if isinstance(module, nn.Linear) and module is not head and _adapted(name, targets)
    ]


def refuse_large_rank(model: Any, targets: tuple[str, ...] | str, rank: int) -> None:
    """A rank above what the largest adapted layer can use only costs. Raises ConfigError."""
    sizes = [min(linear.in_features, linear.out_features) for linear in adapted_linears(model, targets)]
    if sizes and rank > max(sizes):
        why = f"no adapted layer has more than {max(sizes)} dimensions to give"
        raise ConfigError(f"lora.rank={rank} is larger than the layers", "lora.rank", why, "8 to 16 is usual")


def _adapted(name: str, targets: tuple[str, ...] | str) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def adapter_tensors(model: LoraModel) -> dict[str, Tensor]:
    """The adapter in PEFT's names, fp32, on the CPU."""
    return {name: parameter.detach().cpu().contiguous() for name, parameter in model.parameters.items()}


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


def write_adapter(model: LoraModel, folder: Path) -> None:
    """``adapter_model.safetensors`` and ``adapter_config.json`` as PEFT reads them, byte for byte
    reproducible: sorted keys and targets, no times, no library versions."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = finite(adapter_tensors(model), folder)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = model.peft.peft_config[ADAPTER].to_dict()
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
    from peft import LoraConfig as PeftConfig
    from safetensors.torch import load_file

    config_file, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    for path in (config_file, weights):
        if not path.is_file():
            raise ModelError(
                f"no {path.name}", str(folder), "not an adapter folder", "name a run or its adapter/"
            )
    settings = read_json(config_file)
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise ModelError(f"adapter type {kind!r}", str(config_file), "only LoRA is known here")
    known = {field.name for field in fields(PeftConfig)}
    if odd := [key for key, value in settings.items() if key not in known and value]:
        why = "an unknown key may change what the adapter computes"
        raise ModelError(f"the adapter's config holds {', '.join(odd)[:200]}", str(config_file), why)
    try:
        return settings, load_file(weights)
    except Exception as error:
        raise ModelError("adapter weights can't be read", str(weights), str(error)) from None
