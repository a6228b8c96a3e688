"""A method of the config as PEFT's own settings, and what each of them asks of a base."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any

from sapwood.adapter.forms import defaults
from sapwood.adapter.places.ends import ends_settings, refuse_ends
from sapwood.adapter.places.experts import named_stacks, names_experts, short_names
from sapwood.adapter.places.targets import refuse_large_rank, resolve_targets
from sapwood.config.kinds import Method, Storage
from sapwood.config.sections import LoraConfig, RunConfig
from sapwood.errors import ConfigError, Problem

DENSE: tuple[Storage, ...] = ("fp32", "bf16", "fp16")
SVD_ROUNDS = 16  # rounds of subspace iteration
STORAGES: Mapping[
    Method, tuple[tuple[Storage, ...], str]
] = {  # methods that need certain storages: which ones, and why
    "dora": (DENSE, "it measures the base's weights at every step"),
    "pissa": (DENSE, "it takes the largest singular values out of the base's weights"),
    "loftq": (("nf4", "fp4", "int8"), "it makes up for what quantisation lost"),
    "full": (("fp32",), "the base's own weights are trained, and fp32 keeps small changes"),
}


PACKED_LINEARS: tuple[Storage, ...] = (
    "nf4",
    "fp4",
    "int8",
    "int8-compute",
)  # storages that leave stacks of experts dense


def fitting_storages(config: LoraConfig) -> tuple[tuple[Storage, ...], str] | None:
    """The storages that suit what is trained, and why; None: every storage does."""
    if config.method in STORAGES:
        return STORAGES[config.method]
    if names_experts(config.targets):
        return (
            *DENSE,
            *PACKED_LINEARS,
        ), "what is learnt of experts is added to whole stacks of dense weights"
    return None


def peft_settings(network: Any, config: LoraConfig, new_tokens: Collection[int] = ()) -> Any:
    """The PeftConfig of every method but full fine-tuning. ``new_tokens``: ids whose rows are learnt."""
    import peft

    virtual = {"num_virtual_tokens": config.virtual_tokens, "task_type": "CAUSAL_LM"}
    match config.method:
        case "prompt":  # arXiv 2104.08691; words of the vocabulary to begin with
            return peft.PromptTuningConfig(**virtual, prompt_tuning_init="SAMPLE_VOCAB")  # type: ignore[arg-type]
        case "p-tuning":  # arXiv 2103.10385
            width = network.config.get_text_config().hidden_size
            return peft.PromptEncoderConfig(**virtual, encoder_hidden_size=width)  # type: ignore[arg-type]
        case "prefix":  # arXiv 2101.00190, without the reparametrisation
            return peft.PrefixTuningConfig(**virtual)  # type: ignore[arg-type]
        case "ia3":  # arXiv 2205.05638
            return peft.IA3Config(task_type="CAUSAL_LM", **_ia3_modules(network, config))  # type: ignore[arg-type]
        case _:
            return _lora_settings(network, config, new_tokens)


def saved_settings(settings: Mapping[str, Any]) -> Any:
    """The PeftConfig of an adapter that was saved, to be filled with its tensors."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    kind = settings["peft_type"]
    usual = defaults(kind)
    # the base's name is a guess about where the base lies, and PEFT warns if the base lies elsewhere
    known = {k: v for k, v in settings.items() if k in usual and k != "base_model_name_or_path"}
    if kind == "LORA":
        # how an adapter started changes nothing that is saved, but some starts need the base's weights
        known["init_lora_weights"] = True
    # PEFT's soft prompts read their saved form into a fresh encoder, which inference doesn't have
    classes: Any = PEFT_TYPE_TO_CONFIG_MAPPING
    return classes[kind](**known | {"inference_mode": False})


def with_adapter(network: Any, settings: Any) -> Any:
    """PEFT's model of ``network``."""
    from peft import get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a name that is going away
        return get_peft_model(network, settings)


def trained_numbers(network: Any, config: LoraConfig) -> int:
    """How many numbers the method trains, counted in PEFT's own modules.

    network: on the meta device (`base.on_meta`), and of no use afterwards.
    """
    import torch

    if config.method != "full":
        settings = peft_settings(network, config)
        if config.on_linears and config.method != "ia3":
            settings.init_lora_weights = True  # other starts have the same shapes, but need weights
        elif config.method == "prompt":
            settings.prompt_tuning_init = "RANDOM"
        with torch.device("meta"):
            network = with_adapter(network, settings)
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def _lora_settings(network: Any, config: LoraConfig, new_tokens: Collection[int]) -> Any:
    from peft import LoraConfig as PeftConfig

    targets = resolve_targets(network, config.targets)
    experts = short_names(named_stacks(network, config.targets))
    return PeftConfig(
        r=config.rank,
        lora_alpha=int(config.alpha) if config.alpha.is_integer() else config.alpha,  # type: ignore[arg-type]
        lora_dropout=0.0 if experts else config.dropout,  # experts take none; the linears' is set later
        target_parameters=experts or None,
        **ends_settings(network, config, new_tokens),
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_rslora=config.method == "rslora",
        use_dora=config.method == "dora",  # arXiv 2402.09353
        # arXiv 2404.02948, by the fast SVD of that paper: a full SVD takes a minute for each large layer
        init_lora_weights=f"pissa_niter_{SVD_ROUNDS}" if config.method == "pissa" else True,  # type: ignore[arg-type]
        bias=config.bias,
        task_type="CAUSAL_LM",
    )


def _ia3_modules(network: Any, config: LoraConfig) -> dict[str, list[str]]:
    """The layers that IA3 scales: the targets that were named, or else keys, values and the MLP's last
    product, as PEFT's table has them for this architecture. The MLP's last product is scaled at its input,
    all others at their output."""
    from peft.utils import (
        TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
        TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
    )

    kind = network.config.model_type
    inputs = TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(kind, ["down_proj"])
    named: Any = config.targets
    if named == "all-linear":
        names = TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING.get(kind, ["k_proj", "v_proj", "down_proj"])
        named = tuple(names)
    targets = resolve_targets(network, named)
    if isinstance(targets, str):
        raise ConfigError(
            "ia3 takes names of layers, not a regular expression",
            "lora.targets",
            targets,
            "list names: [k_proj, v_proj]",
        )
    return {"target_modules": list(targets), "feedforward_modules": [n for n in inputs if n in targets]}


def refuse_misfits(network: Any, config: RunConfig) -> None:
    """Everything of the method that doesn't fit this base, before anything is computed. Raises ConfigError.

    network: the model; only its shapes are used.
    """
    lora = config.lora
    if lora.on_linears and lora.method != "ia3":
        refuse_large_rank(network, resolve_targets(network, lora.targets), lora.rank)
    elif lora.method == "ia3":
        _ia3_modules(network, lora)
    problems: list[Problem] = refuse_ends(config)
    if lora.bias != "none" and lora.method in ("ia3", "prompt", "p-tuning", "prefix", "full"):
        why = f"{lora.method} {'trains them anyway' if lora.method == 'full' else 'leaves the base as it is'}"
        problems.append(
            Problem(
                f"lora.method {lora.method} takes no lora.bias", "lora.bias", why, "set lora.bias to none"
            )
        )
    elif lora.bias != "none" and not any(name.endswith("bias") for name, _ in network.named_parameters()):
        why = "there would be nothing more to train"
        problems.append(Problem("this base has no biases", "lora.bias", why, "set lora.bias to none"))
    if lora.method == "full" and config.train.shard != "none":
        why = "it splits a base whose weights stay as they are"
        problems.append(
            Problem("train.shard can't split full fine-tuning", "train.shard", why, "train.shard=none")
        )
    if problems:
        raise ConfigError(problems)
    if config.base.storage != "auto" or lora.method in ("loftq", "full"):
        refuse_storage(lora, config.base.storage)


def refuse_storage(config: LoraConfig, storage: str) -> None:
    """Raises ConfigError if the method, or what is trained, needs another storage than ``storage``."""
    fitting, why = fitting_storages(config) or ((storage,), "")
    if storage not in fitting:
        key = f"method {config.method}" if config.method in STORAGES else "targets experts"
        what = f"lora.{key} needs base.storage {' or '.join(fitting)}, not {storage}"
        raise ConfigError(what, "base.storage", why, f"base.storage={fitting[0]}")
    if config.bias != "none" and storage != "fp32":
        what, why = (
            f"lora.bias {config.bias} needs base.storage fp32, not {storage}",
            "what is trained is fp32",
        )
        raise ConfigError(what, "base.storage", why, "base.storage=fp32, or lora.bias=none")
