"""The embedding and the head, trained as wholes, or the rows of new tokens in them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from sapwood.config.sections import LoraConfig, RunConfig
from sapwood.errors import ConfigError, Problem

WITH_ROWS = ("lora", "rslora", "dora", "lora+", "full")  # methods that can learn single rows as well


def ends_settings(network: Any, config: LoraConfig, new_tokens: Collection[int]) -> dict[str, Any]:
    """The fields of PEFT's LoraConfig. A head that is the embedding stays so. Raises ConfigError if PEFT
    can't tell one of them from other layers."""
    tied = bool(getattr(network.config.get_text_config(), "tie_word_embeddings", False))
    if not (config.train_also or new_tokens):  # PEFT needs no names of them, and may have none
        return {"modules_to_save": None, "trainable_token_indices": None, "ensure_weight_tying": False}
    embedding = _name(network, network.get_input_embeddings())
    head = embedding if tied else _name(network, network.get_output_embeddings())
    wanted = {"embed_tokens": embedding, "lm_head": head}
    whole = sorted({wanted[name] for name in config.train_also})
    rows = [name for name in ([embedding] if tied else [embedding, head]) if name not in whole]
    return {
        "modules_to_save": whole or None,
        "trainable_token_indices": {name: sorted(new_tokens) for name in rows}
        if new_tokens and rows
        else None,
        "ensure_weight_tying": tied and bool(whole),
    }


def refuse_ends(config: RunConfig) -> list[Problem]:
    """What can't be trained beside a method."""
    lora, asked = (
        config.lora,
        {"lora.train_also": config.lora.train_also, "base.new_tokens": config.base.new_tokens},
    )
    return [
        Problem(
            f"lora.method {lora.method} can't train the embedding or the head too",
            key,
            f"{', '.join(WITH_ROWS)} can",
            f"leave {key} out",
        )
        for key, told in asked.items()
        if told and (lora.method not in WITH_ROWS or (key == "lora.train_also" and lora.method == "full"))
    ]


def keep_format(network: Any, dtype: Any) -> None:
    """A trained embedding is fp32. This gives its output the format that the layers expect."""

    def narrowed(_: nn.Module, __: Any, out: Tensor) -> Tensor:
        return out.to(dtype)

    network.get_input_embeddings().register_forward_hook(narrowed)


def _name(network: Any, module: nn.Module) -> str:
    """A module's last word, or as much of its name as tells it from others."""
    names: list[str] = [name for name, _ in network.named_modules()]
    full = next(name for name, found in network.named_modules() if found is module)
    words = full.split(".")
    ends = (".".join(words[-count:]) for count in range(1, len(words) + 1))
    own = (end for end in ends if sum(f".{name}".endswith(f".{end}") for name in names) == 1)
    if (found := next(own, None)) is None:
        why = f"PEFT finds layers by the end of their names, and other layers end in {full!r} too"
        mend = "leave lora.train_also and base.new_tokens out"
        raise ConfigError("embedding or head of this model can't be trained", "lora.train_also", why, mend)
    return found
