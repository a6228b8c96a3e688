"""Write the tiny models of `tiny` as GGUF files, with the `gguf` package's writer and tables of names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf.quants import quantize

import gguf
from tests.base.tiny import tiny_model, tiny_tokenizer

ARCHES = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
IN_PAIRS = ("llama", "arcee", "smollm3", "granite")  # rows of q and k, of each head


def tiny_gguf(
    arch: str, path: Path, *, kind: str = "F32", keys: dict[str, Any] | None = None, **changes: Any
) -> tuple[Path, Any]:
    """Write a random model of ``arch`` to ``path``; matrices as ``kind``, vectors as F32.

    Args:
        keys: metadata to add or replace (numbers as float or uint32, strings, lists of numbers).
        changes: of the transformers config.

    Returns:
        The file, and the model whose weights it holds.
    """
    model = tiny_model(arch, **changes)
    writer = gguf.GGUFWriter(path, arch)
    write_config(writer, arch, model.config)
    write_tokenizer(writer)
    for key, value in (keys or {}).items():
        _write_key(writer, key, value)
    names = gguf.get_tensor_name_map(ARCHES[arch], model.config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        stem, _, suffix = name.rpartition(".")
        values = _llama_cpp_layout(arch, name, parameter.detach().numpy(), model.config)
        packed = gguf.GGMLQuantizationType[kind if values.ndim > 1 else "F32"]
        writer.add_tensor(f"{names.get_name(stem)}.{suffix}", quantize(values, packed), raw_dtype=packed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, model


def _llama_cpp_layout(arch: str, name: str, values: np.ndarray, config: Any) -> np.ndarray:
    if arch in IN_PAIRS and ("q_proj" in name or "k_proj" in name):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        rows = len(values)
        halves = values.reshape(heads, 2, rows // heads // 2, *values.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
    if arch.startswith("gemma") and "norm" in name:
        return values + 1
    return np.ascontiguousarray(values)


def write_config(writer: gguf.GGUFWriter, arch: str, config: Any) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        writer.add_layer_norm_eps(getattr(config, "layer_norm_eps", None) or config.norm_epsilon)
    if arch in ("chatglm", "glm4", "phi3", "stablelm"):
        factor = config.rope_parameters["partial_rotary_factor"]
        writer.add_rope_dimension_count(int(config.head_dim * factor))
    if arch in ("gemma2", "gemma3", "cohere2"):
        writer.add_sliding_window(config.sliding_window)
        pattern = config.layer_types.index("full_attention") + 1
        writer.add_uint32(f"{arch}.attention.sliding_window_pattern", pattern)
    if arch in ("command-r", "cohere2"):
        writer.add_logit_scale(config.logit_scale)
    if arch == "granite":
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])


def write_tokenizer(writer: gguf.GGUFWriter) -> None:
    import json

    tokenizer = tiny_tokenizer()
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if id < 3 else 1 for id in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)


def _write_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    writer.kv_data[0].pop(key, None)  # the writer itself refuses to replace
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, np.ndarray):
        writer.add_tensor(key, value)
    elif value is not None:
        writer.add_uint32(key, value)
