"""Latent attention, as DeepSeek has it: keys and values of all heads come from one narrow vector.

Files say its widths as llama.cpp computes: the vector itself is the one head of keys (``key_length``,
``value_length``, one head), and what each head makes of it stands in ``key_length_mla`` and
``value_length_mla``. Older files, and MiniCPM3's, say the widths of the heads themselves.
"""

from __future__ import annotations

from typing import Any

from sapwood.errors import ModelError, Problem
from sapwood.gguf.file import GgufFile
from sapwood.gguf.keys import integer
from sapwood.gguf.table.family import Family

ROTATED, QUERIES = "rope.dimension_count", "attention.q_lora_rank"
KEYS, VALUES, HEADS = "attention.key_length", "attention.value_length", "attention.head_count_kv"
KEYS_OF_HEAD, VALUES_OF_HEAD = f"{KEYS}_mla", f"{VALUES}_mla"
NAMES = {
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "q_lora_rank",
    "qk_head_dim",
    "mlp_layer_types",
}
WITHOUT_RANK = (26, 27)  # numbers of layers by which llama.cpp knows models without a rank of queries


def latent_sizes(file: GgufFile, heads: int) -> dict[str, Any]:
    """The widths in a file, as transformers calls them."""
    split = f"{file.architecture}.{KEYS_OF_HEAD}" in file.metadata
    keys, values = (KEYS_OF_HEAD, VALUES_OF_HEAD) if split else (KEYS, VALUES)
    width, rotated = integer(file, keys), integer(file, ROTATED)
    if rotated >= width:
        why = f"{file.architecture}.{keys} is {width}, of which {rotated} are rotated"
        raise ModelError("heads of latent attention have no part that isn't rotated", str(file.path), why)
    return {
        "num_key_value_heads": heads,
        "head_dim": rotated,
        "qk_rope_head_dim": rotated,
        "qk_nope_head_dim": width - rotated,
        "v_head_dim": integer(file, values),
        "q_lora_rank": integer(file, QUERIES, 0) or None,
    }


def latent_values(config: Any, family: Family) -> dict[str, Any]:
    """The widths of a config by the keys of a file, below the architecture's name."""
    width = config.qk_nope_head_dim + config.qk_rope_head_dim
    values: dict[str, Any] = {KEYS: width, VALUES: config.v_head_dim, HEADS: config.num_attention_heads}
    if family.latent == "split":
        values = {
            KEYS: config.kv_lora_rank + config.qk_rope_head_dim,
            VALUES: config.kv_lora_rank,
            HEADS: 1,
            KEYS_OF_HEAD: width,
            VALUES_OF_HEAD: config.v_head_dim,
        }
    if family.between:
        kinds = config.layer_types
        values[HEADS] = [values[HEADS] if kind == "full_attention" else 0 for kind in kinds]
    return values | {QUERIES: config.q_lora_rank or 0, ROTATED: config.qk_rope_head_dim}


def unwritable_latent(config: Any, family: Family, where: str) -> list[Problem]:
    """What of a config's latent attention llama.cpp would compute otherwise."""
    ranked, kinds = config.q_lora_rank is not None, getattr(config, "mlp_layer_types", None) or []
    if kinds != sorted(kinds):  # dense, sparse
        why = f"in {where} layers without experts come first"
        return [Problem("GGUF can't store this order of experts", "mlp_layer_types", why)]
    if family.latent == "joined" and not ranked:
        return [Problem("GGUF can't store queries without a rank", "q_lora_rank", f"{where} needs one")]
    if family.latent == "split" and ranked and config.num_hidden_layers in WITHOUT_RANK:
        why = f"{where} takes models of {config.num_hidden_layers} layers for those without one"
        return [Problem(f"GGUF can't store q_lora_rank: {config.q_lora_rank}", "q_lora_rank", why)]
    return []
