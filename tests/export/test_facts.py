"""Every fact of the table, changed in a tiny model: real llama.cpp says what transformers says, or the config
is refused before anything is loaded."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import gguf
from sapwood.commands.export import export_target
from sapwood.errors import ExportError
from sapwood.export.ship import Order, export
from sapwood.gguf.facts import LOCAL_THETA, ROTATED
from sapwood.gguf.file import read_gguf
from sapwood.gguf.latent import latent_values
from sapwood.gguf.rope import SCALINGS
from sapwood.gguf.table.families import FAMILIES, INNER, INTERVAL, SECTIONS
from sapwood.gguf.table.family import PATTERN, facts_of
from sapwood.gguf.written import SHARED_WIDTH, file_values, refuse_unwritable
from tests.base.tiny import DEEP_GEMMA3N, MULTIPLIED, tiny_config, tiny_model_dir
from tests.export.tuned import tuned_on

Changes = dict[str, Any]


def rope(kind: str = "default", theta: float = 10_000.0, **more: Any) -> Changes:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **more}}


def two_ropes(full: Changes, sliding: Changes) -> Changes:
    plain = {"rope_type": "default", "rope_theta": 10_000.0}
    return {"rope_parameters": {"full_attention": plain | full, "sliding_attention": plain | sliding}}


LINEAR = {"rope_type": "linear", "factor": 4.0}
YARN = {"factor": 4.0, "original_max_position_embeddings": 64}
YARN_OF_MINISTRAL = YARN | {
    "original_max_position_embeddings": 16,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
YARN_OF_DEEPSEEK = YARN | {"mscale": 0.7, "mscale_all_dim": 0.7}
LONGROPE = {
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.5, 1.8, 2.2, 3.0],
    "long_factor": [2.0] * 8,
    "original_max_position_embeddings": 256,
}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
HALF, QUARTER = {"partial_rotary_factor": 0.5}, {"partial_rotary_factor": 0.25}
THIRD = {"partial_rotary_factor": 0.334}
UNTIED = {"tie_word_embeddings": False}
PROPORTIONAL = {"rope_type": "proportional", "partial_rotary_factor": 0.25}
SLIDING, FULL = "sliding_attention", "full_attention"
SHARING = {"num_hidden_layers": 4, "layer_types": [SLIDING, FULL] * 2, "num_kv_shared_layers": 2}

BY_TENSORS = {
    "attention_bias",
    "mlp_bias",
    "use_qkv_bias",
    "qkv_bias",
    "use_qk_norm",
    "vocab_size_per_layer_input",
    "tie_word_embeddings",
    "mamba_rms_norm",
}  # no key says them

MOVES: tuple[tuple[str, Changes], ...] = (
    ("llama", rope(theta=500_000.0)),
    ("llama", rope("linear", factor=4.0)),
    ("llama", rope("yarn", **YARN)),
    ("llama", rope("yarn", beta_fast=16.0, **YARN)),
    ("llama", rope("yarn", truncate=True, attention_factor=0.1 * math.log(4) + 1, type="yarn", **YARN)),
    ("llama", rope("llama3", 500_000.0, **LLAMA3)),
    ("llama", {"rms_norm_eps": 1e-3}),
    ("llama", {"attention_bias": True}),
    ("llama", {"mlp_bias": True}),
    ("llama", {"head_dim": 32}),
    ("llama", {"num_key_value_heads": 1}),
    ("llama", {"intermediate_size": 96}),
    ("llama", UNTIED),
    ("mistral", {"sliding_window": 2048}),
    ("mistral", rope(theta=1_000_000.0) | UNTIED),
    ("qwen2", rope("yarn", **YARN)),
    ("qwen2", UNTIED),
    ("qwen3", rope("linear", factor=4.0)),
    ("qwen3", {"head_dim": 32, "rms_norm_eps": 1e-3}),
    ("qwen3", UNTIED),
    ("gemma2", {"sliding_window": 16}),
    ("gemma2", {"layer_types": [SLIDING, SLIDING]}),
    ("gemma2", {"attn_logit_softcapping": 2.0}),
    ("gemma2", {"final_logit_softcapping": 1.0}),
    ("gemma2", rope(theta=500_000.0)),
    ("gemma3", {"sliding_window": 16}),
    ("gemma3", {"layer_types": [SLIDING, SLIDING]}),
    ("gemma3", two_ropes({"rope_theta": 500_000.0}, {})),
    ("gemma3", two_ropes({}, {"rope_theta": 100.0})),
    ("gemma3", two_ropes(LINEAR, {})),
    ("chatglm", rope(**QUARTER)),
    ("chatglm", rope(partial_rotary_factor=1.0)),
    ("chatglm", rope(theta=500_000.0, **HALF)),
    ("chatglm", {"attention_bias": False}),
    ("chatglm", UNTIED),
    ("glm4", rope(**QUARTER)),
    ("glm4", rope("yarn", **YARN, **HALF)),
    ("glm4", {"attention_bias": False}),
    ("glm4", UNTIED),
    ("arcee", rope("yarn", **YARN)),
    ("smollm3", rope("yarn", **YARN)),
    ("granite", rope("yarn", **YARN)),
    ("ernie4_5", rope("yarn", **YARN)),
    ("hunyuan-dense", rope("yarn", **YARN)),
    ("seed_oss", rope("yarn", **YARN)),
    ("olmo2", rope("yarn", **YARN)),
    ("exaone4", rope("yarn", **YARN)),
    ("starcoder2", rope("yarn", **YARN)),
    ("command-r", rope("yarn", **YARN)),
    ("cohere2", rope("yarn", **YARN)),
    ("gemma", rope("yarn", **YARN)),
    ("smollm3", UNTIED),
    ("granite", UNTIED),
    ("ernie4_5", UNTIED),
    ("phi3", UNTIED),
    ("starcoder2", UNTIED),
    ("smollm3", rope("linear", factor=4.0)),
    ("granite", {"attention_multiplier": 0.25}),
    ("granite", {"embedding_multiplier": 2.0}),
    ("granite", {"residual_multiplier": 1.0}),
    ("granite", {"logits_scaling": 1.0}),
    ("granite", {"attention_bias": True}),
    ("granite", {"mlp_bias": True}),
    ("hunyuan-dense", {"head_dim": 32}),
    ("seed_oss", {"attention_bias": False}),
    ("olmo2", {"rms_norm_eps": 1e-3}),
    ("exaone4", rope("llama3", 500_000.0, **LLAMA3)),
    ("phi3", rope(**QUARTER)),
    ("phi3", {"sliding_window": 2048}),
    ("stablelm", rope(**HALF)),
    ("stablelm", rope("linear", factor=4.0, **QUARTER)),
    ("stablelm", {"use_qkv_bias": True}),
    ("stablelm", {"layer_norm_eps": 1e-3}),
    ("starcoder2", {"norm_epsilon": 1e-3}),
    ("command-r", {"logit_scale": 0.5}),
    ("cohere2", {"logit_scale": 0.5}),
    ("cohere2", {"sliding_window": 16}),
    ("cohere2", {"layer_types": [SLIDING, FULL] * 2}),
    ("gemma", {"head_dim": 32}),
    ("ministral", {"sliding_window": 2048}),
    ("olmo3", {"sliding_window": 16}),
    ("olmo3", {"layer_types": [SLIDING, FULL] * 2}),
    ("olmo3", two_ropes({"rope_type": "yarn", **YARN}, {})),
    ("olmo3", two_ropes({}, {})),
    ("nemotron", rope(**QUARTER)),
    ("nemotron", rope("linear", factor=4.0, **HALF)),
    ("nemotron", {"norm_eps": 1e-3}),
    ("nemotron", {"attention_bias": True}),
    ("nemotron", {"mlp_bias": True}),
    ("mixtral", rope("yarn", **YARN)),
    ("mixtral", {"num_local_experts": 8}),
    ("mixtral", {"num_experts_per_tok": 1}),
    ("mixtral", UNTIED),
    ("qwen2moe", rope("yarn", **YARN)),
    ("qwen2moe", {"num_experts": 8, "num_experts_per_tok": 3}),
    ("qwen2moe", {"moe_intermediate_size": 64}),
    ("qwen2moe", {"shared_expert_intermediate_size": 64}),
    ("qwen2moe", {"qkv_bias": False}),
    ("qwen3moe", rope("yarn", **YARN)),
    ("qwen3moe", {"num_experts": 8, "num_experts_per_tok": 3}),
    ("qwen3moe", {"moe_intermediate_size": 64, "head_dim": 32}),
    ("qwen3moe", UNTIED),
    ("olmoe", rope("yarn", **YARN)),
    ("olmoe", {"num_experts": 8, "num_experts_per_tok": 3}),
    ("granitemoe", rope("yarn", **YARN)),
    ("granitemoe", {"num_local_experts": 8, "num_experts_per_tok": 3}),
    ("granitemoe", {"attention_multiplier": 0.25, "logits_scaling": 1.0}),
    ("granitemoe", {"attention_bias": True}),
    ("granitemoe", UNTIED),
    ("mistral3", UNTIED | {"head_dim": 32}),
    ("mistral3", rope("yarn", 500_000.0, **YARN_OF_MINISTRAL | {"llama_4_scaling_beta": 0.5})),
    ("mistral3", rope("yarn", **YARN_OF_MINISTRAL | {"mscale_all_dim": 0.5})),
    ("mistral3", rope("yarn", **YARN, llama_4_scaling_beta=0.1)),
    (
        "mistral3",
        rope("yarn", **YARN_OF_MINISTRAL, beta_fast=32.0, beta_slow=1.0, max_position_embeddings=64),
    ),
    ("lfm2", UNTIED),
    ("lfm2", rope("yarn", **YARN)),
    ("lfm2", {"conv_L_cache": 4}),
    ("lfm2", {"layer_types": [FULL, "conv"], "norm_eps": 1e-3}),
    ("lfm2", {"block_auto_adjust_ff_dim": True, "block_multiple_of": 32}),
    ("lfm2moe", UNTIED),
    ("lfm2moe", {"num_experts": 8, "num_experts_per_tok": 3}),
    ("lfm2moe", {"num_dense_layers": 0, "moe_intermediate_size": 64, "intermediate_size": 96}),
    ("ernie4_5-moe", rope("yarn", **YARN)),
    ("ernie4_5-moe", UNTIED),
    ("ernie4_5-moe", {"moe_num_experts": 8, "moe_k": 3, "moe_intermediate_size": 64}),
    ("ernie4_5-moe", {"moe_num_shared_experts": 1, "moe_layer_start_index": 0}),
    ("ernie4_5-moe", {"moe_num_shared_experts": 0}),
    ("gpt-oss", rope("yarn", 150_000.0, **YARN)),
    ("gpt-oss", {"sliding_window": 16, "head_dim": 32}),
    ("gpt-oss", {"num_local_experts": 8, "num_experts_per_tok": 3, "intermediate_size": 64}),
    ("qwen35", rope(**HALF) | UNTIED),
    ("qwen35", rope(**HALF, mrope_section=[2, 1, 1], mrope_interleaved=True, type="default")),
    ("qwen35", {"linear_num_value_heads": 2}),
    ("qwen35", {"linear_num_key_heads": 1, "linear_num_value_heads": 3, "head_dim": 32}),
    ("qwen35", {"linear_conv_kernel_dim": 3}),
    ("qwen35", {"linear_key_head_dim": 32, "linear_value_head_dim": 32}),
    ("qwen35", {"num_hidden_layers": 3, "layer_types": ["linear_attention"] * 2 + [FULL]}),
    ("qwen35moe", UNTIED),
    ("qwen35moe", {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 64}),
    ("qwen35moe", {"shared_expert_intermediate_size": 64}),
    ("glm4moe", UNTIED),
    ("glm4moe", rope("yarn", **YARN, **HALF)),
    ("glm4moe", {"attention_bias": True}),
    ("glm4moe", {"use_qk_norm": True, "head_dim": 32}),
    ("glm4moe", {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 64}),
    ("glm4moe", {"n_shared_experts": 2, "first_k_dense_replace": 0}),
    ("glm4moe", {"norm_topk_prob": False}),
    ("glm4moe", {"routed_scaling_factor": 1.5}),
    ("dots1", rope("yarn", **YARN)),
    ("dots1", {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 64}),
    ("dots1", {"n_shared_experts": 2}),
    ("dots1", {"num_hidden_layers": 3, "first_k_dense_replace": 2}),
    ("dots1", {"norm_topk_prob": False, "routed_scaling_factor": 2.0}),
    ("olmo", UNTIED),
    ("olmo", {"clip_qkv": 0.5}),
    ("granitemoe-shared", UNTIED),
    ("granitemoe-shared", {"shared_intermediate_size": 64, "residual_multiplier": 0.5}),
    ("olmo", rope("yarn", **YARN)),
    ("phi2", rope(**QUARTER)),
    ("phi2", rope("linear", factor=4.0, **HALF)),
    ("phi2", {"layer_norm_eps": 1e-3}),
    ("internlm3", rope(theta=500_000.0) | {"attention_bias": True, "mlp_bias": True}),
    ("iquestcoder", rope("linear", factor=4.0) | UNTIED),
    ("cwm", {"sliding_window": 2048, "layer_types": [FULL, SLIDING]} | rope("llama3", 500_000.0, **LLAMA3)),
    ("jais2", UNTIED | rope("yarn", **YARN)),
    ("jais2", {"layer_norm_eps": 1e-3, "head_dim": 32}),
    ("bitnet", rope("linear", 500_000.0, factor=4.0) | {"rms_norm_eps": 1e-3}),
    ("apertus", rope("llama3", 500_000.0, **LLAMA3)),
    ("apertus", rope("yarn", **YARN) | {"head_dim": 32}),
    ("gpt2", UNTIED),
    ("gpt2", {"n_inner": 96, "n_positions": 512}),
    ("gpt2", {"layer_norm_epsilon": 1e-3}),
    ("gpt2", {"num_attention_heads": 2}),
    ("starcoder", UNTIED),
    ("starcoder", {"n_inner": 96, "layer_norm_epsilon": 1e-3}),
    ("gptneox", rope("yarn", **YARN, **QUARTER)),
    ("gptneox", rope("linear", 500_000.0, factor=4.0, partial_rotary_factor=1.0)),
    ("gptneox", {"use_parallel_residual": False}),
    ("gptneox", {"intermediate_size": 96, "layer_norm_eps": 1e-3}),
    ("falcon", UNTIED),
    ("falcon", {"multi_query": False}),
    ("falcon", {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 1, "num_kv_heads": 2}),
    ("falcon", rope("yarn", **YARN)),
    ("falcon", {"ffn_hidden_size": 96}),
    ("falcon-40b", UNTIED),
    ("falcon-40b", {"num_kv_heads": 4, "layer_norm_epsilon": 1e-3}),
    ("falcon-40b", rope("linear", 500_000.0, factor=4.0)),
    ("bloom", UNTIED),
    ("bloom", {"num_attention_heads": 8}),
    ("bloom", {"hidden_size": 96, "num_attention_heads": 6}),
    ("bloom", {"layer_norm_epsilon": 1e-3, "seq_length": 1024}),
    ("mpt", UNTIED),
    ("mpt", {"attn_config": {"clip_qkv": 0.5}}),
    ("mpt", {"hidden_size": 96, "num_attention_heads": 6, "max_seq_len": 512}),
    ("hunyuan-moe", rope("yarn", **YARN)),
    ("qwen3vl", UNTIED | {"head_dim": 32}),
    ("qwen3vl", rope(theta=5e6, mrope_section=[24, 20, 20], mrope_interleaved=True) | {"head_dim": 128}),
    ("qwen3vl", rope("yarn", mrope_section=[3, 3, 2], **YARN)),
    ("qwen3vlmoe", {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 64}),
    ("paddleocr", rope(theta=500_000.0, mrope_section=[2, 3, 3])),
    ("qwen3vl", rope(theta=100.0)),
    ("gemma3n", UNTIED),
    ("gemma3n", {"sliding_window": 16}),
    ("gemma3n", {"vocab_size_per_layer_input": 500}),
    ("gemma3n", two_ropes({"rope_theta": 500_000.0}, {"rope_theta": 100.0})),
    ("gemma3n", {"intermediate_size": [1024, 1024], "head_dim": 32}),
    ("qwen3next", rope("yarn", **YARN, **HALF)),
    ("qwen3next", {"linear_num_key_heads": 1, "linear_num_value_heads": 3, "head_dim": 32}),
    ("qwen3next", {"num_hidden_layers": 3, "layer_types": ["linear_attention"] * 2 + [FULL]}),
    ("mimo2", {"attention_value_scale": None, "sliding_window": 16}),
    ("mimo2", {"head_dim": 32, "v_head_dim": 24, "num_key_value_heads": 1}),
    ("mimo2", {"n_routed_experts": 8, "num_experts_per_tok": 8, "moe_intermediate_size": 64}),
    ("mimo2", {"n_group": 2, "topk_group": 1, "num_experts_per_tok": 2}),
    ("mimo2", {"n_group": 2, "topk_group": 2, "attention_value_scale": 1.0}),
    ("mimo2", {"layer_types": [SLIDING, FULL, SLIDING], "mlp_layer_types": ["sparse", "dense", "sparse"]}),
    ("mimo2", {"layer_types": [SLIDING] * 3, "mlp_layer_types": ["dense"] * 3}),
    ("mimo2", two_ropes(HALF, HALF | {"rope_theta": 100.0})),
    ("mimo2", two_ropes(LINEAR | {"partial_rotary_factor": 1.0}, {"partial_rotary_factor": 1.0})),
    ("mimo2", two_ropes({"rope_type": "yarn", **YARN, **THIRD}, THIRD)),
    ("minimax-m2", rope("linear", factor=4.0, **QUARTER)),
    ("minimax-m2", {"num_experts_per_tok": 1}),
    ("minimax-m2", {"num_local_experts": 8, "num_experts_per_tok": 6}),
    ("exaone-moe", {"num_experts": 8, "num_experts_per_tok": 8, "moe_intermediate_size": 64}),
    ("exaone-moe", {"num_shared_experts": 2, "first_k_dense_replace": 2}),
    ("exaone-moe", {"norm_topk_prob": False}),
    ("exaone-moe", {"routed_scaling_factor": 1.5, "num_experts_per_tok": 3}),
    ("exaone-moe", {"sliding_window": 16, "layer_types": [SLIDING, FULL] * 2}),
    ("exaone-moe", rope("llama3", **LLAMA3)),
    ("afmoe", UNTIED | {"sliding_window": 16}),
    ("afmoe", {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 64}),
    ("afmoe", {"num_shared_experts": 2, "num_dense_layers": 2, "route_scale": 2.0}),
    ("afmoe", rope("yarn", **YARN)),
    ("hunyuan-moe", UNTIED),
    ("hunyuan-moe", {"num_experts": 8, "moe_topk": 3, "intermediate_size": 64}),
    ("deepseek2", rope("yarn", **YARN_OF_DEEPSEEK)),
    ("deepseek2", {"q_lora_rank": None}),
    ("deepseek2", {"qk_nope_head_dim": 16, "qk_rope_head_dim": 32, "v_head_dim": 32, "kv_lora_rank": 64}),
    ("deepseek2", {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 64}),
    ("deepseek2", {"n_shared_experts": 2, "first_k_dense_replace": 0, "routed_scaling_factor": 2.0}),
    ("deepseek2", {"n_group": 1, "topk_group": 1, "tie_word_embeddings": True, "q_lora_rank": 64}),
    ("deepseek3", rope("yarn", **YARN_OF_DEEPSEEK | {"mscale": 1.0, "mscale_all_dim": 1.0})),
    ("deepseek3", {"n_routed_experts": 16, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2}),
    ("deepseek3", {"n_group": 2, "topk_group": 2}),
    ("deepseek3", {"n_group": 1, "topk_group": 1, "norm_topk_prob": False, "routed_scaling_factor": 1.5}),
    ("deepseek3", {"q_lora_rank": None, "num_hidden_layers": 3, "first_k_dense_replace": 2}),
    ("glm4_moe_lite", {"num_hidden_layers": 3, "mlp_layer_types": ["dense", "dense", "sparse"]}),
    ("llama4", UNTIED | {"num_experts_per_tok": 1}),
    ("llama4", rope("llama3", 500_000.0, **LLAMA3 | {"high_freq_factor": 1.0})),
    ("llama4", {"num_local_experts": 8, "num_experts_per_tok": 8, "intermediate_size": 64}),
    ("llama4", {"interleave_moe_layer_step": 1, "intermediate_size_mlp": 96, "rms_norm_eps": 1e-3}),
    ("llama4-128", {"interleave_moe_layer_step": 4, "head_dim": 32}),
    ("youtu", rope("yarn", **YARN_OF_DEEPSEEK)),
    ("granitehybrid", {"position_embedding_type": "nope"}),
    ("granitehybrid", {"mamba_n_heads": 4, "mamba_d_state": 32, "mamba_d_conv": 3, "mamba_n_groups": 2}),
    ("granitehybrid", {"layer_types": [FULL, "linear_attention"], "attention_bias": True}),
    ("granitehybrid", UNTIED | {"shared_intermediate_size": 96, "logits_scaling": 2.0}),
    ("granitehybrid", rope("yarn", **YARN)),
    ("granitehybridmoe", {"num_local_experts": 8, "num_experts_per_tok": 3, "intermediate_size": 64}),
    ("granitehybridmoe", {"shared_intermediate_size": 96, "residual_multiplier": 1.0}),
    ("minicpm3", rope("longrope", **LONGROPE) | {"max_position_embeddings": 256}),
    ("minicpm3", UNTIED | {"v_head_dim": 32, "qk_nope_head_dim": 16, "hidden_size": 256}),
    ("youtu", {"tie_word_embeddings": True, "intermediate_size": 96}),
    ("mamba", UNTIED | {"state_size": 32, "time_step_rank": 8, "conv_kernel": 3}),
    ("mamba", {"layer_norm_epsilon": 1e-3}),
    ("falcon-mamba", {"layer_norm_epsilon": 1e-3, "mixer_rms_eps": 1e-3}),
    ("mamba2", {"n_groups": 4, "state_size": 32, "conv_kernel": 3, "num_heads": 4, "head_dim": 32}),
    ("falcon-h1", MULTIPLIED),
    ("falcon-h1", {"mamba_rms_norm": True, "mamba_norm_before_gate": False}),
    ("falcon-h1", {"mamba_n_heads": 4, "mamba_d_ssm": 128, "mamba_d_state": 32, "mamba_n_groups": 1}),
    ("falcon-h1", {"mamba_d_ssm": None, "mamba_n_heads": 8, "mamba_d_conv": 3, "head_dim": 32}),
    ("falcon-h1", rope("yarn", 500_000.0, **YARN)),
    ("bamba", UNTIED | {"attn_layer_indices": [0], "attention_bias": True, "mamba_n_groups": 1}),
    ("bamba", {"num_hidden_layers": 4, "attn_layer_indices": [1, 2], "mamba_n_heads": 4, "mamba_d_conv": 3}),
    ("bamba", rope("yarn", 500_000.0, **YARN, **HALF)),
    ("nemotron_h", {"mamba_num_heads": 4, "mamba_head_dim": 32, "n_groups": 1, "ssm_state_size": 32}),
    ("nemotron_h", {"layers_block_type": ["mlp", FULL, "linear_attention"], "layer_norm_epsilon": 1e-3}),
    ("nemotron_h", {"intermediate_size": 96, "head_dim": 32, "conv_kernel": 3}),
    ("kimi-linear", {"linear_head_dim": 32, "linear_conv_kernel_dim": 3, "kv_lora_rank": 64}),
    ("kimi-linear", {"routed_scaling_factor": 1.5, "n_shared_experts": 2, "moe_intermediate_size": 64}),
    ("kimi-linear", {"mlp_layer_types": ["sparse"] * 2, "layer_types": [FULL, "linear_attention"]}),
    ("jamba", UNTIED | {"mamba_d_state": 32, "mamba_d_conv": 3, "mamba_dt_rank": 8}),
    ("jamba", {"num_hidden_layers": 4, "attn_layer_period": 3, "expert_layer_period": 4}),
    ("jamba", {"num_experts": 1, "num_experts_per_tok": 1}),
    ("jamba", {"num_experts": 8, "num_experts_per_tok": 3, "rms_norm_eps": 1e-3}),
    ("mamba2", UNTIED | {"n_groups": 1, "time_step_limit": [0.0, math.inf]}),
    ("mistral4", rope("yarn", 500_000.0, **YARN_OF_MINISTRAL | {"llama_4_scaling_beta": 0.5, "factor": 8.0})),
    ("glm-dsa", {"index_topk": 1024, "index_n_heads": 4}),
    ("glm-dsa", {"n_routed_experts": 8, "num_experts_per_tok": 8, "n_shared_experts": 2}),
    ("glm-dsa", {"norm_topk_prob": False, "routed_scaling_factor": 0.5, "tie_word_embeddings": True}),
    ("mistral4", {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 64}),
    ("mistral4", {"n_shared_experts": 2, "first_k_dense_replace": 0, "norm_topk_prob": False}),
    ("mistral4", {"routed_scaling_factor": 2.0, "q_lora_rank": None, "tie_word_embeddings": False}),
    ("gemma4", {"final_logit_softcapping": 3.0, "sliding_window": 16}),
    ("gemma4", {"global_head_dim": 64, "head_dim": 32}),
    ("gemma4", {"final_logit_softcapping": 30.0}),
    ("gemma4", {"hidden_size_per_layer_input": 64}),
    ("gemma4", {"hidden_size_per_layer_input": 0, "use_bidirectional_attention": "vision"}),
    ("gemma4", two_ropes(PROPORTIONAL | HALF, {"rope_theta": 100.0})),
    ("gemma4", two_ropes(PROPORTIONAL | {"rope_theta": 100.0, "partial_rotary_factor": 1.0}, {})),
    ("gemma4", {"attention_k_eq_v": True, "num_global_key_value_heads": 1}),
    ("gemma4", SHARING | {"use_double_wide_mlp": True}),
    ("gemma4", SHARING | {"layer_types": [SLIDING, FULL, FULL, FULL]}),
    ("gemma4moe", {"num_experts": 8, "top_k_experts": 3, "moe_intermediate_size": 64}),
    (
        "gemma4moe",
        {"hidden_size_per_layer_input": 32, "vocab_size_per_layer_input": 600, "attention_k_eq_v": False},
    ),
)

REFUSED: tuple[tuple[str, Changes, str], ...] = (
    ("mistral3", rope(), "'default'"),
    ("mistral3", rope("yarn", **YARN_OF_MINISTRAL | {"mscale": 2.0}), "mscale: 2.0"),
    ("lfm2", {"conv_bias": True}, "conv_bias"),
    ("lfm2moe", {"use_expert_bias": False}, "use_expert_bias"),
    ("lfm2moe", {"routed_scaling_factor": 2.0}, "routed_scaling_factor"),
    ("ernie4_5-moe", {"moe_layer_end_index": 0}, "experts up to layer 0"),
    ("ernie4_5-moe", {"use_bias": True}, "use_bias"),
    ("ernie4_5-moe", {"moe_layer_interval": 2}, "moe_layer_interval"),
    ("gpt-oss", rope("yarn", truncate=False, **YARN), "truncate: False"),
    ("qwen35", {"linear_value_head_dim": 32}, "heads of values of 32"),
    ("qwen35", {"layer_types": [FULL, "linear_attention"]}, "order of linear attention"),
    ("qwen35", rope("yarn", **YARN, **QUARTER), "'yarn'"),
    ("glm4moe", {"n_group": 2}, "n_group: 2"),
    ("dots1", {"tie_word_embeddings": True}, "a tied output head"),
    ("dots1", {"num_key_value_heads": 2}, "as many as the queries"),
    ("gpt-oss", {"swiglu_limit": 5.0}, "swiglu_limit"),
    ("gpt-oss", {"tie_word_embeddings": True}, "a tied output head"),
    ("gpt-oss", {"layer_types": [FULL, SLIDING]}, "order of sliding windows"),
    ("gpt-oss", {"layer_types": [SLIDING, SLIDING]}, "order of sliding windows"),
    ("cwm", {"sliding_window": 32, "layer_types": [FULL, SLIDING]}, "window of 32 tokens"),
    ("jais2", {"mlp_bias": False}, "mlp_bias"),
    ("jais2", rope("llama3", 500_000.0, **LLAMA3), "'llama3'"),
    ("bitnet", {"hidden_act": "relu2"}, "hidden_act: 'relu2'"),
    ("bitnet", UNTIED, "separate output head"),
    ("apertus", {"tie_word_embeddings": True}, "a tied output head"),
    ("apertus", {"hidden_act": "silu"}, "hidden_act: 'silu'"),
    ("gpt2", {"activation_function": "relu"}, "activation_function: 'relu'"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights"),
    ("starcoder", {"multi_query": False}, "multi_query: False"),
    ("gptneox", {"attention_bias": False}, "attention_bias"),
    ("gptneox", {"tie_word_embeddings": True}, "a tied output head"),
    ("falcon", {"alibi": True}, "alibi: True"),
    ("falcon", {"parallel_attn": False}, "parallel_attn: False"),
    ("falcon-40b", {"bias": True}, "bias: True"),
    ("bloom", {"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm"),
    ("mpt", {"attn_config": {"softmax_scale": 1.0}}, r"attn_config.softmax_scale: 1\.0"),
    ("mpt", {"attn_config": {"qk_ln": True}}, "attn_config.qk_ln"),
    ("mpt", {"no_bias": False}, "no_bias: False"),
    ("hunyuan-moe", {"moe_topk": [2, 1]}, r"moe_topk: \[2, 1\]"),
    ("qwen3next", {"linear_value_head_dim": 32}, "heads of values of 32"),
    ("qwen3next", {"norm_topk_prob": False}, "norm_topk_prob"),
    ("mimo2", {"attention_bias": True}, "attention_bias"),
    ("mimo2", {"routed_scaling_factor": 1.5}, r"routed_scaling_factor: 1\.5"),
    ("mimo2", {"norm_topk_prob": False}, "norm_topk_prob"),
    ("mimo2", {"tie_word_embeddings": True}, "a tied output head"),
    ("mimo2", {"layer_types": [FULL] * 3}, "order of sliding windows.*some layer must have a window"),
    ("mimo2", two_ropes(THIRD, HALF), r"partial_rotary_factor: 0\.5 for layers with a window"),
    ("mimo2", two_ropes({}, {}), "partial_rotary_factor: None for layers with a window"),
    ("mimo2", two_ropes(THIRD, THIRD | LINEAR), "'linear' for layers with a window"),
    (
        "mimo2",
        two_ropes({"partial_rotary_factor": 0.3}, {"partial_rotary_factor": 0.3}),
        "7 numbers of a head",
    ),
    ("minimax-m2", {"tie_word_embeddings": True}, "a tied output head"),
    ("exaone-moe", {"n_group": 2}, "n_group: 2"),
    ("exaone-moe", {"mlp_layer_types": ["sparse", "dense"] * 2}, "the first 1 layers have none"),
    ("exaone-moe", {"layer_types": [FULL, SLIDING] * 2}, "order of sliding windows"),
    ("afmoe", {"mup_enabled": False}, "mup_enabled"),
    ("afmoe", {"layer_types": [SLIDING, FULL] * 2}, "every 4-th layer"),
    ("gemma3n", {"laurel_rank": 32}, "laurel_rank"),
    ("gemma3n", {"activation_sparsity_pattern": [0.0, 0.0]}, "activation_sparsity_pattern"),
    ("gemma3n", {"num_kv_shared_layers": 1}, "num_kv_shared_layers: 1"),
    ("gemma3n", {"intermediate_size": [64, 128]}, r"intermediate_size: \[64, 128\]"),
    ("gemma3n", {"final_logit_softcapping": 20.0}, "final_logit_softcapping"),
    (
        "gemma3n",
        DEEP_GEMMA3N | {"layer_types": ([SLIDING] * 6 + [FULL]) * 3 + [SLIDING] * 4},
        "keys of the two before them",
    ),
    ("gemma4", SHARING | {"layer_types": [FULL, SLIDING, SLIDING, FULL]}, "keys of the two before them"),
    ("gemma4", {"layer_types": [FULL, FULL]}, "order of sliding windows"),
    ("gemma4", {"attention_bias": True}, "attention_bias"),
    ("gemma4", {"use_bidirectional_attention": "all"}, "use_bidirectional_attention"),
    ("gemma4", two_ropes({"rope_type": "default"}, {}), "'default'"),
    ("gemma4", two_ropes(PROPORTIONAL | {"factor": 2.0}, {}), r"factor: 2\.0"),
    ("gemma4", {"per_layer_config": {0: {"intermediate_size": 96}}}, "sizes_of_layers"),
    ("gemma4moe", {"hidden_activation": "silu"}, "hidden_activation"),
    ("qwen3vl", {"attention_bias": True}, "attention_bias"),
    ("qwen3vl", rope(mrope_section=[24, 20, 20]), r"mrope_section: \[24, 20, 20\].*than a head has numbers"),
    ("qwen3vlmoe", {"mlp_only_layers": [0]}, "mlp_only_layers"),
    ("paddleocr", {"use_bias": True}, "use_bias"),
    ("llama", rope("dynamic", factor=2.0), "'dynamic'"),
    ("llama", rope("yarn", attention_factor=2.0, **YARN), "attention_factor"),
    ("llama", rope(**HALF), "partial_rotary_factor"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act"),
    ("mistral", {"sliding_window": 32}, "window of 32 tokens"),
    ("phi2", {"tie_word_embeddings": True}, "a tied output head"),
    ("phi2", {"qk_layernorm": True}, "qk_layernorm"),
    ("helium", {}, "helium models can't be written as GGUF.*known: .*mistral.*--to merged"),
    ("mixtral", {"sliding_window": 32}, "window of 32 tokens"),
    ("qwen2moe", {"norm_topk_prob": True}, "norm_topk_prob"),
    ("qwen3moe", {"norm_topk_prob": False}, "norm_topk_prob"),
    ("qwen3moe", {"decoder_sparse_step": 2}, "decoder_sparse_step"),
    ("qwen3moe", {"mlp_only_layers": [0]}, "mlp_only_layers"),
    ("olmoe", {"clip_qkv": 8.0}, "clip_qkv"),
    ("olmoe", {"tie_word_embeddings": True}, "a tied output head"),
    ("olmoe", {"num_key_value_heads": 2}, "as many as the queries"),
    ("qwen2moe", {"tie_word_embeddings": True}, "a tied output head"),
    ("olmo3", two_ropes({"rope_theta": 500_000.0}, {}), "rope_theta: 10000.0 for layers with a window"),
    ("olmo3", two_ropes({}, LINEAR), "for layers with a window"),
    ("nemotron", rope("yarn", **YARN), "'yarn'"),
    ("qwen2", rope("llama3", **LLAMA3), "'llama3'"),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1}, "window of 32"),
    ("qwen3", {"attention_bias": True}, "attention_bias"),
    ("gemma2", {"layer_types": [FULL, SLIDING]}, "this order of sliding windows"),
    ("gemma2", {"layer_types": [FULL, FULL]}, "this order of sliding windows"),
    ("gemma2", {"query_pre_attn_scalar": 64}, "query_pre_attn_scalar: 64"),
    ("gemma2", {"attn_logit_softcapping": None}, "attn_logit_softcapping: None"),
    ("gemma2", {"hidden_activation": "silu"}, "hidden_activation"),
    ("gemma2", UNTIED, "separate output head"),
    ("gemma3", two_ropes({}, LINEAR), "for layers with a window"),
    ("gemma3", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ("chatglm", rope("llama3", **LLAMA3, **HALF), "'llama3'"),
    ("smollm3", {"no_rope_layers": [0, 1, 1, 1]}, "every 4th layer has none"),
    ("smollm3", {"no_rope_layer_interval": 2}, "every 4th layer has none"),
    ("exaone4", {"sliding_window": 2048, "layer_types": [SLIDING, FULL]}, "sliding_window: 2048"),
    ("exaone4", {"num_hidden_layers": 64, "layer_types": [FULL] * 64}, "64 layers have windows"),
    ("phi3", rope("longrope", short_factor=[1.0] * 8, long_factor=[2.0] * 8), "'longrope'"),
    ("olmo2", {"tie_word_embeddings": True}, "a tied output head"),
    ("stablelm", {"use_parallel_residual": True}, "use_parallel_residual"),
    ("starcoder2", {"use_bias": False}, "use_bias"),
    ("hunyuan-dense", rope("dynamic", alpha=1000.0, factor=1.0), "'dynamic'"),
    ("cohere2", {"layer_types": [FULL, SLIDING] * 2}, "order of sliding windows"),
    ("command-r", UNTIED, "separate output head"),
    ("deepseek2", {"topk_method": "group_limited_greedy", "n_group": 2, "topk_group": 1}, "topk_method"),
    ("deepseek2", rope("yarn", **YARN), "mscale_all_dim: None"),
    ("deepseek2", rope("yarn", **YARN_OF_DEEPSEEK | {"mscale": 1.0}), r"mscale: 1\.0"),
    ("deepseek2", {"attention_bias": True}, "attention_bias"),
    ("deepseek2", {"num_hidden_layers": 27}, "q_lora_rank: 32.*27 layers"),
    ("mistral4", rope(llama_4_scaling_beta=0.0, original_max_position_embeddings=64), "'default'"),
    ("mistral4", {"n_group": 2}, "n_group: 2"),
    ("glm-dsa", {"indexer_types": ["full", "shared"]}, "indexer_types"),
    ("glm-dsa", rope("yarn", **YARN_OF_DEEPSEEK), "'yarn'"),
    (
        "mistral4",
        rope("yarn", **YARN_OF_MINISTRAL | {"mscale": 0.5, "mscale_all_dim": 0.5}),
        "mscale_all_dim: 0.5",
    ),
    ("deepseek3", {"rope_interleave": False}, "rope_interleave"),
    ("deepseek3", {"num_key_value_heads": 2}, "as many as the queries"),
    ("minicpm3", rope("longrope", **LONGROPE), "longrope for more than 256 tokens"),
    ("llama4", {"use_qk_norm": False}, "use_qk_norm: False"),
    ("llama4-128", {"use_qk_norm": True}, "use_qk_norm: True"),
    ("llama4", {"attention_chunk_size": 4096}, "attention_chunk_size: 4096"),
    ("llama4", {"attn_temperature_tuning": False}, "attn_temperature_tuning: False"),
    ("llama4", {"floor_scale": 4096}, "floor_scale: 4096"),
    ("llama4", {"attn_scale": 0.2}, r"attn_scale: 0\.2"),
    ("llama4", {"attention_bias": True}, "attention_bias"),
    ("llama4", {"no_rope_layers": [0, 1, 1, 1]}, "every 4th layer has none"),
    ("llama4", {"layer_types": [FULL] * 4}, "every 4th layer sees everything"),
    ("llama4", {"moe_layers": [0, 1]}, "each last of 2 layers"),
    ("llama4", rope("yarn", **YARN), "'yarn'"),
    ("minicpm3", {"scale_depth": 1.0}, "scale_depth"),
    ("minicpm3", {"q_lora_rank": None}, "queries without a rank"),
    ("granitehybrid", {"mamba_conv_bias": False}, "mamba_conv_bias"),
    ("granitehybrid", {"mamba_expand": 4}, "mamba_expand: 4"),
    ("granitehybrid", {"time_step_limit": (0.001, 0.1)}, "time_step_limit"),
    ("granitehybrid", {"layer_types": ["linear_attention"] * 2}, "a model without attention"),
    ("glm4_moe_lite", {"mlp_layer_types": ["sparse", "dense"]}, "order of experts"),
    ("mamba", {"use_bias": True}, "use_bias"),
    ("mamba", {"use_conv_bias": False}, "use_conv_bias"),
    ("mamba", {"expand": 4}, "expand: 4"),
    ("falcon-h1", {"mamba_rms_norm": True}, "mamba_norm_before_gate: True"),
    (
        "falcon-h1",
        {"embedding_multiplier": 5.5},
        "tied output head.*times 5.5 for the embedding.*times 1 for",
    ),
    ("falcon-h1", {"attention_bias": True}, "attention_bias"),
    ("falcon-h1", {"mlp_bias": True}, "mlp_bias"),
    ("falcon-h1", {"projectors_bias": True}, "projectors_bias"),
    ("falcon-h1", {"mamba_conv_bias": False}, "mamba_conv_bias"),
    ("bamba", {"mlp_bias": True}, "mlp_bias"),
    ("kimi-linear", {"linear_num_heads": 2}, "linear_num_heads: 2.*takes 4"),
    ("kimi-linear", {"q_lora_rank": 32}, "q_lora_rank: 32"),
    ("kimi-linear", {"norm_topk_prob": False}, "norm_topk_prob"),
    ("kimi-linear", {"tie_word_embeddings": True}, "a tied output head"),
    ("nemotron_h", {"time_step_min": 0.001}, r"time_step_min: 0\.001"),
    ("nemotron_h", {"layers_block_type": ["mlp", FULL, "linear_attention", "moe"]}, "of the kind moe"),
    ("nemotron_h", {"layers_block_type": [FULL, "linear_attention"]}, "a model without an MLP"),
    ("nemotron_h", {"mlp_bias": True}, "mlp_bias"),
    ("nemotron_h", {"mlp_hidden_act": "silu"}, "mlp_hidden_act"),
    ("nemotron_h", {"tie_word_embeddings": True}, "a tied output head"),
    ("bamba", {"attn_layer_indices": []}, "a model without attention"),
    ("bamba", {"time_step_limit": (0.001, 0.1)}, "time_step_limit"),
    ("jamba", {"mamba_expand": 4}, "mamba_expand: 4"),
    ("jamba", {"mamba_proj_bias": True}, "mamba_proj_bias"),
    ("jamba", {"attn_layer_period": 8, "attn_layer_offset": 4}, "a model without attention"),
    ("mamba2", {"time_step_limit": [0.001, 0.1]}, "time_step_limit"),
    ("falcon-mamba", {"mixer_rms_eps": 1e-3}, r"mixer_rms_eps: 0\.001.*takes 1e-05"),
)


def named(case: Any) -> str:
    return str(case) if isinstance(case, str) else " ".join(map(str, case))


@pytest.mark.parametrize(("arch", "changes"), MOVES, ids=named)
def test_a_fact_that_has_a_place_moves_the_export(arch: str, changes: Changes, tmp_path: Path) -> None:
    """The check holds llama.cpp against the changed model, and what the file says against its config."""
    trained = tuned_on(tiny_model_dir(arch, tmp_path, **changes), strength=0.1)
    done = export(trained, Order("gguf"), tmp_path / "out")
    assert done.check.difference <= 0.002
    plain = file_values(tiny_config(arch).get_text_config())
    written = file_values(trained.base.spec.text)
    tensors = read_gguf(done.path / "model.gguf").tensors
    told_by_tensors = BY_TENSORS & changes.keys()
    assert written != plain or told_by_tensors or "rope_freqs.weight" in tensors


@pytest.mark.parametrize(("arch", "changes", "words"), REFUSED, ids=named)
def test_a_fact_without_a_place_is_refused_from_the_config(arch: str, changes: Changes, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        refuse_unwritable(tiny_config(arch, **changes).get_text_config())


def test_the_command_refuses_before_it_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_model_dir("mistral", tmp_path, sliding_window=32)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "sapwood.json").write_text(json.dumps({"base": str(base)}), encoding="utf-8")
    monkeypatch.setattr("sapwood.commands.export.open_target", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(ExportError, match="window of 32 tokens"):
        export_target(
            str(adapter),
            tmp_path,
            to="gguf",
            file_type="F16",
            base=str(base),
            template=None,
            onto=None,
            out=None,
            as_json=False,
        )


def test_everything_that_has_no_place_is_said_at_once() -> None:
    config = tiny_config("llama", hidden_act="gelu", **rope("dynamic", factor=2.0))
    with pytest.raises(ExportError) as caught:
        refuse_unwritable(config)
    assert len(caught.value.problems) == 2


def test_an_attribute_that_nobody_knows_is_refused_unless_it_is_the_default() -> None:
    config = tiny_config("llama")
    config.residual_multiplier = 0.22
    with pytest.raises(ExportError, match=r"residual_multiplier: 0\.22"):
        refuse_unwritable(config)


def test_every_key_is_one_of_llama_cpps_own() -> None:
    """Names as the `gguf` package, which llama.cpp's converters use, has them."""
    sections = (
        gguf.Keys.LLM,
        gguf.Keys.Attention,
        gguf.Keys.Attention.Indexer,
        gguf.Keys.Rope,
        gguf.Keys.ShortConv,
        gguf.Keys.SSM,
        gguf.Keys.KDA,
    )
    values = [v for section in sections for v in vars(section).values() if isinstance(v, str)]
    known = {value.removeprefix("{arch}.") for value in values}
    ours = {fact.key for family in FAMILIES.values() for fact in facts_of(family)}
    ours |= {key for family in FAMILIES.values() for key in (*family.constants, *family.yarn.values()) if key}
    ours |= {
        *(INNER, INTERVAL, SECTIONS, ROTATED),
        *latent_values(tiny_config("deepseek2"), FAMILIES["deepseek2"]),
        PATTERN,
        LOCAL_THETA,
        SHARED_WIDTH,
        *(key for keys in SCALINGS.values() for key in keys.values() if key),
    }
    found = find_spec("xllamacpp.xllamacpp")
    assert found and found.origin
    wheel = Path(found.origin).read_bytes()
    newer = {key for key in ours - known if f"%s.{key}".encode() in wheel}  # than the package
    assert ours - known == newer == {"attention.value_scale"}
