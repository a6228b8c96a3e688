"""What each module of an architecture is called in transformers, by the name of its tensor in a GGUF file.

A parameter that joins what files have apart stands once for each of its tensors.
"""

from __future__ import annotations

from sapwood.gguf.file import LINEARS, NUMBERS, STACKED

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
_ATTENTION = {key: name for key, name in _EVERY_LAYER.items() if not key.startswith("ffn_")}
_ONE_GATE_AND_UP = _ATTENTION | {
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
STACKS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")  # transformers' parameters, which have no .weight
BOTH = "ffn_gate_up_exps"  # gate and up of each expert as one matrix, that of gate first
SHARED_GATE = "ffn_gate_inp_shexp"  # a matrix of one row in transformers, often a vector in files
CHOICE = "exp_probs_b.bias"  # what is added to the scores of experts before they are chosen
OF_KEYS = ("attn_k", "attn_v", "attn_k_norm")
THREE_KERNELS = ("ssm_conv1d_q", "ssm_conv1d_k", "ssm_conv1d_v")  # one in transformers
KERNELS = ("shortconv.conv", "ssm_conv1d")
OF_HEADS = ("attn_k_b", "attn_v_b")  # what each head makes keys and values of, in latent attention
ROUTER = "ffn_gate_inp"
STEPS = "ssm_dt"  # Mamba multiplies by this linear's weight, and doesn't call it
DECAY, SKIP = "ssm_a", "ssm_d"  # the two tensors without .weight or .bias


def _mixture(block: str, router: str = "gate") -> dict[str, str]:
    """A layer whose MLP, called ``block``, is a mixture of experts."""
    return _ATTENTION | _PRE_NORM | _experts(block, router)


def _experts(block: str, router: str = "gate") -> dict[str, str]:
    stacks = zip(STACKS, ("gate_up_proj", "gate_up_proj", "down_proj"), strict=True)
    return {ROUTER: f"{block}.{router}"} | {tensor: f"{block}.experts.{stack}" for tensor, stack in stacks}


def _shared(block: str) -> dict[str, str]:
    """Experts that every token goes through, as one MLP."""
    return {f"ffn_{part}_shexp": f"{block}.{part}_proj" for part in ("gate", "up", "down")}


_NORMS_OF_HUNYUAN = {"attn_q_norm": "self_attn.query_layernorm", "attn_k_norm": "self_attn.key_layernorm"}
_OF_LFM2 = {
    "attn_norm": "operator_norm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.out_proj",
    "attn_q_norm": "self_attn.q_layernorm",
    "attn_k_norm": "self_attn.k_layernorm",
    "shortconv.conv": "conv.conv",
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.out_proj": "conv.out_proj",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "feed_forward.w1",
    "ffn_up": "feed_forward.w3",
    "ffn_down": "feed_forward.w2",
}
_DELTA_NETWORK = _HEAD_NORMS | {
    "post_attention_norm": "post_attention_layernorm",
    "ssm_conv1d": "linear_attn.conv1d",
    "ssm_dt.bias": "linear_attn.dt_bias",
    DECAY: "linear_attn.A_log",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
}
_OF_QWEN35 = _DELTA_NETWORK | {
    "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z",
    "ssm_beta": "linear_attn.in_proj_b",
    "ssm_alpha": "linear_attn.in_proj_a",
}
_INPUT_OF_LAYERS = {
    "inp_gate": "per_layer_input_gate",
    "proj": "per_layer_projection",
    "post_norm": "post_per_layer_input_norm",
}
_OF_GEMMA3N = _INPUT_OF_LAYERS | {
    "altup_correct_coef": "altup.correction_coefs",
    "altup_correct_scale.weight": "altup.correct_output_scale",
    "altup_predict_coef": "altup.prediction_coefs",
    "altup_router": "altup.modality_router",
    "altup_router_norm": "altup.router_norm",
    "laurel_l": "laurel.linear_left",
    "laurel_r": "laurel.linear_right",
    "laurel_post_norm": "laurel.post_laurel_norm",
}
_OF_GEMMA4 = (
    _EVERY_LAYER
    | _SANDWICH_NORMS
    | _HEAD_NORMS
    | _INPUT_OF_LAYERS
    | {"layer_output_scale.weight": "layer_scalar"}
)
_BESIDE_A_GATE = (
    _experts("mlp") | {SHARED_GATE: "mlp.shared_expert_gate"} | _shared("mlp.shared_expert")
)  # Qwen's experts, and one that a gate of its own multiplies
_SHARED_OF_GRANITE = dict.fromkeys(("ffn_gate_shexp", "ffn_up_shexp"), "shared_mlp.input_linear") | {
    "ffn_down_shexp": "shared_mlp.output_linear"
}
_OF_GLM_MOE = _experts("mlp") | _shared("mlp.shared_experts") | {CHOICE: "mlp.gate.e_score_correction_bias"}
_LATENT = {
    "attn_norm": "input_layernorm",
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_output": "self_attn.o_proj",
}
_SPLIT = _LATENT | {"attn_q": "self_attn.q_proj"} | dict.fromkeys(OF_HEADS, "self_attn.kv_b_proj")
_OF_MAMBA2 = {
    "ssm_in": "in_proj",
    "ssm_conv1d": "conv1d",
    "ssm_dt.bias": "dt_bias",
    DECAY: "A_log",
    SKIP: "D",
    "ssm_norm": "norm",
    "ssm_out": "out_proj",
}
_OF_GRANITE_HYBRID = _ATTENTION | _PRE_NORM | {key: f"mamba.{name}" for key, name in _OF_MAMBA2.items()}
_OF_MAMBA = {
    "attn_norm": "norm",
    "ssm_in": "mixer.in_proj",
    "ssm_conv1d": "mixer.conv1d",
    "ssm_x": "mixer.x_proj",
    STEPS: "mixer.dt_proj",
    DECAY: "mixer.A_log",
    SKIP: "mixer.D",
    "ssm_out": "mixer.out_proj",
}
_MLP = {key: name for key, name in _EVERY_LAYER.items() if key.startswith("ffn_")}
_FEED_FORWARD = {key: name.replace("mlp", "feed_forward") for key, name in _MLP.items()}
_OF_GPT2 = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
_OF_BLOOM = {
    "attn_norm": "input_layernorm",
    "attn_qkv": "self_attention.query_key_value",
    "attn_output": "self_attention.dense",
    "ffn_up": "mlp.dense_h_to_4h",
    "ffn_down": "mlp.dense_4h_to_h",
}
# A layer of a family has some of these tensors: those of its attention or convolution, of its MLP or experts.
OF_LAYER = {
    **dict.fromkeys(("gemma", "granite", "smollm3", "ernie4_5", "stablelm"), _EVERY_LAYER | _PRE_NORM),
    **dict.fromkeys(("olmo2", "olmo3", "exaone4"), _ONLY_NORMS_AFTER | _HEAD_NORMS),
    **dict.fromkeys(("command-r", "cohere2"), _EVERY_LAYER),
    **dict.fromkeys(("arcee", "nemotron", "jais2"), _WITHOUT_GATE | _PRE_NORM),
    "starcoder2": _WITHOUT_GATE | _PRE_NORM | {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
    "hunyuan-dense": _EVERY_LAYER | _PRE_NORM | _NORMS_OF_HUNYUAN,
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
    "gemma3n": _EVERY_LAYER | _SANDWICH_NORMS | _HEAD_NORMS | _OF_GEMMA3N,
    "gemma4": _OF_GEMMA4,
    "gemma4moe": _OF_GEMMA4
    | {
        "ffn_gate_inp": "router.proj",
        "ffn_gate_inp.scale": "router.scale",
        BOTH: "experts.gate_up_proj",
        "ffn_down_exps": "experts.down_proj",
        "ffn_down_exps.scale": "router.per_expert_scale",
        "pre_ffw_norm_2": "pre_feedforward_layernorm_2",
        "post_ffw_norm_1": "post_feedforward_layernorm_1",
        "post_ffw_norm_2": "post_feedforward_layernorm_2",
    },
    "chatglm": _ONE_GATE_AND_UP | _PRE_NORM,
    "glm4": _ONE_GATE_AND_UP | _PRE_NORM | _NORMS_AFTER,
    "mixtral": _mixture("mlp"),
    "qwen2moe": _ATTENTION | _PRE_NORM | _BESIDE_A_GATE,
    **dict.fromkeys(("qwen3moe", "olmoe"), _mixture("mlp") | _HEAD_NORMS),
    "granitemoe": _mixture("block_sparse_moe", "router"),
    "granitemoe-shared": _mixture("block_sparse_moe", "router") | _SHARED_OF_GRANITE,
    "mistral3": _EVERY_LAYER | _PRE_NORM,
    "chameleon": _EVERY_LAYER | _PRE_NORM | _HEAD_NORMS,
    "olmo": {key: name for key, name in _EVERY_LAYER.items() if key != "attn_norm"},
    "phi2": _ATTENTION | {"attn_output": "self_attn.dense", "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2"},
    "bitnet": _EVERY_LAYER
    | _PRE_NORM
    | {"attn_sub_norm": "self_attn.attn_sub_norm", "ffn_sub_norm": "mlp.ffn_sub_norm"},
    "apertus": _WITHOUT_GATE
    | _HEAD_NORMS
    | {"attn_norm": "attention_layernorm", "ffn_norm": "feedforward_layernorm"}
    | {name: name.replace("xielu", "mlp.act_fn") for name in NUMBERS},
    **dict.fromkeys(("gpt2", "starcoder"), _OF_GPT2),
    "gptneox": _OF_BLOOM
    | _PRE_NORM
    | {"attn_qkv": "attention.query_key_value", "attn_output": "attention.dense"},
    "bloom": _OF_BLOOM | _PRE_NORM,
    "falcon": _OF_BLOOM,
    "falcon-40b": _OF_BLOOM | {"attn_norm": "ln_mlp", "attn_norm_2": "ln_attn"},
    "mpt": {
        "attn_norm": "norm_1",
        "attn_qkv": "attn.Wqkv",
        "attn_output": "attn.out_proj",
        "ffn_norm": "norm_2",
        "ffn_up": "ffn.up_proj",
        "ffn_down": "ffn.down_proj",
    },
    "dbrx": {
        "attn_norm": "norm_attn_norm.norm_1",
        "attn_qkv": "norm_attn_norm.attn.Wqkv",
        "attn_output": "norm_attn_norm.attn.out_proj",
        "attn_output_norm": "norm_attn_norm.norm_2",
        ROUTER: "ffn.router.layer",
        **{stack: f"ffn.experts.mlp.{name}" for stack, name in zip(STACKS, ("w1", "v1", "w2"), strict=True)},
    },
    "lfm2": _OF_LFM2,
    "lfm2moe": _OF_LFM2 | _experts("feed_forward") | {CHOICE: "feed_forward.expert_bias"},
    "ernie4_5-moe": _EVERY_LAYER
    | _mixture("mlp")
    | _shared("mlp.shared_experts")
    | {CHOICE: "mlp.gate.moe_statics.e_score_correction_bias"},
    "qwen35": _EVERY_LAYER | _OF_QWEN35,
    "qwen3next": _ATTENTION
    | _DELTA_NETWORK
    | {
        "attn_gate": "linear_attn.in_proj_qkvz",
        "attn_qkv": "linear_attn.in_proj_qkvz",
        "ssm_ba": "linear_attn.in_proj_ba",
    }
    | _BESIDE_A_GATE,
    "qwen35moe": _ATTENTION | _OF_QWEN35 | _BESIDE_A_GATE,
    "dots1": _EVERY_LAYER | _PRE_NORM | _HEAD_NORMS | _OF_GLM_MOE,
    "glm4moe": _EVERY_LAYER | {"post_attention_norm": "post_attention_layernorm"} | _HEAD_NORMS | _OF_GLM_MOE,
    "gpt-oss": _ATTENTION
    | _experts("mlp", "router")
    | {
        "post_attention_norm": "post_attention_layernorm",
        "attn_sinks.weight": "self_attn.sinks",
        "ffn_gate_exps.bias": "mlp.experts.gate_up_proj_bias",
        "ffn_up_exps.bias": "mlp.experts.gate_up_proj_bias",
        "ffn_down_exps.bias": "mlp.experts.down_proj_bias",
    },
    "mimo2": _EVERY_LAYER
    | _PRE_NORM
    | _experts("mlp")
    | {CHOICE: "mlp.gate.e_score_correction_bias", "attn_sinks.weight": "self_attn.sinks"},
    "minimax-m2": _mixture("mlp") | _HEAD_NORMS | {CHOICE: "mlp.e_score_correction_bias"},
    "exaone-moe": _EVERY_LAYER | _PRE_NORM | _HEAD_NORMS | _OF_GLM_MOE,
    "afmoe": _EVERY_LAYER
    | _HEAD_NORMS
    | _experts("mlp", "router.gate")
    | _shared("mlp.shared_experts")
    | {
        "attn_gate": "self_attn.gate_proj",
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_mlp_layernorm",
        "post_ffw_norm": "post_mlp_layernorm",
        CHOICE: "mlp.expert_bias",
    },
    "paddleocr": _EVERY_LAYER | _PRE_NORM,
    "qwen3vl": _EVERY_LAYER | _PRE_NORM | _HEAD_NORMS,
    "qwen3vlmoe": _mixture("mlp") | _HEAD_NORMS,
    "hunyuan-moe": _mixture("mlp", "gate.wg") | _NORMS_OF_HUNYUAN | _shared("mlp.shared_mlp"),
    "granitehybrid": _OF_GRANITE_HYBRID
    | dict.fromkeys(("ffn_gate", "ffn_up"), "shared_mlp.input_linear")
    | {"ffn_down": "shared_mlp.output_linear"},
    **dict.fromkeys(("mamba", "falcon-mamba"), _OF_MAMBA),
    "mamba2": {"attn_norm": "norm"} | {key: f"mixer.{name}" for key, name in _OF_MAMBA2.items()},
    "granitehybridmoe": _OF_GRANITE_HYBRID | _experts("block_sparse_moe", "router") | _SHARED_OF_GRANITE,
    "falcon-h1": _OF_GRANITE_HYBRID | _FEED_FORWARD | {"ffn_norm": "pre_ff_layernorm.weight"},
    "nemotron_h": {
        "attn_norm": "norm",
        "ffn_up": "mixer.up_proj",
        "ffn_down": "mixer.down_proj",
        **{f"attn_{part}": f"mixer.{part}_proj" for part in "qkv"},
        **{key: f"mixer.{name}" for key, name in ({"attn_output": "o_proj"} | _OF_MAMBA2).items()},
    },
    "bamba": _OF_GRANITE_HYBRID | _FEED_FORWARD | {"ffn_norm": "pre_ff_layernorm"},
    "jamba": _ATTENTION
    | {key: name.replace("mixer", "mamba") for key, name in _OF_MAMBA.items() if key != "attn_norm"}
    | {f"ssm_{part}_norm": f"mamba.{part}_layernorm" for part in ("dt", "b", "c")}
    | {"ffn_norm": "pre_ff_layernorm"}
    | _FEED_FORWARD
    | _experts("feed_forward", "router"),
    **dict.fromkeys(
        ("llama4", "llama4-128"),
        _ATTENTION
        | _PRE_NORM
        | _FEED_FORWARD
        | _experts("feed_forward", "router")
        | _shared("feed_forward.shared_expert"),
    ),
    "minicpm3": _LATENT | {"attn_kv_b": "self_attn.kv_b_proj"} | _MLP | _PRE_NORM,
    "youtu": _SPLIT | _MLP | _PRE_NORM,
    "kimi-linear": _EVERY_LAYER
    | _SPLIT
    | _PRE_NORM
    | _OF_GLM_MOE
    | dict.fromkeys(THREE_KERNELS, "self_attn.conv1d")
    | {f"ssm_f_{part}": f"self_attn.forget_gate.f_{part}_proj" for part in "ab"}
    | {f"ssm_g_{part}": f"self_attn.g_{part}_proj" for part in "ab"}
    | {"ssm_dt.bias": "self_attn.forget_gate.dt_bias", DECAY: "self_attn.forget_gate.A_log"}
    | {"ssm_beta": "self_attn.b_proj", "ssm_norm": "self_attn.o_norm"},
    **dict.fromkeys(("deepseek2", "deepseek3"), _SPLIT | _MLP | _PRE_NORM | _OF_GLM_MOE),
    "glm-dsa": _SPLIT
    | _MLP
    | _PRE_NORM
    | _OF_GLM_MOE
    | {
        "indexer.attn_q_b": "self_attn.indexer.wq_b",
        "indexer.attn_k": "self_attn.indexer.wk",
        "indexer.k_norm": "self_attn.indexer.k_norm",
        "indexer.proj": "self_attn.indexer.weights_proj",
    },
    "mistral4": _SPLIT
    | _MLP
    | _PRE_NORM
    | _shared("mlp.shared_experts")
    | {
        "ffn_gate_inp": "mlp.gate",
        BOTH: "mlp.experts.gate_up_proj",
        "ffn_down_exps": "mlp.experts.down_proj",
    },
}
# Tensors that older files have in the place of others.
OLDER = {row: {"attn_kv_b": "self_attn.kv_b_proj"} for row in ("deepseek2", "deepseek3", "youtu")}
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_NORM_OF_LFM2 = {
    "token_embd": "model.embed_tokens",
    "token_embd_norm": "model.embedding_norm",
    "output": "lm_head",
}
_ENDS_OF_GPT2 = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
_ENDS_OF_FALCON = {
    "token_embd": "transformer.word_embeddings",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
_ENDS_OF_MPT = {"token_embd": "transformer.wte", "output_norm": "transformer.norm_f", "output": "lm_head"}
_ENDS_OF_MAMBA = {
    "token_embd": "backbone.embeddings",
    "output_norm": "backbone.norm_f",
    "output": "lm_head",
}
_INPUTS_OF_LAYERS = {
    "per_layer_token_embd": "model.embed_tokens_per_layer",
    "per_layer_model_proj": "model.per_layer_model_projection",
    "per_layer_proj_norm": "model.per_layer_projection_norm",
}
OTHER_ENDS = {
    **dict.fromkeys(("mamba", "falcon-mamba", "mamba2"), _ENDS_OF_MAMBA),
    **dict.fromkeys(("gemma4", "gemma4moe"), OUTSIDE | _INPUTS_OF_LAYERS),
    "nemotron_h": OUTSIDE | {"token_embd": "model.embeddings", "output_norm": "model.norm_f"},
    "gemma3n": OUTSIDE
    | _INPUTS_OF_LAYERS
    | {
        f"{stack}.{i}": f"model.{linears}.{i}"
        for stack, linears in zip(STACKED, ("altup_projections", "altup_unembed_projections"), strict=True)
        for i in range(LINEARS)
    },
    **dict.fromkeys(("gpt2", "starcoder"), _ENDS_OF_GPT2),
    "gptneox": {
        "token_embd": "gpt_neox.embed_in",
        "output_norm": "gpt_neox.final_layer_norm",
        "output": "lm_head",
    },
    **dict.fromkeys(("falcon", "falcon-40b"), _ENDS_OF_FALCON),
    "bloom": _ENDS_OF_FALCON | {"token_embd_norm": "transformer.word_embeddings_layernorm"},
    **dict.fromkeys(("mpt", "dbrx"), _ENDS_OF_MPT),
    "lfm2": _NORM_OF_LFM2,
    "lfm2moe": _NORM_OF_LFM2,
    "olmo": {"token_embd": "model.embed_tokens", "output": "lm_head"},
    **dict.fromkeys(
        ("phi2", "falcon-h1", "jamba", "bamba"), OUTSIDE | {"output_norm": "model.final_layernorm"}
    ),
}
LAYERS = {
    **dict.fromkeys(("gpt2", "starcoder", "falcon", "falcon-40b", "bloom"), "transformer.h"),
    "gptneox": "gpt_neox.layers",
    **dict.fromkeys(("mpt", "dbrx"), "transformer.blocks"),
    **dict.fromkeys(("mamba", "falcon-mamba", "mamba2"), "backbone.layers"),
}
