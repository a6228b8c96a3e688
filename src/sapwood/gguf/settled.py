"""A transformers config in the one form that says what is computed."""

from __future__ import annotations

import copy
from typing import Any

from sapwood.gguf.families import FAMILIES, architecture_of
from sapwood.gguf.rope import plain_rope


def settled(config: Any) -> Any:
    """A config in the one form that says what is computed, and nothing that isn't: LFM2's class makes its
    MLPs narrower than their key says, and rotary embeddings have names for what everybody takes."""
    config = copy.copy(config)
    if getattr(config, "block_auto_adjust_ff_dim", False):
        width, times = int(2 * config.intermediate_size / 3), config.block_ffn_dim_multiplier
        if times is not None:
            width = -(-int(times * width) // config.block_multiple_of) * config.block_multiple_of
        config.intermediate_size, config.block_auto_adjust_ff_dim = width, False
    if getattr(config, "topk_method", None) == "greedy":
        config.n_group = config.topk_group = None  # DeepSeek 2 doesn't read them then
    elif getattr(config, "topk_group", None) and config.topk_group == config.n_group:
        config.n_group = config.topk_group = 1  # all groups: llama.cpp ends if it is told so
    if FAMILIES[architecture_of(config)].latent and (kinds := getattr(config, "mlp_layer_types", None)):
        config.first_k_dense_replace = kinds.count("dense")  # GLM 4.7 Flash has a list for this number
    if (rotated := FAMILIES[architecture_of(config)].rotated) and getattr(config, rotated) != "rope":
        setattr(config, rotated, None)
    ropes = config.rope_parameters
    if "full_attention" in ropes:
        config.rope_parameters = {kind: plain_rope(rope) for kind, rope in ropes.items()}
    else:
        config.rope_parameters = plain_rope(ropes)
    return config
