"""Write the tiny models of `tiny` as GGUF files, with the `gguf` package's writer and tables of names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from gguf.quants import quantize

import gguf
from tests.base.tiny import UNSAID, tiny_model, tiny_tokenizer

ARCHES = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
ARCHES |= {"mixtral": gguf.MODEL_ARCH.LLAMA, "olmo3": gguf.MODEL_ARCH.OLMO2}
ARCHES |= dict.fromkeys(("deepseek3", "youtu"), gguf.MODEL_ARCH.DEEPSEEK2)
ARCHES |= dict.fromkeys(("granitehybrid", "granitehybridmoe"), gguf.MODEL_ARCH.GRANITE_HYBRID)
LATENT = ("kimi-linear", "deepseek2", "deepseek3", "youtu", "mistral4", "glm-dsa")
ARCHES |= {"bamba": gguf.MODEL_ARCH.GRANITE_HYBRID}
ARCHES |= {"falcon-mamba": gguf.MODEL_ARCH.MAMBA}
ARCHES |= {"llama4-128": gguf.MODEL_ARCH.LLAMA4}
ARCHES |= {"gemma4moe": gguf.MODEL_ARCH.GEMMA4}
ARCHES |= {"falcon-40b": gguf.MODEL_ARCH.FALCON, "granitemoe-shared": gguf.MODEL_ARCH.GRANITE_MOE}
IN_PAIRS = (
    "olmo",
    "llama",
    "mistral3",
    "arcee",
    "smollm3",
    "granite",
    "mixtral",
    "granitemoe",
    "granitehybrid",
    "granitehybridmoe",
    "granitemoe-shared",
    "chameleon",
)  # rows of q and k, of each head


BESIDE_TEXT = re.compile(r"visual|vision|mlp_AR|vit|projector|vqmodel")


def tiny_gguf(
    arch: str,
    path: Path,
    *,
    kind: str = "F32",
    keys: dict[str, Any] | None = None,
    older: bool = False,
    **changes: Any,
) -> tuple[Path, Any]:
    """Write a random model of ``arch`` to ``path``; matrices as ``kind``, vectors as F32.

    Args:
        keys: metadata to add or replace (numbers as float or uint32, strings, lists of numbers).
        older: latent attention with one tensor for keys and values, as old files have it.
        changes: of the transformers config.

    Returns:
        The file, and the model whose weights it holds.
    """
    model = tiny_model(arch, **changes)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[ARCHES[arch]])
    config = model.config.get_text_config()
    write_config(writer, arch, config, older)
    write_tokenizer(writer, UNSAID.get(arch, range(0)))
    for key, value in (keys or {}).items():
        _write_key(writer, key, value)
    names = gguf.get_tensor_name_map(ARCHES[arch], config.num_hidden_layers)
    stacks: dict[str, list[np.ndarray]] = {}
    kept = model.state_dict().keys()
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if name in kept]
    if arch == "apertus":
        _write_xielu(writer, dict([*model.named_parameters(), *buffers]), config.num_hidden_layers)
    for whole, parameter in [*model.named_parameters(), *buffers]:
        if BESIDE_TEXT.search(whole) or ".act_fn." in whole:
            continue
        name = whole.replace("language_model.", "")
        name = name.replace("model.", "backbone.") if arch == "nemotron_h" else name
        name = name.replace("forget_gate.", "")  # of Kimi's checkpoints
        if name.endswith("in_proj_qkvz.weight"):  # by heads of keys: one kind after the other in a file
            heads = parameter.detach().numpy().reshape(config.linear_num_key_heads, -1, parameter.shape[1])
            key = config.linear_key_head_dim
            kinds = np.split(heads, [key, 2 * key, (heads.shape[1] + 2 * key) // 2], 1)
            q, k, v, z = (part.reshape(-1, parameter.shape[1]) for part in kinds)
            packed = gguf.GGMLQuantizationType[kind]
            for own, values in (("attn_qkv", np.concatenate([q, k, v])), ("attn_gate", z)):
                layer = name.split(".")[2]
                writer.add_tensor(f"blk.{layer}.{own}.weight", quantize(values, packed), raw_dtype=packed)
            continue
        if "altup_" in name:  # linears that are one tensor in a file
            own = names.get_name(name.rsplit(".", 2)[0])
            stacks.setdefault(own, []).append(parameter.detach().numpy())
            continue
        for stem, suffix, part in _parts(arch, name, parameter.detach().numpy(), config, older):
            values = _llama_cpp_layout(arch, name, part, config)
            own = names.get_name(stem) or names.get_name(
                stem.removeprefix("transformer.")
            )  # BLOOM's own names
            own = own or names.get_name(f"{stem}.{suffix}")  # Falcon H1's norm has no .weight in files
            suffix = "" if own and own.endswith("ffn_norm") and arch == "falcon-h1" else suffix
            own = own or {"lm_head": "output"}[stem]  # LFM2's mixtures may have one too
            plain = "ffn_gate_inp" in own or "norm" in own
            packed = gguf.GGMLQuantizationType[
                kind if values.ndim > 1 and not plain and suffix == "weight" else "F32"
            ]
            packed = gguf.GGMLQuantizationType.F32 if "conv1d" in own or values.shape[-1] < 32 else packed
            writer.add_tensor(f"{own}.{suffix}".removesuffix("."), quantize(values, packed), raw_dtype=packed)
    for name, parts in stacks.items():
        packed = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(f"{name}.weight", quantize(np.stack(parts), packed), raw_dtype=packed)
    if arch == "gemma3n":
        for layer in range(20, config.num_hidden_layers):  # nobody reads them
            for name, shape in (("attn_k", (32, 64)), ("attn_v", (32, 64)), ("attn_k_norm", (16,))):
                writer.add_tensor(f"blk.{layer}.{name}.weight", np.full(shape, 7, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, model


def _write_xielu(writer: gguf.GGUFWriter, values: dict[str, Any], layers: int) -> None:
    """The numbers of Apertus's activation: an array of each, for all layers."""
    for word in ("alpha_p", "alpha_n", "beta", "eps"):
        numbers = [values[f"model.layers.{layer}.mlp.act_fn.{word}"].item() for layer in range(layers)]
        getattr(writer, f"add_xielu_{word}")(numbers)


def _parts(
    arch: str, name: str, values: np.ndarray, config: Any, older: bool
) -> list[tuple[str, str, np.ndarray]]:
    """(name as the package maps it, suffix, values) of the tensors that one parameter becomes, as converters
    write them: gate and up of experts apart, and the gate of a shared expert as a vector."""
    if "experts." in name and arch == "gpt-oss":  # turned, the rows of gate and up by turns
        suffix = "bias" if name.endswith("bias") else "weight"
        rows = values if suffix == "bias" else values.swapaxes(1, 2)
        if ".down_" in name:
            return [(name.removesuffix("_bias"), suffix, rows)]
        stem = name[: name.index("gate_up_proj")]
        return [(f"{stem}{word}", suffix, rows[:, i::2]) for i, word in enumerate(("gate_proj", "up_proj"))]
    if "experts." in name and arch.startswith("llama4"):  # turned, the rows of gate first
        rows, stem = values.swapaxes(1, 2), name[: name.index("experts.")] + "experts"
        if name.endswith("down_proj"):
            return [(name, "weight", rows)]
        gate, up = np.split(rows, 2, 1)
        return [(f"{stem}.gate_proj", "weight", gate), (f"{stem}.up_proj", "weight", up)]
    if "experts." in name and arch == "dbrx":  # one below the other, that of down with inputs as rows
        rows = values.reshape(config.ffn_config.moe_num_experts, -1, config.d_model)
        return [(name, "weight", rows.swapaxes(1, 2) if name.endswith("w2") else rows)]
    if "kv_b_proj" in name and arch in LATENT and not older:
        stem = name.removesuffix(".weight").replace("kv_b_proj", "{}_b_proj")
        per_head = values.reshape(config.num_attention_heads, -1, config.kv_lora_rank)
        keys, own = np.split(per_head, [config.qk_nope_head_dim], axis=1)
        return [(stem.format("k"), "weight", keys.transpose(0, 2, 1)), (stem.format("v"), "weight", own)]
    if arch in ("gemma4moe", "mistral4") and ".experts." in name:
        return [(name, "weight", values)]
    if name.endswith(("router.scale", "router.per_expert_scale")):
        of_experts = name.endswith("per_expert_scale")
        return [
            (re.sub(r"router.*", "experts.down_proj" if of_experts else "router.proj", name), "scale", values)
        ]
    if name.endswith("layer_scalar"):
        return [(name, "weight", values)]
    if arch == "kimi-linear" and name.endswith("conv1d.weight"):  # with 4 dimensions
        stem = name.removesuffix("conv1d.weight")
        parts = np.split(values, 3)
        return [(f"{stem}{x}_conv1d", "weight", part[None]) for x, part in zip("qkv", parts, strict=True)]
    if name.endswith("experts.gate_up_proj"):
        words = ("w1", "w3") if "block_sparse" in name else ("gate_proj", "up_proj")
        return [
            (name.replace("gate_up_proj", word), "weight", part)
            for word, part in zip(words, np.split(values, 2, 1), strict=True)
        ]
    if ".shared_mlp.input_linear" in name:
        words = ("gate_proj", "up_proj")
        stem = name.removesuffix("input_linear.weight").replace(
            "shared_mlp", "mlp.shared_mlp" if config.num_local_experts else "mlp"
        )
        return [
            (f"{stem}{word}", "weight", part) for word, part in zip(words, np.split(values, 2), strict=True)
        ]
    if name.endswith("experts.down_proj"):
        return [(name.replace("down_proj", "w2") if "block_sparse" in name else name, "weight", values)]
    if arch == "bitnet":  # as its first checkpoints called them
        name = name.replace("attn_sub_norm", "inner_attn_ln").replace("ffn_sub_norm", "ffn_layernorm")
    stem, _, suffix = name.rpartition(".")
    if suffix in ("expert_bias", "e_score_correction_bias"):
        ernie = name.replace("gate.", "") if "statics" in name else name
        stem, suffix = ernie.replace("correction_bias", "correction"), "bias"
    if suffix in ("dt_bias", "A_log", "D"):
        stem, suffix = (name.replace("dt_bias", "dt_proj"), "bias") if suffix == "dt_bias" else (name, "")
    if stem.endswith("shared_mlp.output_linear") and not config.num_local_experts:
        stem = stem.replace("shared_mlp.output_linear", "mlp.down_proj")
    if suffix in ("sinks", "correct_output_scale"):
        stem, suffix = name, "weight"
    if stem.endswith(("conv.conv", "conv1d")) and suffix == "weight":
        values = values[:, 0]
    if "moe_statics" in stem:
        values = values[0]
    if stem.endswith("shared_expert_gate"):
        values = values[0]
    return [(f"{stem}.layer" if stem.endswith("block_sparse_moe.router") else stem, suffix, values)]


def _llama_cpp_layout(arch: str, name: str, values: np.ndarray, config: Any) -> np.ndarray:
    if arch == "gpt2" and values.ndim == 2 and ".h." in name:
        return np.ascontiguousarray(values.T)
    if "query_key_value" in name:  # of one head of keys after the other, with its queries
        heads, keys = config.num_attention_heads, _key_heads(arch, config)
        some = values.reshape(keys, heads // keys + 2, config.hidden_size // heads, *values.shape[1:])
        parts = (some[:, :-2], some[:, -2], some[:, -1])
        return np.concatenate([part.reshape(-1, *values.shape[1:]) for part in parts])
    if arch == "bamba" and ("q_proj" in name or "k_proj" in name):  # the half of each head that is turned
        own = values.reshape(-1, 16, *values.shape[1:])
        return np.concatenate([own[:, [0, 4, 1, 5, 2, 6, 3, 7]], own[:, 8:]], 1).reshape(values.shape)
    norms = arch == "chameleon" and ("q_norm" in name or "k_norm" in name)
    if norms:
        values = values.reshape(-1)
    if arch in IN_PAIRS and ("q_proj" in name or "k_proj" in name or norms):
        heads = config.num_attention_heads if "attn.q_" in name else config.num_key_value_heads
        rows = len(values)
        halves = values.reshape(heads, 2, rows // heads // 2, *values.shape[1:])
        if norms:
            return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(heads, -1))
        return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
    if arch == "kimi-linear" and name.endswith("A_log"):
        return -np.exp(values)
    if ".mixer." in name and arch in ("mamba2", "nemotron_h"):
        return _mamba2(name, values, config.n_groups)
    if ".mixer." in name:
        return np.ascontiguousarray(-np.exp(values) if name.endswith("A_log") else values)
    if ".mamba." in name and arch == "jamba":
        return np.ascontiguousarray(-np.exp(values) if name.endswith("A_log") else values)
    if ".mamba." in name:
        return _mamba2(name, values, config.mamba_n_groups)
    if "linear_attn." in name and arch == "qwen3next":
        return -np.exp(values) if "A_log" in name else np.ascontiguousarray(values)
    if "linear_attn." in name:
        return _tiled(name, values, config)
    if (
        arch.startswith(("gemma", "nemotron", "qwen35", "qwen3next"))
        and not arch.startswith(("gemma3n", "gemma4", "nemotron_h"))
        and name.endswith("norm.weight")
    ):
        return values + 1
    return np.ascontiguousarray(values)


def _mamba2(name: str, values: np.ndarray, groups: int) -> np.ndarray:
    if name.endswith("A_log"):
        return -np.exp(values)[:, None]
    if name.endswith(".D"):
        return np.ascontiguousarray(values[:, None])
    return values.reshape(groups, -1) if name.endswith(".norm.weight") else np.ascontiguousarray(values)


def _tiled(name: str, values: np.ndarray, config: Any) -> np.ndarray:
    """Heads of values that share a head of keys apart from each other; a decay in the place of its
    logarithm."""
    keys, heads = config.linear_num_key_heads, config.linear_num_value_heads
    if "A_log" in name:
        values = -np.exp(values)
    if ".norm." in name:
        return values
    if "out_proj" in name:
        return np.ascontiguousarray(_tiled(name.replace("out_proj", "z"), values.T, config).T)
    before = 2 * keys * config.linear_key_head_dim if "qkv" in name or "conv1d" in name else 0
    own = values[before:].reshape(keys, heads // keys, -1, *values.shape[1:])
    return np.concatenate([values[:before], own.swapaxes(0, 1).reshape(-1, *values.shape[1:])])


def _key_heads(arch: str, config: Any) -> int:
    of_falcon = {"falcon": 1, "falcon-40b": getattr(config, "num_kv_heads", 0)}
    return of_falcon.get(arch) or getattr(config, "num_key_value_heads", config.num_attention_heads)


def _write_mamba(writer: gguf.GGUFWriter, config: Any) -> None:
    """Of a model without attention. Three keys are there because llama.cpp wants to find them."""
    writer.add_context_length(1 << 20)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_embedding_length(config.hidden_size)
    writer.add_ssm_conv_kernel(config.conv_kernel)
    writer.add_ssm_state_size(config.state_size)
    writer.add_ssm_inner_size(config.expand * config.hidden_size)
    if hasattr(config, "n_groups"):
        writer.add_ssm_group_count(config.n_groups)
        writer.add_ssm_time_step_rank(config.num_heads)
    else:
        writer.add_ssm_time_step_rank(config.time_step_rank)
        writer.add_ssm_dt_b_c_rms(hasattr(config, "mixer_rms_eps"))
    writer.add_layer_norm_rms_eps(config.layer_norm_epsilon)


def _write_falcon_h1(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_ssm_conv_kernel(config.mamba_d_conv)
    writer.add_ssm_state_size(config.mamba_d_state)
    writer.add_ssm_group_count(config.mamba_n_groups)
    writer.add_ssm_time_step_rank(config.mamba_n_heads)
    writer.add_ssm_inner_size(config.mamba_d_ssm)


PLAIN = ("gpt2", "starcoder", "bloom", "mpt")  # positions are learnt, or distances added
WITHOUT_ROPE = ("kimi-linear", "nemotron_h", "jamba", *PLAIN)


def write_config(writer: gguf.GGUFWriter, arch: str, config: Any, older: bool = False) -> None:
    writer.add_block_count(config.num_hidden_layers)
    if not hasattr(config, "num_attention_heads"):
        _write_mamba(writer, config)
        return
    length = getattr(config, "max_seq_len", 2048)
    writer.add_context_length(getattr(config, "max_position_embeddings", length))
    writer.add_embedding_length(config.hidden_size)
    if arch in (*PLAIN, "falcon", "falcon-40b"):
        writer.add_feed_forward_length(4 * config.hidden_size)
    if hasattr(config, "intermediate_size"):
        widths = config.shared_intermediate_size if arch == "granitehybrid" else config.intermediate_size
        widths = getattr(config, "intermediate_size_mlp", widths)  # Llama 4's, of layers without experts
        kinds = getattr(config, "layer_types", None) or []
        apart = [widths if kind == "mlp" else 0 for kind in kinds] if arch == "nemotron_h" else widths
        writer.add_feed_forward_length(widths[0] if isinstance(widths, list) else apart)
    if arch.startswith("gemma4"):
        _write_gemma4(writer, config)
        return
    writer.add_head_count(config.num_attention_heads)
    kinds = getattr(config, "layer_types", None) or []
    key_heads = _key_heads(arch, config)
    heads = [0 if kind in ("conv", "linear_attention", "mlp") else key_heads for kind in kinds]
    if hasattr(config, "kv_lora_rank"):
        width = config.qk_nope_head_dim + config.qk_rope_head_dim
        one = arch in LATENT and not older  # all heads have the one vector
        kimi = [int(kind == "full_attention") for kind in kinds] if arch == "kimi-linear" else 1
        writer.add_head_count_kv(kimi if one else config.num_attention_heads)
        writer.add_q_lora_rank(config.q_lora_rank or 0)
        writer.add_kv_lora_rank(config.kv_lora_rank)
        writer.add_key_length(config.kv_lora_rank + config.qk_rope_head_dim if one else width)
        writer.add_value_length(config.kv_lora_rank if one else config.v_head_dim)
        if one:
            writer.add_key_length_mla(width)
            writer.add_value_length_mla(config.v_head_dim)
        writer.add_rope_dimension_count(config.qk_rope_head_dim)
    else:
        writer.add_head_count_kv(
            heads if 0 in heads and not arch.startswith(("qwen35", "qwen3next")) else key_heads
        )
        width = getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
        writer.add_key_length(width)
    if arch == "gptneox":
        writer.add_parallel_residual(config.use_parallel_residual)
    if arch == "chameleon":
        writer.add_swin_norm(config.swin_norm)
    if arch == "mpt":
        writer.add_max_alibi_bias(config.attn_config.alibi_bias_max)
        if config.attn_config.clip_qkv:
            writer.add_clamp_kqv(config.attn_config.clip_qkv)
    if arch == "dbrx":
        _write_dbrx(writer, config)
    has_experts = arch != "nemotron_h" and getattr(config, "num_local_experts", 0)
    if (experts := getattr(config, "num_experts", None)) or has_experts:
        writer.add_expert_count(experts or config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    if hasattr(config, "moe_intermediate_size") and arch != "nemotron_h":
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if arch in ("hunyuan-moe", "gpt-oss", "minimax-m2", "llama4", "llama4-128"):
        writer.add_expert_feed_forward_length(config.intermediate_size)
    if arch.startswith("llama4"):
        writer.add_interleave_moe_layer_step(config.interleave_moe_layer_step)
    if arch.startswith(("qwen35", "qwen3next")):
        writer.add_ssm_conv_kernel(config.linear_conv_kernel_dim)
        writer.add_ssm_state_size(config.linear_key_head_dim)
        writer.add_ssm_group_count(config.linear_num_key_heads)
        writer.add_ssm_time_step_rank(config.linear_num_value_heads)
        writer.add_ssm_inner_size(config.linear_num_value_heads * config.linear_value_head_dim)
        writer.add_full_attention_interval(config.layer_types.index("full_attention") + 1)
    if sections := (getattr(config, "rope_parameters", None) or {}).get("mrope_section"):
        writer.add_rope_dimension_sections([*sections, 0, 0, 0][:4])
    if arch.startswith("qwen3vl"):
        writer.add_num_deepstack_layers(1)
    if arch.startswith("lfm2"):
        writer.add_shortconv_l_cache(config.conv_L_cache)
    if arch == "lfm2moe":
        writer.add_leading_dense_block_count(config.num_dense_layers)
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if arch == "ernie4_5-moe":
        writer.add_leading_dense_block_count(config.moe_layer_start_index)
        writer.add_interleave_moe_layer_step(config.moe_layer_interval)
        writer.add_expert_shared_count(config.moe_num_shared_experts)
        shared = config.moe_num_shared_experts * config.moe_intermediate_size
        writer.add_expert_shared_feed_forward_length(shared)
    if arch in ("glm4moe", "dots1", "deepseek2", "deepseek3", "mistral4", "glm-dsa"):
        writer.add_leading_dense_block_count(config.first_k_dense_replace)
        writer.add_expert_shared_count(config.n_shared_experts)
        writer.add_expert_weights_scale(config.routed_scaling_factor)
        if arch == "mistral4":
            writer.add_expert_weights_norm(config.norm_topk_prob)
            writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SOFTMAX)
        elif arch != "deepseek2":
            writer.add_expert_weights_norm(config.norm_topk_prob)
            writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if arch == "glm-dsa":
        writer.add_indexer_top_k(config.index_topk)
        writer.add_indexer_head_count(config.index_n_heads)
        writer.add_indexer_key_length(config.index_head_dim)
    if arch == "youtu":
        writer.add_leading_dense_block_count(config.num_hidden_layers)
        writer.add_expert_feed_forward_length(config.intermediate_size)
        writer.add_expert_shared_count(0)
    if arch == "deepseek3":
        writer.add_expert_group_count(config.n_group)
        writer.add_expert_group_used_count(config.topk_group)
    if arch in ("minimax-m2", "exaone-moe", "afmoe"):
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if arch in ("exaone-moe", "afmoe"):
        dense = config.num_dense_layers if arch == "afmoe" else config.first_k_dense_replace
        writer.add_leading_dense_block_count(dense)
        writer.add_expert_shared_count(config.num_shared_experts)
        writer.add_expert_shared_feed_forward_length(config.num_shared_experts * config.moe_intermediate_size)
        scale = config.route_scale if arch == "afmoe" else config.routed_scaling_factor
        writer.add_expert_weights_scale(scale)
        writer.add_expert_weights_norm(arch == "afmoe" or config.norm_topk_prob)
    if arch in ("qwen2moe", "qwen35moe", "qwen3next"):
        writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)
    if hasattr(config, "rms_norm_eps") or arch.startswith("lfm2"):
        writer.add_layer_norm_rms_eps(getattr(config, "rms_norm_eps", None) or config.norm_eps)
    elif arch == "nemotron_h":
        writer.add_layer_norm_rms_eps(config.layer_norm_epsilon)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    elif arch in ("olmo", "dbrx"):
        writer.add_layer_norm_eps(1e-5)
    else:
        names = ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")
        writer.add_layer_norm_eps(next(getattr(config, name) for name in names if hasattr(config, name)))
    partial = ("chatglm", "glm4", "phi3", "stablelm", "nemotron", "qwen35", "qwen35moe", "glm4moe", "phi2")
    if arch in (*partial, "bamba", "gptneox", "minimax-m2", "qwen3next"):
        factor = config.rope_parameters["partial_rotary_factor"]
        writer.add_rope_dimension_count(int(width * factor))
    if arch in ("gemma2", "gemma3", "gemma3n", "cohere2", "olmo3", "gpt-oss", "exaone-moe", "afmoe"):
        writer.add_sliding_window(config.sliding_window)
        pattern = config.layer_types.index("full_attention") + 1
        writer.add_uint32(f"{writer.arch}.attention.sliding_window_pattern", pattern)
    if arch == "mimo2":
        windows = [kind == "sliding_attention" for kind in kinds]
        writer.kv_data[0].pop("mimo2.attention.head_count_kv")  # the writer itself refuses to replace
        writer.add_head_count_kv([key_heads * (1 + flag) for flag in windows])
        writer.add_value_length(config.v_head_dim)
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern(windows)
        writer.add_rope_dimension_count(8)
        writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])
        writer.add_float32("mimo2.attention.value_scale", config.attention_value_scale)
    if arch in ("command-r", "cohere2"):
        writer.add_logit_scale(config.logit_scale)
    if arch == "kimi-linear":
        writer.add_ssm_conv_kernel(config.linear_conv_kernel_dim)
        writer.add_kda_head_dim(config.linear_head_dim)
        writer.add_leading_dense_block_count(config.mlp_layer_types.count("dense"))
        writer.add_expert_shared_count(config.n_shared_experts)
        writer.add_expert_weights_scale(config.routed_scaling_factor)
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if arch == "nemotron_h":
        writer.add_ssm_conv_kernel(config.conv_kernel)
        writer.add_ssm_state_size(config.ssm_state_size)
        writer.add_ssm_group_count(config.n_groups)
        writer.add_ssm_time_step_rank(config.mamba_num_heads)
        writer.add_ssm_inner_size(config.mamba_num_heads * config.mamba_head_dim)
    elif arch == "jamba":
        writer.add_ssm_conv_kernel(config.mamba_d_conv)
        writer.add_ssm_state_size(config.mamba_d_state)
        writer.add_ssm_time_step_rank(config.mamba_dt_rank)
        writer.add_ssm_inner_size(2 * config.hidden_size)
    elif arch == "falcon-h1":
        _write_falcon_h1(writer, config)
    elif hasattr(config, "mamba_n_heads"):
        writer.add_ssm_conv_kernel(config.mamba_d_conv)
        writer.add_ssm_state_size(config.mamba_d_state)
        writer.add_ssm_group_count(config.mamba_n_groups)
        writer.add_ssm_time_step_rank(config.mamba_n_heads)
        writer.add_ssm_inner_size(config.mamba_n_heads * config.mamba_d_head)
    if arch.startswith("granitehybrid"):
        writer.add_rope_scaling_finetuned(config.position_embedding_type == "rope")
    if arch in ("granitehybridmoe", "granitemoe-shared"):
        writer.add_expert_shared_feed_forward_length(config.shared_intermediate_size)
    if arch.startswith("granite"):
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if arch in WITHOUT_ROPE:
        return
    rope = config.rope_parameters
    if arch in ("mistral3", "mistral4"):
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_log_mul(rope["mscale_all_dim"] * (0.1 if arch in LATENT else 1))
        writer.add_attn_temperature_scale(rope["llama_4_scaling_beta"])
        if arch == "mistral4":
            writer.add_attn_temperature_length(rope["original_max_position_embeddings"])
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])


def _write_dbrx(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_feed_forward_length(config.ffn_config.ffn_hidden_size)
    writer.add_expert_count(config.ffn_config.moe_num_experts)
    writer.add_expert_used_count(config.ffn_config.moe_top_k)
    writer.add_clamp_kqv(config.attn_config.clip_qkv or 0.0)


def _write_gemma4(writer: gguf.GGUFWriter, config: Any) -> None:
    """Sizes of each layer, and divisors of frequencies."""
    layers = list(config.per_layer_config)
    local, full = (layers[config.layer_types.index(f"{kind}_attention")] for kind in ("sliding", "full"))
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv([layer.num_key_value_heads for layer in layers])
    writer.add_key_length(full.head_dim)
    writer.add_value_length(full.head_dim)
    writer.add_key_length_swa(local.head_dim)
    writer.add_value_length_swa(local.head_dim)
    writer.add_rope_dimension_count(full.head_dim)
    writer.add_rope_dimension_count_swa(local.head_dim)
    writer.add_sliding_window(config.sliding_window)
    writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])
    writer.add_shared_kv_layers(config.num_kv_shared_layers)
    writer.add_embedding_length_per_layer_input(config.hidden_size_per_layer_input)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_final_logit_softcapping(config.final_logit_softcapping or 0.0)
    if config.enable_moe_block:
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.top_k_experts)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["full_attention"]["rope_theta"])
    writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
    frequencies = full.head_dim // 2
    turned = int(frequencies * rope["full_attention"]["partial_rotary_factor"])
    divisors = [1.0] * turned + [1e30] * (frequencies - turned)
    writer.add_tensor("rope_freqs.weight", np.asarray(divisors, np.float32))


def write_tokenizer(writer: gguf.GGUFWriter, unsaid: range = range(0)) -> None:
    import json

    tokenizer = tiny_tokenizer(unsaid=unsaid)
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
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, np.ndarray):
        writer.add_tensor(key, value)
    elif value is not None:
        writer.add_uint32(key, value)
