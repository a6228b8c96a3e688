"""Prompt tuning, P-tuning and prefix tuning: what is learnt stands before every row.

    prompt, p-tuning    embeddings of virtual tokens, [1, P, D]
    prefix              keys and values of every layer, [1, KV, P, head] each

Both are the same for all rows. In a pack they are a beginning that all rows share (`pack.build.with_lead`),
and in generation the cache holds them at the start. PEFT instead repeats them for each padded row; the
numbers are the same (`tests/parity/test_soft_prompts.py`). The modules are PEFT's own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def lead_length(model: Any) -> int:
    """Virtual tokens before every row of ``model`` as it stands: 0 without a soft prompt, or while it is
    switched off."""
    settings = getattr(model, "active_peft_config", None)
    if settings is None or not settings.is_prompt_learning or model._adapters_disabled:
        return 0
    return int(settings.num_virtual_tokens)


def is_prefix(model: Any) -> bool:
    """Keys and values; embeddings otherwise."""
    return model.active_peft_config.peft_type == "PREFIX_TUNING"


def lead_embeddings(model: Any, like: Tensor) -> Tensor:
    """[1, P, D], with their gradient, in the number format of ``like``."""
    return model.get_prompt(batch_size=1).to(like)


def lead_keys(model: Any) -> tuple[tuple[Tensor, Tensor], ...]:
    """For each layer keys and values, [1, KV, P, head], with their gradient."""
    return tuple((layer.keys, layer.values) for layer in model.get_prompt(batch_size=1).layers)


def fill_cache(model: Any, network: Any, cache: Any, rows: int) -> int:
    """Put the soft prompt into an empty cache of ``rows`` rows. Returns how many positions it takes."""
    length = lead_length(model)
    if length and is_prefix(model):
        for index, (keys, values) in enumerate(lead_keys(model)):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), index)
    elif length:
        embedding = network.get_input_embeddings().weight
        network(
            inputs_embeds=lead_embeddings(model, embedding).expand(rows, -1, -1),
            position_ids=torch.arange(length, device=embedding.device)[None].expand(rows, -1),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=torch.tensor([length - 1], device=embedding.device),
        )
    return length
