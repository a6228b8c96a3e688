"""What a GGUF file calls tensors, and what transformers calls them; and how their values lie in each.

Two layouts differ:

- files of Llama, and of some others, hold the rows of q and k in the order that llama.cpp's rotary embedding
  wants (pairs side by side), transformers in halves, per head;
- gemma files hold norm weights with 1 added; transformers' Gemma adds the 1 when it runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import ModelError, Problem
from sapwood.gguf.facts import family_of
from sapwood.gguf.families import FAMILIES
from sapwood.gguf.file import GgufFile
from sapwood.gguf.keys import integer
from sapwood.gguf.rope import DIVISORS

_EVERY_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_PRE_NORM = {"ffn_norm": "post_attention_layernorm"}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_SANDWICH_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_ONE_GATE_AND_UP = {key: name for key, name in _EVERY_LAYER.items() if not key.startswith("ffn_")} | {
    "ffn_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj",
}
_NORMS_AFTER = {
    "post_attention_norm": "post_self_attn_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
}
_ONLY_NORMS_AFTER = {key: name for key, name in _EVERY_LAYER.items() if key != "attn_norm"} | {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_WITHOUT_GATE = {key: name for key, name in _EVERY_LAYER.items() if key != "ffn_gate"}
_LAYER = {
    **dict.fromkeys(("gemma", "granite", "smollm3", "ernie4_5", "stablelm"), _EVERY_LAYER | _PRE_NORM),
    **dict.fromkeys(("olmo2", "exaone4"), _ONLY_NORMS_AFTER | _HEAD_NORMS),
    **dict.fromkeys(("command-r", "cohere2"), _EVERY_LAYER),
    "arcee": _WITHOUT_GATE | _PRE_NORM,
    "starcoder2": _WITHOUT_GATE | _PRE_NORM | {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
    "hunyuan-dense": _EVERY_LAYER
    | _PRE_NORM
    | {"attn_q_norm": "self_attn.query_layernorm", "attn_k_norm": "self_attn.key_layernorm"},
    "seed_oss": _EVERY_LAYER | {"post_attention_norm": "post_attention_layernorm"},
    "phi3": {
        "attn_norm": "input_layernorm",
        "attn_qkv": "self_attn.qkv_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_up": "mlp.gate_up_proj",
        "ffn_down": "mlp.down_proj",
    }
    | _PRE_NORM,
    "llama": _EVERY_LAYER | _PRE_NORM,
    "qwen2": _EVERY_LAYER | _PRE_NORM,
    "qwen3": _EVERY_LAYER | _PRE_NORM | _HEAD_NORMS,
    "gemma2": _EVERY_LAYER | _SANDWICH_NORMS,
    "gemma3": _EVERY_LAYER | _SANDWICH_NORMS | _HEAD_NORMS,
    "chatglm": _ONE_GATE_AND_UP | _PRE_NORM,
    "glm4": _ONE_GATE_AND_UP | _PRE_NORM | _NORMS_AFTER,
}
_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_COMPUTED = {DIVISORS}  # read for the config, no parameter of its own


def module_names(architecture: str, num_layers: int) -> dict[str, str]:
    """GGUF tensor name -> module name, both without ``.weight``: ``blk.0.attn_q`` -> ``model.layers.0…``."""
    names = dict(_OUTSIDE)
    for layer in range(num_layers):
        for tensor, module in _LAYER[architecture].items():
            names[f"blk.{layer}.{tensor}"] = f"model.layers.{layer}.{module}"
    return names


def parameter_names(file: GgufFile) -> dict[str, str]:
    """GGUF tensor name -> transformers parameter name, for every tensor that becomes one.

    Raises ModelError that lists the tensors which have no place in the architecture.
    """
    family_of(file)
    modules = module_names(file.architecture, integer(file, "block_count"))
    names: dict[str, str] = {}
    strangers: list[Problem] = []
    for tensor in file.tensors:
        stem, _, suffix = tensor.rpartition(".")
        if stem in modules and suffix in ("weight", "bias"):
            names[tensor] = f"{modules[stem]}.{suffix}"
        elif tensor not in _COMPUTED:
            strangers.append(
                Problem(
                    f"unexpected tensor {tensor}", str(file.path), f"{file.architecture} has no such tensor"
                )
            )
    if strangers:
        raise ModelError(strangers)
    return names


def to_torch_layout(file: GgufFile, tensor: str, values: NDArray[Any]) -> NDArray[Any]:
    """Dense values of one tensor, in the layout that transformers expects under the same name."""
    if is_permuted(file, tensor):
        return unpermute(values, _heads(file, tensor))
    if FAMILIES[file.architecture].norms_plus_one and tensor.endswith("norm.weight"):
        return values - np.asarray(1, values.dtype)
    return values


def to_torch_rows(file: GgufFile, tensor: str) -> NDArray[np.uint8]:
    """The packed rows of a matrix, in the order that transformers expects: a row's blocks stay whole."""
    rows = np.asarray(file.tensors[tensor].data)
    return unpermute(rows, _heads(file, tensor)) if is_permuted(file, tensor) else rows


def is_permuted(file: GgufFile, tensor: str) -> bool:
    """True if the file's rows stand in another order than transformers', so that they belong together."""
    return FAMILIES[file.architecture].interleaved and (".attn_q." in tensor or ".attn_k." in tensor)


def _heads(file: GgufFile, tensor: str) -> int:
    key = "attention.head_count" if ".attn_q." in tensor else "attention.head_count_kv"
    return integer(file, key, integer(file, "attention.head_count"))


def to_file_layout(architecture: str, tensor: str, values: NDArray[Any], config: Any) -> NDArray[Any]:
    """The inverse of `to_torch_layout`. ``tensor``: its name without ``.weight`` or ``.bias``."""
    family = FAMILIES[architecture]
    if (heads := rotary_heads(architecture, tensor, config)) is not None:
        values = permute(values, heads)
    if family.norms_plus_one and tensor.endswith("norm"):
        values = values + np.float32(1)
    return np.ascontiguousarray(values)


def rotary_heads(architecture: str, tensor: str, config: Any) -> int | None:
    """Heads of a tensor whose rows stand in another order in the file; None for all others."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    return heads.get(tensor.rpartition(".")[2]) if FAMILIES[architecture].interleaved else None


def unpermute(rows: NDArray[Any], num_heads: int) -> NDArray[Any]:
    """Rows of q or k from llama.cpp's order (rotary pairs adjacent) to transformers' (halves), per head.

    rows: [heads * head_dim, …]; a bias has no second dimension.
    """
    pairs = rows.reshape(num_heads, len(rows) // num_heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def permute(rows: NDArray[Any], num_heads: int) -> NDArray[Any]:
    """The inverse of `unpermute`: what goes into a llama-type GGUF file."""
    halves = rows.reshape(num_heads, 2, len(rows) // num_heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)
