"""The rows of `families` for mixtures of experts."""

from __future__ import annotations

from dataclasses import replace

from sapwood.gguf.table.family import (
    COUNT,
    DELTA_NETWORK,
    GEMMA4,
    GRANITE_HYBRID,
    KERNEL,
    KV_RANK,
    LATENT,
    LLAMA3,
    MAMBA_OF_GRANITE,
    MULTIPLIERS,
    NORM_EPS,
    OF_THE_FIRST_STEP,
    PATTERN,
    QKV,
    QWEN3VL,
    QWEN35,
    SILU,
    WINDOW,
    Fact,
    Family,
)

_CHOSEN = Fact("num_experts_per_tok", "expert_used_count")
_EXPERTS = (Fact("num_experts", COUNT), _CHOSEN)
_LOCAL_EXPERTS = (Fact("num_local_experts", COUNT), _CHOSEN)
_NARROW_EXPERTS = (*_EXPERTS, Fact("moe_intermediate_size", "expert_feed_forward_length"))
_STEP = "interleave_moe_layer_step"  # each last of so many layers has experts
_DENSE_FIRST = "leading_dense_block_count"  # layers before the first with experts
_SIGMOID = {"expert_gating_func": 2}
_ONE_GROUP = {"n_group": 1, "topk_group": 1}
_EXPERTS_OF_GLM = (
    Fact("n_routed_experts", COUNT),
    _CHOSEN,
    Fact("moe_intermediate_size", "expert_feed_forward_length"),
    Fact("n_shared_experts", "expert_shared_count"),
    Fact("first_k_dense_replace", _DENSE_FIRST, int, 0),
    Fact("routed_scaling_factor", "expert_weights_scale", float, 1.0),
    Fact("norm_topk_prob", "expert_weights_norm", bool, False),
)
_SHARED_WIDTH = Fact("shared_expert_intermediate_size", "expert_shared_feed_forward_length")

_UNREAD_IN_KIMI = (  # what its first class read, and transformers' reads in other words
    *("linear_attn_config", "moe_layer_freq", "moe_router_activation_func", "use_grouped_topk"),
    *("mla_use_nope", "rope_theta", "rope_scaling", "first_k_dense_replace"),
)
_GRANITE_MOE = Family(
    ("granitemoe",),
    facts=(*MULTIPLIERS, *_LOCAL_EXPERTS),
    fixed=SILU,
    biases={"attention_bias": (*QKV, "attn_output")},
    interleaved=True,
)
_UNREAD_IN_MIMO = (  # what its first class read, and transformers' takes from other words, or for granted
    *("hybrid_layer_pattern", "hybrid_block_size", "attention_chunk_size", "sliding_window_size"),
    *(
        "swa_num_attention_heads",
        "swa_num_key_value_heads",
        "swa_head_dim",
        "swa_v_head_dim",
        "swa_rope_theta",
    ),
    *("add_swa_attention_sink_bias", "add_full_attention_sink_bias", "moe_layer_freq", "n_shared_experts"),
    *("scoring_func", "topk_method", "partial_rotary_factor", "rope_theta", "layernorm_epsilon"),
)
_IN_EVERY_LAYER = {"decoder_sparse_step": 1, "mlp_only_layers": []}

_WEIGHTS_NORM = _EXPERTS_OF_GLM[-1]
_GROUPS = (
    Fact("n_group", "expert_group_count", int, 1),
    Fact("topk_group", "expert_group_used_count", int, 1),
)
_DEEPSEEK = Family(
    ("deepseek_v2",),
    facts=(KV_RANK, *_EXPERTS_OF_GLM[:-1]),
    fixed=SILU | {"attention_bias": False, "mlp_bias": False, "topk_method": "greedy"},
    constants={"expert_gating_func": 1, _WEIGHTS_NORM.key: False},
    yarn={"mscale_all_dim": "rope.scaling.yarn_log_multiplier", "mscale": ""},
    log_unit=0.1,
    scalings=("default", "yarn"),
    equal_heads=True,
    latent="split",
    unadapted=LATENT,
)

_LLAMA4 = Family(
    ("llama4_text",),
    facts=(
        *_LOCAL_EXPERTS,
        Fact("moe_intermediate_size", "expert_feed_forward_length"),
        Fact("interleave_moe_layer_step", _STEP),
    ),
    fixed=SILU
    | {"attention_bias": False, "use_qk_norm": True, "attention_chunk_size": 8192}
    | {"attn_temperature_tuning": True, "floor_scale": 8192, "attn_scale": 0.1},
    constants={WINDOW.key: None, PATTERN: None},
    names={"intermediate_size": "intermediate_size_mlp", "moe_intermediate_size": "intermediate_size"},
    lacks=("for_llm_compressor", "_attn_implementation_autoset"),
    unturned=4,
    chunked=True,
    turned="gate first",
    scalings=("default", "llama3"),
)


def _all_full(layers: int) -> list[str]:
    """Each layer has an indexer of its own."""
    return ["full"] * layers


MIXTURES = {
    "mixtral": Family(("mixtral",), architecture="llama", facts=_LOCAL_EXPERTS, fixed=SILU, interleaved=True),
    "qwen2moe": Family(
        ("qwen2_moe",),
        facts=(*_NARROW_EXPERTS, _SHARED_WIDTH),
        fixed=SILU | _IN_EVERY_LAYER | {"norm_topk_prob": False},
        biases={"qkv_bias": QKV},
        head="own",
    ),
    "qwen3moe": Family(
        ("qwen3_moe",),
        facts=_NARROW_EXPERTS,
        fixed=SILU | _IN_EVERY_LAYER | {"norm_topk_prob": True, "attention_bias": False},
    ),
    "olmoe": Family(
        ("olmoe",),
        facts=_EXPERTS,
        fixed=SILU | {"norm_topk_prob": False, "attention_bias": False, "clip_qkv": None},
        head="own",
        equal_heads=True,
    ),
    "granitemoe": _GRANITE_MOE,
    "granitemoe-shared": replace(
        _GRANITE_MOE,
        kinds=("granitemoeshared",),
        architecture="granitemoe",
        sign="ffn_up_shexp",
        facts=(
            *_GRANITE_MOE.facts,
            Fact("shared_intermediate_size", "expert_shared_feed_forward_length"),
        ),
    ),
    "lfm2moe": Family(
        ("lfm2_moe",),
        facts=(*_NARROW_EXPERTS, KERNEL, Fact("num_dense_layers", _DENSE_FIRST, int, 0)),
        fixed={
            "conv_bias": False,
            "use_expert_bias": True,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.0,
        },
        constants=_SIGMOID,
        epsilon=NORM_EPS,
        between="conv",
    ),
    "ernie4_5-moe": Family(
        ("ernie4_5_moe",),
        facts=(
            Fact("moe_num_experts", COUNT),
            Fact("moe_k", "expert_used_count"),
            Fact("moe_intermediate_size", "expert_feed_forward_length"),
            Fact("moe_num_shared_experts", "expert_shared_count", int, 0),
            Fact("moe_layer_start_index", _DENSE_FIRST, int, 0),
        ),
        fixed=SILU | {"use_bias": False, "moe_norm_min": 1e-12, "moe_layer_interval": 1},
        constants={_STEP: 1},
        shared="moe_num_shared_experts",
    ),
    "qwen35moe": replace(
        QWEN35,
        kinds=("qwen3_5_moe_text",),
        facts=(*DELTA_NETWORK, *_NARROW_EXPERTS, _SHARED_WIDTH),
        lacks=("intermediate_size",),
    ),
    "glm4moe": Family(
        ("glm4_moe", "glm4v_moe_text", "solar_open"),
        facts=_EXPERTS_OF_GLM,
        fixed=SILU | _ONE_GROUP,
        constants=_SIGMOID,
        biases={"attention_bias": QKV, "use_qk_norm": ("attn_q_norm.weight",)},
        partial=True,
    ),
    "dots1": Family(
        ("dots1",),
        facts=_EXPERTS_OF_GLM,
        fixed=SILU | _ONE_GROUP | {"attention_bias": False},
        constants=_SIGMOID,
        head="own",
        equal_heads=True,
    ),
    "gpt-oss": Family(
        ("gpt_oss",),
        facts=(*_LOCAL_EXPERTS, Fact("intermediate_size", "expert_feed_forward_length"), WINDOW),
        fixed={"attention_bias": True, "swiglu_alpha": 1.702, "swiglu_limit": 7.0},
        constants={PATTERN: 2},
        window=2,
        turned="by turns",
        head="own",
        scalings=("default", "yarn"),
    ),
    "hunyuan-moe": Family(
        ("hunyuan_v1_moe",),
        facts=(
            Fact("num_experts", COUNT),
            Fact("moe_topk", "expert_used_count"),
            Fact("intermediate_size", "expert_feed_forward_length"),
        ),
        fixed=SILU | {"attention_bias": False},
    ),
    "minimax-m2": Family(
        ("minimax_m2",),
        facts=(*_LOCAL_EXPERTS, Fact("intermediate_size", "expert_feed_forward_length")),
        fixed=SILU,
        constants=_SIGMOID,
        partial=True,
        head="own",
    ),
    "exaone-moe": Family(
        ("exaone_moe",),
        facts=(
            *_NARROW_EXPERTS,
            Fact("num_shared_experts", "expert_shared_count"),
            Fact("first_k_dense_replace", _DENSE_FIRST, int, 0),
            Fact("routed_scaling_factor", "expert_weights_scale", float, 1.0),
            Fact("norm_topk_prob", "expert_weights_norm", bool, False),
            WINDOW,
        ),
        fixed=SILU | _ONE_GROUP,
        constants=_SIGMOID,
        shared="num_shared_experts",
        window=4,
        head="own",
        scalings=LLAMA3,
    ),
    "mimo2": Family(
        ("mimo_v2_flash",),
        facts=(
            *_EXPERTS_OF_GLM[:3],
            Fact("v_head_dim", "attention.value_length"),
            Fact("attention_value_scale", "attention.value_scale", float, optional=True),
            WINDOW,
            *_GROUPS,
        ),
        fixed=SILU | {"attention_bias": False, "norm_topk_prob": True, "routed_scaling_factor": 1.0},
        constants=_SIGMOID,
        lacks=("num_key_value_heads", *_UNREAD_IN_MIMO),
        experts_in="mlp_layer_types",
        window=6,
        doubled=True,
        partial=True,
        head="own",
        local_theta=True,
    ),
    "afmoe": Family(
        ("afmoe",),
        facts=(
            *_NARROW_EXPERTS,
            Fact("num_shared_experts", "expert_shared_count", int, 0),
            Fact("num_dense_layers", _DENSE_FIRST, int, 0),
            Fact("route_scale", "expert_weights_scale", float, 1.0),
            WINDOW,
        ),
        fixed=SILU | {"mup_enabled": True, "attention_bias": False},
        constants=_SIGMOID | {"expert_weights_norm": True, PATTERN: 4},
        window=4,
    ),
    "qwen3next": replace(
        QWEN35,
        kinds=("qwen3_next",),
        facts=(*DELTA_NETWORK, *_NARROW_EXPERTS, _SHARED_WIDTH),
        fixed=SILU | _IN_EVERY_LAYER | {"attention_bias": False, "norm_topk_prob": True},
        tiled=False,
        sections=False,
        by_key_heads=True,
        scalings=("default", "linear", "yarn"),
    ),
    "qwen3vlmoe": replace(
        QWEN3VL,
        kinds=("qwen3_vl_moe_text",),
        facts=_NARROW_EXPERTS,
        fixed=SILU | _IN_EVERY_LAYER | {"attention_bias": False},
        inside="qwen3_vl_moe",
    ),
    "gemma4moe": replace(
        GEMMA4,
        only={"enable_moe_block": (True,)},
        architecture="gemma4",
        facts=(
            *GEMMA4.facts,
            Fact("num_experts", COUNT),
            Fact("top_k_experts", "expert_used_count"),
            Fact("moe_intermediate_size", "expert_feed_forward_length"),
        ),
        fixed={**GEMMA4.fixed, "enable_moe_block": True},
        unadapted=(*GEMMA4.unadapted, "ffn_down_exps"),
    ),
    "deepseek2": _DEEPSEEK,
    "deepseek3": replace(
        _DEEPSEEK,
        kinds=("deepseek_v3", "glm4_moe_lite"),
        architecture="deepseek2",
        facts=(*_DEEPSEEK.facts, _WEIGHTS_NORM, *_GROUPS),
        fixed=SILU | {"attention_bias": False, "rope_interleave": True},
        constants=_SIGMOID,
    ),
    "glm-dsa": replace(
        _DEEPSEEK,
        kinds=("glm_moe_dsa",),
        facts=(
            *_DEEPSEEK.facts,
            _WEIGHTS_NORM,
            Fact("index_topk", "attention.indexer.top_k"),
            Fact("index_n_heads", "attention.indexer.head_count"),
            Fact("index_head_dim", "attention.indexer.key_length"),
        ),
        fixed=SILU | _ONE_GROUP | {"attention_bias": False, "mlp_bias": False},
        by_depth={"indexer_types": _all_full},
        constants=_SIGMOID,
        scalings=("default",),
        unadapted=(*LATENT, "indexer"),
    ),
    "mistral4": replace(
        _DEEPSEEK,
        kinds=("mistral4",),
        facts=(*_DEEPSEEK.facts, _WEIGHTS_NORM),
        fixed=SILU | _ONE_GROUP | {"attention_bias": False, "rope_interleave": True},
        constants={"expert_gating_func": 1},
        yarn={**_DEEPSEEK.yarn, "llama_4_scaling_beta": "attention.temperature_scale"},
        names={"head_dim": "qk_rope_head_dim"},
        tempered=True,
        partial=True,
        scalings=("yarn",),
    ),
    "llama4-128": replace(  # llama.cpp knows by the number of experts that heads have no norms
        _LLAMA4,
        only={"num_local_experts": (128,)},
        architecture="llama4",
        fixed={**_LLAMA4.fixed, "use_qk_norm": False},
        constants={**_LLAMA4.constants, COUNT: 128},
    ),
    "llama4": _LLAMA4,
    "youtu": replace(
        _DEEPSEEK,
        kinds=("youtu",),
        architecture="deepseek2",
        facts=(
            KV_RANK,
            Fact("num_hidden_layers", _DENSE_FIRST),
            Fact("intermediate_size", "expert_feed_forward_length"),
        ),
        fixed=SILU | {"attention_bias": False, "rope_interleave": True},
        constants={"expert_shared_count": 0},
    ),
    "jamba": Family(
        ("jamba",),
        facts=(*MAMBA_OF_GRANITE[:2], Fact("mamba_dt_rank", "ssm.time_step_rank"), *_EXPERTS),
        fixed=SILU | {"mamba_expand": 2, "mamba_conv_bias": True, "mamba_proj_bias": False},
        implied=("head_dim",),
        lacks=("use_mamba_kernels", "num_logits_to_keep", *OF_THE_FIRST_STEP),
        between="linear_attention",
        rhythms=(
            ("attn_layer_period", "attn_layer_offset", "attn_q"),
            ("expert_layer_period", "expert_layer_offset", "ffn_gate_inp"),
        ),
        rotary=False,
        expand="mamba_expand",
    ),
    "kimi-linear": Family(
        ("kimi_linear",),
        facts=(
            KV_RANK,
            Fact("linear_conv_kernel_dim", "ssm.conv_kernel"),
            Fact("linear_head_dim", "kda.head_dim"),
            Fact("linear_num_heads", "attention.head_count"),
            Fact("num_local_experts", COUNT),
            *_EXPERTS_OF_GLM[1:-1],
        ),
        fixed=SILU | _ONE_GROUP | {"attention_bias": False, "norm_topk_prob": True, "q_lora_rank": None},
        constants=_SIGMOID,
        lacks=_UNREAD_IN_KIMI,
        between="linear_attention",
        rotary=False,
        head="own",
        equal_heads=True,
        latent="split",
        unadapted=(*LATENT, *QKV[1:], "attn_output", "ssm_beta", "ssm_f_a", "ssm_f_b", "ssm_g_a", "ssm_g_b"),
    ),
    "dbrx": Family(
        ("dbrx",),
        facts=(
            Fact("ffn_config.moe_num_experts", COUNT),
            Fact("ffn_config.moe_top_k", "expert_used_count"),
            Fact("attn_config.kv_n_heads", "attention.head_count_kv"),
            Fact("attn_config.rope_theta", "rope.freq_base", float, 10_000.0),
            Fact("attn_config.clip_qkv", "attention.clamp_kqv", float, 0.0, optional=True),
        ),
        constants={"attention.layer_norm_epsilon": 1e-5},
        lacks=("ffn_config.hidden_size", "ffn_config.moe_jitter_eps", "ffn_config.moe_loss_weight"),
        names={
            "hidden_size": "d_model",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "max_position_embeddings": "max_seq_len",
            "intermediate_size": "ffn_config.ffn_hidden_size",
        },
        implied=("head_dim",),
        one_below=True,
        epsilon=None,
        head="own",
    ),
    "granitehybridmoe": replace(
        GRANITE_HYBRID,
        only={},
        architecture="granitehybrid",
        facts=(
            *MULTIPLIERS,
            *MAMBA_OF_GRANITE,
            *_LOCAL_EXPERTS,
            Fact("shared_intermediate_size", "expert_shared_feed_forward_length"),
        ),
        fixed={key: value for key, value in GRANITE_HYBRID.fixed.items() if key != "num_local_experts"},
        lacks=(),
    ),
}
