"""What llama.cpp computes for each architecture, and where a transformers config says it.

One table, read from when a GGUF file becomes a config and when a config becomes a GGUF file. Values that a
file can carry are `Fact`s. Values that llama.cpp computes in one way only, whatever a file says, are
``fixed``: a config that says otherwise has no GGUF form. The source is llama.cpp's ``src/models``; every row
is held against the library itself by `tests/export/test_facts`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from sapwood.errors import ExportError
from sapwood.gguf.family import COUNT, Fact, Family

SILU, GELU = {"hidden_act": "silu"}, {"hidden_activation": "gelu_pytorch_tanh"}
QKV, MLP = ("attn_q", "attn_k", "attn_v"), ("ffn_gate", "ffn_up", "ffn_down")


_LAYER_NORM = Fact("layer_norm_eps", "attention.layer_norm_epsilon", float, 1e-5)
_NORM_EPS = Fact("norm_eps", "attention.layer_norm_rms_epsilon", float, 1e-5)
_KERNEL = Fact("conv_L_cache", "shortconv.l_cache")
_LOGIT_SCALE = Fact("logit_scale", "logit_scale", float)
_LLAMA3 = ("default", "linear", "yarn", "llama3")
_NORM_EPSILON = Fact("layer_norm_epsilon", "attention.layer_norm_epsilon", float, 1e-5)
_WINDOW = Fact("sliding_window", "attention.sliding_window", int, 4096)

_MULTIPLIERS = (
    Fact("embedding_multiplier", "embedding_scale", float, 1.0),
    Fact("residual_multiplier", "residual_scale", float, 1.0),
    Fact("attention_multiplier", "attention.scale", float),
    Fact("logits_scaling", "logit_scale", float),
)
PATTERN = "attention.sliding_window_pattern"
INTERVAL, INNER, SECTIONS = "full_attention_interval", "ssm.inner_size", "rope.dimension_sections"
DEEPSTACK = "n_deepstack_layers"
_CHOSEN = Fact("num_experts_per_tok", "expert_used_count")
_EXPERTS = (Fact("num_experts", COUNT), _CHOSEN)
_LOCAL_EXPERTS = (Fact("num_local_experts", COUNT), _CHOSEN)
_NARROW_EXPERTS = (*_EXPERTS, Fact("moe_intermediate_size", "expert_feed_forward_length"))
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
_GROUPS = (
    Fact("n_group", "expert_group_count", int, 1),
    Fact("topk_group", "expert_group_used_count", int, 1),
)
_SHARED_WIDTH = Fact("shared_expert_intermediate_size", "expert_shared_feed_forward_length")
_DELTA_NETWORK = (
    Fact("linear_conv_kernel_dim", "ssm.conv_kernel"),
    Fact("linear_key_head_dim", "ssm.state_size"),
    Fact("linear_num_key_heads", "ssm.group_count"),
    Fact("linear_num_value_heads", "ssm.time_step_rank"),
)
_LATENT = ("attn_q", "attn_q_a", "attn_q_b", "attn_kv_a_mqa", "attn_kv_b", "attn_k_b", "attn_v_b")
_OF_DEEPSEEK = _EXPERTS_OF_GLM[:-1]
_WEIGHTS_NORM = _EXPERTS_OF_GLM[-1]
_MAMBA_OF_GRANITE = (
    Fact("mamba_d_conv", "ssm.conv_kernel"),
    Fact("mamba_d_state", "ssm.state_size"),
    Fact("mamba_n_groups", "ssm.group_count"),
    Fact("mamba_n_heads", "ssm.time_step_rank"),
)
_ANY_STEP = {"time_step_limit": (0.0, math.inf)}
_PLAIN_HEADS = ("num_key_value_heads", "head_dim")  # as many of keys as of queries, all as wide as they can
_OF_GPT2 = ("attn_qkv", "attn_output", "ffn_up", "ffn_down")
_FIXED_IN_GPT2 = {"scale_attn_weights": True, "add_cross_attention": False}
_FALCON = Family(
    ("falcon",),
    fixed={
        "activation": "gelu_pytorch_tanh",
        "new_decoder_architecture": True,
        "num_ln_in_parallel_attn": 1,
        "parallel_attn": True,
        "alibi": False,
        "bias": False,
    },
    names={"num_key_value_heads": "num_kv_heads", "intermediate_size": "ffn_hidden_size"},
    implied=("head_dim",),
    epsilon=_NORM_EPSILON,
    grouped=True,
)
_GRANITE_MOE = Family(
    ("granitemoe",),
    facts=(*_MULTIPLIERS, *_LOCAL_EXPERTS),
    fixed=SILU,
    biases={"attention_bias": (*QKV, "attn_output")},
    interleaved=True,
)
_IN_EVERY_LAYER = {"decoder_sparse_step": 1, "mlp_only_layers": []}

_QWEN35 = Family(
    ("qwen3_5_text",),
    facts=_DELTA_NETWORK,
    fixed=SILU | {"attention_bias": False},
    between="linear_attention",
    every=4,
    tiled=True,
    sections=True,
    partial=True,
    norms_plus_one=True,
    scalings=("default",),
)
_QWEN3VL = Family(
    ("qwen3_vl_text",), fixed=SILU | {"attention_bias": False}, inside="qwen3_vl", sections=True
)

_DEEPSEEK = Family(
    ("deepseek_v2",),
    facts=(Fact("kv_lora_rank", "attention.kv_lora_rank"), *_OF_DEEPSEEK),
    fixed=SILU | {"attention_bias": False, "mlp_bias": False, "topk_method": "greedy"},
    constants={"expert_gating_func": 1, _WEIGHTS_NORM.key: False},
    yarn={"mscale_all_dim": "rope.scaling.yarn_log_multiplier", "mscale": ""},
    log_unit=0.1,
    scalings=("default", "yarn"),
    equal_heads=True,
    latent="split",
    unadapted=_LATENT,
)

_GRANITE_HYBRID = Family(
    ("granitemoehybrid",),
    only={"num_local_experts": (0,)},
    facts=(*_MULTIPLIERS, *_MAMBA_OF_GRANITE, Fact("shared_intermediate_size", "feed_forward_length")),
    fixed=SILU
    | _ANY_STEP
    | {"num_local_experts": 0, "mamba_expand": 2, "mamba_conv_bias": True, "mamba_proj_bias": False},
    biases={"attention_bias": (*QKV, "attn_output")},
    lacks=("intermediate_size", "num_experts_per_tok"),
    between="linear_attention",
    interleaved=True,
    mamba=2,
    rotated="position_embedding_type",
)

# By llama.cpp's name, or by transformers' if that one is taken.
FAMILIES = {
    "llama": Family(
        ("llama", "mistral", "ministral", "internlm3", "iquestcoder", "cwm"),
        fixed=SILU,
        biases={
            "attention_bias": (*QKV, "attn_output"),
            "mlp_bias": MLP,
        },
        interleaved=True,
        scalings=_LLAMA3,
    ),
    "mistral3": Family(
        ("ministral3",),
        fixed=SILU,
        yarn={
            "llama_4_scaling_beta": "attention.temperature_scale",
            "mscale_all_dim": "rope.scaling.yarn_log_multiplier",
            "mscale": "",
        },
        interleaved=True,
        scalings=("yarn",),
    ),
    "arcee": Family(
        ("arcee",),
        fixed={"hidden_act": "relu2", "attention_bias": False, "mlp_bias": False},
        interleaved=True,
    ),
    "smollm3": Family(
        ("smollm3",),
        fixed=SILU | {"attention_bias": False, "mlp_bias": False},
        unturned=4,
        interleaved=True,
    ),
    "granite": Family(
        ("granite",),
        facts=_MULTIPLIERS,
        fixed=SILU,
        biases={"attention_bias": (*QKV, "attn_output"), "mlp_bias": MLP},
        interleaved=True,
    ),
    "ernie4_5": Family(("ernie4_5",), fixed=SILU | {"use_bias": False}),
    "hunyuan-dense": Family(("hunyuan_v1_dense",), fixed=SILU | {"attention_bias": False}),
    "seed_oss": Family(
        ("seed_oss",),
        fixed=SILU | {"attention_out_bias": False, "mlp_bias": False},
        biases={"attention_bias": QKV},
    ),
    "olmo2": Family(("olmo2",), fixed=SILU | {"attention_bias": False}, head="own"),
    "olmo3": Family(
        ("olmo3",),
        architecture="olmo2",
        facts=(_WINDOW,),
        fixed=SILU | {"attention_bias": False},
        window=4,
        head="own",
        plain_windows=True,
    ),
    "nemotron": Family(
        ("nemotron",),
        fixed={"hidden_act": "relu2"},
        biases={"attention_bias": (*QKV, "attn_output"), "mlp_bias": ("ffn_up", "ffn_down")},
        epsilon=Fact("norm_eps", "attention.layer_norm_epsilon", float, 1e-5),
        partial=True,
        norms_plus_one=True,
        head="own",
        scalings=("default", "linear"),
    ),
    "exaone4": Family(("exaone4",), fixed=SILU | {"sliding_window": None}, other=64, scalings=_LLAMA3),
    "phi3": Family(("phi3",), fixed=SILU, partial=True, scalings=("default",)),
    "stablelm": Family(
        ("stablelm",),
        fixed=SILU | {"qk_layernorm": False, "use_parallel_residual": False},
        biases={"use_qkv_bias": QKV},
        epsilon=_LAYER_NORM,
        partial=True,
        head="own",
    ),
    "starcoder2": Family(
        ("starcoder2",),
        fixed={"hidden_act": "gelu_pytorch_tanh", "use_bias": True},
        epsilon=Fact("norm_epsilon", "attention.layer_norm_epsilon", float, 1e-5),
    ),
    "command-r": Family(
        ("cohere",),
        facts=(_LOGIT_SCALE,),
        fixed=SILU | {"attention_bias": False, "use_qk_norm": False},
        epsilon=_LAYER_NORM,
        head="tied",
    ),
    "cohere2": Family(
        ("cohere2",),
        facts=(_LOGIT_SCALE, _WINDOW),
        fixed=SILU | {"attention_bias": False},
        epsilon=_LAYER_NORM,
        window=4,
        head="tied",
    ),
    "gemma": Family(
        ("gemma",),
        fixed={"hidden_act": "gelu_pytorch_tanh", "attention_bias": False},
        norms_plus_one=True,
        head="tied",
    ),
    "olmo": Family(
        ("olmo",),
        facts=(Fact("clip_qkv", "attention.clamp_kqv", float, optional=True),),
        fixed=SILU | {"attention_bias": False},
        constants={_LAYER_NORM.key: 1e-5},
        epsilon=None,
        interleaved=True,
    ),
    "phi2": Family(
        ("phi",),
        fixed={"hidden_act": "gelu_pytorch_tanh", "qk_layernorm": False},
        epsilon=_LAYER_NORM,
        partial=True,
        head="own",
        scalings=("default", "linear"),
    ),
    "qwen2": Family(("qwen2",), fixed=SILU),
    "qwen3": Family(("qwen3",), fixed=SILU | {"attention_bias": False}),
    "gemma2": Family(
        ("gemma2",),
        facts=(
            _WINDOW,
            Fact("attn_logit_softcapping", "attn_logit_softcapping", float, 50.0),
            Fact("final_logit_softcapping", "final_logit_softcapping", float, 30.0),
        ),
        fixed=GELU | {"attention_bias": False, "use_bidirectional_attention": None},
        window=2,
        largest=46,
        norms_plus_one=True,
        head="tied",
    ),
    "gemma3": Family(
        ("gemma3_text",),
        facts=(_WINDOW,),
        fixed=GELU
        | {
            "attention_bias": False,
            "use_bidirectional_attention": False,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
        },
        window=6,
        largest=62,
        norms_plus_one=True,
        local_theta=True,
    ),
    "gemma3n": Family(
        ("gemma3n_text",),
        facts=(_WINDOW,),
        fixed=GELU
        | {
            "attention_bias": False,
            "final_logit_softcapping": 30.0,
            "hidden_size_per_layer_input": 256,
            "altup_num_inputs": 4,
            "altup_active_idx": 0,
            "altup_correct_scale": True,
            "laurel_rank": 64,
        },
        by_depth={
            "num_kv_shared_layers": lambda layers: max(0, layers - 20),
            "activation_sparsity_pattern": lambda layers: ([0.95] * 10 + [0.0] * layers)[:layers],
        },
        window=5,
        own_keys=20,
        unadapted=("altup_proj", "altup_unembd_proj", "altup_router", "per_layer_model_proj"),
        local_theta=True,
    ),
    "chatglm": Family(("glm",), fixed=SILU, biases={"attention_bias": QKV}, partial=True),
    "glm4": Family(("glm4",), fixed=SILU, biases={"attention_bias": QKV}, partial=True),
    "jais2": Family(
        ("jais2",),
        fixed={"hidden_act": "relu2", "attention_bias": True, "mlp_bias": True},
        epsilon=_LAYER_NORM,
    ),
    "bitnet": Family(("bitnet",), fixed=SILU | {"attention_bias": False}, head="tied"),
    "apertus": Family(
        ("apertus",), fixed={"hidden_act": "xielu", "attention_bias": False}, head="own", scalings=_LLAMA3
    ),
    "gpt2": Family(
        ("gpt2",),
        fixed=_FIXED_IN_GPT2
        | {
            "activation_function": "gelu_pytorch_tanh",
            "scale_attn_by_inverse_layer_idx": False,
            "reorder_and_upcast_attn": False,
        },
        names={"intermediate_size": "n_inner"},
        implied=_PLAIN_HEADS,
        epsilon=_NORM_EPSILON,
        rotary=False,
        across=_OF_GPT2,
    ),
    "starcoder": Family(
        ("gpt_bigcode",),
        fixed=_FIXED_IN_GPT2 | {"activation_function": "gelu_pytorch_tanh", "multi_query": True},
        names={"intermediate_size": "n_inner"},
        implied=("head_dim",),
        epsilon=_NORM_EPSILON,
        rotary=False,
    ),
    "gptneox": Family(
        ("gpt_neox",),
        facts=(Fact("use_parallel_residual", "use_parallel_residual", bool, True),),
        fixed={"hidden_act": "gelu_pytorch_tanh", "attention_bias": True},
        implied=_PLAIN_HEADS,
        epsilon=_LAYER_NORM,
        partial=True,
        grouped=True,
        head="own",
    ),
    "falcon": _FALCON,
    "falcon-40b": replace(
        _FALCON,
        architecture="falcon",
        only={"new_decoder_architecture": (True,), "num_ln_in_parallel_attn": (None, 2)},
        sign="attn_norm_2",
        fixed={**_FALCON.fixed, "num_ln_in_parallel_attn": 2},
    ),
    "bloom": Family(
        ("bloom",),
        fixed={"apply_residual_connection_post_layernorm": False, "slow_but_exact": False},
        implied=(*_PLAIN_HEADS, "intermediate_size"),
        epsilon=_NORM_EPSILON,
        rotary=False,
        grouped=True,
    ),
    "mpt": Family(
        ("mpt",),
        facts=(Fact("attn_config.clip_qkv", "attention.clamp_kqv", float, optional=True),),
        constants={"attention.max_alibi_bias": 8.0},
        names={"max_position_embeddings": "max_seq_len"},
        implied=(*_PLAIN_HEADS, "intermediate_size"),
        epsilon=_NORM_EPSILON,
        rotary=False,
    ),
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
    "lfm2": Family(
        ("lfm2",),
        facts=(_KERNEL,),
        fixed={"conv_bias": False, "block_auto_adjust_ff_dim": False},
        epsilon=_NORM_EPS,
        between="conv",
    ),
    "lfm2moe": Family(
        ("lfm2_moe",),
        facts=(*_NARROW_EXPERTS, _KERNEL, Fact("num_dense_layers", _DENSE_FIRST, int, 0)),
        fixed={
            "conv_bias": False,
            "use_expert_bias": True,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.0,
        },
        constants=_SIGMOID,
        epsilon=_NORM_EPS,
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
        constants={"interleave_moe_layer_step": 1},
        shared="moe_num_shared_experts",
    ),
    "qwen35": _QWEN35,
    "qwen35moe": replace(
        _QWEN35,
        kinds=("qwen3_5_moe_text",),
        facts=(*_DELTA_NETWORK, *_NARROW_EXPERTS, _SHARED_WIDTH),
        lacks=("intermediate_size",),
    ),
    "glm4moe": Family(
        ("glm4_moe",),
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
        facts=(*_LOCAL_EXPERTS, Fact("intermediate_size", "expert_feed_forward_length"), _WINDOW),
        fixed={"attention_bias": True, "swiglu_alpha": 1.702, "swiglu_limit": 7.0},
        constants={PATTERN: 2},
        window=2,
        turned=True,
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
    "deepseek2": _DEEPSEEK,
    "deepseek3": replace(
        _DEEPSEEK,
        kinds=("deepseek_v3", "glm4_moe_lite"),
        architecture="deepseek2",
        facts=(*_DEEPSEEK.facts, _WEIGHTS_NORM, *_GROUPS),
        fixed=SILU | {"attention_bias": False, "rope_interleave": True},
        constants=_SIGMOID,
    ),
    "youtu": replace(
        _DEEPSEEK,
        kinds=("youtu",),
        architecture="deepseek2",
        facts=(
            _DEEPSEEK.facts[0],
            Fact("num_hidden_layers", _DENSE_FIRST),
            Fact("intermediate_size", "expert_feed_forward_length"),
        ),
        fixed=SILU | {"attention_bias": False, "rope_interleave": True},
        constants={"expert_shared_count": 0},
    ),
    "minicpm3": Family(
        ("minicpm3",),
        facts=_DEEPSEEK.facts[:1],
        fixed=SILU
        | {"attention_bias": False, "mlp_bias": False}
        | {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256},
        scalings=("default", "longrope"),
        equal_heads=True,
        latent="joined",
        unadapted=_LATENT,
    ),
    "granitehybrid": _GRANITE_HYBRID,
    "granitehybridmoe": replace(
        _GRANITE_HYBRID,
        only={},
        architecture="granitehybrid",
        facts=(
            *_MULTIPLIERS,
            *_MAMBA_OF_GRANITE,
            *_LOCAL_EXPERTS,
            Fact("shared_intermediate_size", "expert_shared_feed_forward_length"),
        ),
        fixed={key: value for key, value in _GRANITE_HYBRID.fixed.items() if key != "num_local_experts"},
        lacks=(),
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
            _WINDOW,
        ),
        fixed=SILU | _ONE_GROUP,
        constants=_SIGMOID,
        shared="num_shared_experts",
        window=4,
        head="own",
        scalings=_LLAMA3,
    ),
    "afmoe": Family(
        ("afmoe",),
        facts=(
            *_NARROW_EXPERTS,
            Fact("num_shared_experts", "expert_shared_count", int, 0),
            Fact("num_dense_layers", _DENSE_FIRST, int, 0),
            Fact("route_scale", "expert_weights_scale", float, 1.0),
            _WINDOW,
        ),
        fixed=SILU | {"mup_enabled": True, "attention_bias": False},
        constants=_SIGMOID | {"expert_weights_norm": True, PATTERN: 4},
        window=4,
    ),
    "qwen3next": replace(
        _QWEN35,
        kinds=("qwen3_next",),
        facts=(*_DELTA_NETWORK, *_NARROW_EXPERTS, _SHARED_WIDTH),
        fixed=SILU | _IN_EVERY_LAYER | {"attention_bias": False, "norm_topk_prob": True},
        tiled=False,
        sections=False,
        by_key_heads=True,
        scalings=("default", "linear", "yarn"),
    ),
    "qwen3vl": _QWEN3VL,
    "qwen3vlmoe": replace(
        _QWEN3VL,
        kinds=("qwen3_vl_moe_text",),
        facts=_NARROW_EXPERTS,
        fixed=SILU | _IN_EVERY_LAYER | {"attention_bias": False},
        inside="qwen3_vl_moe",
    ),
    "paddleocr": Family(
        ("paddleocr_vl_text",),
        fixed=SILU | {"use_bias": False},
        inside="paddleocr_vl",
        sections=True,
    ),
}


def in_files(architecture: str) -> str:
    """What files call the architecture of a row."""
    return FAMILIES[architecture].architecture or architecture


def architecture_of(hf_config: Any) -> str:
    """The row of a model with this transformers config. Raises ExportError if there is none."""
    rows = [row for row, family in FAMILIES.items() if hf_config.model_type in family.kinds]
    for row in sorted(rows, key=lambda row: not FAMILIES[row].only):
        if all(getattr(hf_config, name) in values for name, values in FAMILIES[row].only.items()):
            return row
    known = ", ".join(kind for family in FAMILIES.values() for kind in family.kinds)
    raise ExportError(
        f"{hf_config.model_type} models can't be written as GGUF",
        "base.model",
        f"known: {known}",
        "--to merged writes a folder, which llama.cpp's convert_hf_to_gguf.py may know how to convert",
    )
