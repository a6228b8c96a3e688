"""What llama.cpp computes for each architecture, and where a transformers config says it.

One table, read from when a GGUF file becomes a config and when a config becomes a GGUF file. Values that a
file can carry are `Fact`s. Values that llama.cpp computes in one way only, whatever a file says, are
``fixed``: a config that says otherwise has no GGUF form. The source is llama.cpp's ``src/models``; every row
is held against the library itself by `tests/export/test_facts`. Mixtures of experts have theirs
in `mixtures`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from sapwood.errors import ExportError
from sapwood.gguf.table.family import (
    BAMBA,
    GELU,
    GEMMA4,
    GRANITE_HYBRID,
    KERNEL,
    KV_RANK,
    LATENT,
    LLAMA3,
    MAMBA,
    MAMBA_OF_GRANITE,
    MULTIPLIERS,
    NORM_EPS,
    OF_THE_FIRST_STEP,
    QKV,
    QWEN3VL,
    QWEN35,
    SILU,
    WINDOW,
    Fact,
    Family,
)
from sapwood.gguf.table.mixtures import MIXTURES

_MLP = ("ffn_gate", "ffn_up", "ffn_down")
_LAYER_NORM = Fact("layer_norm_eps", "attention.layer_norm_epsilon", float, 1e-5)
_LOGIT_SCALE = Fact("logit_scale", "logit_scale", float)
_NORM_EPSILON = Fact("layer_norm_epsilon", "attention.layer_norm_epsilon", float, 1e-5)
INTERVAL, SECTIONS = "full_attention_interval", "rope.dimension_sections"
INNER, GROUPS = "ssm.inner_size", "ssm.group_count"
STATES, HEADS = "ssm.state_size", "ssm.time_step_rank"
DEEPSTACK = "n_deepstack_layers"
_PLAIN_HEADS = ("num_key_value_heads", "head_dim")  # as many of keys as of queries, all as wide as they can
_OF_GPT2 = ("attn_qkv", "attn_output", "ffn_up", "ffn_down")
_FIXED_IN_GPT2 = {"scale_attn_weights": True, "add_cross_attention": False}
_UNREAD_IN_FALCON_H1 = (
    *("mamba_expand", "num_logits_to_keep", "time_step_rank", "mamba_use_mlp", "mlp_expansion_factor"),
    "attn_layer_indices",
)
NO_STEP = 1e-30  # the least step of time that no step is below: llama.cpp has no bound for it
_UNREAD_IN_NEMOTRON_H = (  # by layers that are no mixture of experts
    *("n_routed_experts", "n_shared_experts", "moe_intermediate_size", "moe_shared_expert_intermediate_size"),
    *("moe_latent_size", "moe_shared_expert_overlap", "num_experts_per_tok", "routed_scaling_factor"),
    *("n_group", "topk_group", "norm_topk_prob", "num_nextn_predict_layers", "mtp_layers_block_type"),
    *("time_step_limit", "use_mamba_kernels", "num_logits_to_keep", "mamba_ssm_cache_dtype", "expand"),
    *("hidden_dropout", "sliding_window", "attention_bias", "mamba_proj_bias", "layers_block_type"),
)
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

# By llama.cpp's name, or by transformers' if that one is taken.
_DENSE = {
    "llama": Family(
        ("llama", "mistral", "ministral", "internlm3", "iquestcoder", "cwm"),
        fixed=SILU,
        biases={
            "attention_bias": (*QKV, "attn_output"),
            "mlp_bias": _MLP,
        },
        interleaved=True,
        scalings=LLAMA3,
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
        facts=MULTIPLIERS,
        fixed=SILU,
        biases={"attention_bias": (*QKV, "attn_output"), "mlp_bias": _MLP},
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
        facts=(WINDOW,),
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
    "exaone4": Family(("exaone4",), fixed=SILU | {"sliding_window": None}, other=64, scalings=LLAMA3),
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
        facts=(_LOGIT_SCALE, WINDOW),
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
            WINDOW,
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
        facts=(WINDOW,),
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
        facts=(WINDOW,),
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
    "gemma4": GEMMA4,
    "chatglm": Family(("glm",), fixed=SILU, biases={"attention_bias": QKV}, partial=True),
    "glm4": Family(
        ("glm4", "glm4v_text", "glm_ocr_text"), fixed=SILU, biases={"attention_bias": QKV}, partial=True
    ),
    "jais2": Family(
        ("jais2",),
        fixed={"hidden_act": "relu2", "attention_bias": True, "mlp_bias": True},
        epsilon=_LAYER_NORM,
    ),
    "bitnet": Family(("bitnet",), fixed=SILU | {"attention_bias": False}, head="tied"),
    "apertus": Family(
        ("apertus",), fixed={"hidden_act": "xielu", "attention_bias": False}, head="own", scalings=LLAMA3
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
    "lfm2": Family(
        ("lfm2",),
        facts=(KERNEL,),
        fixed={"conv_bias": False, "block_auto_adjust_ff_dim": False},
        epsilon=NORM_EPS,
        between="conv",
    ),
    "qwen35": QWEN35,
    "qwen3vl": QWEN3VL,
    "minicpm3": Family(
        ("minicpm3",),
        facts=(KV_RANK,),
        fixed=SILU
        | {"attention_bias": False, "mlp_bias": False}
        | {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256},
        scalings=("default", "longrope"),
        equal_heads=True,
        latent="joined",
        unadapted=LATENT,
    ),
    "bamba": BAMBA,  # before the row that has its name, and needs to be told of multipliers
    "granitehybrid": GRANITE_HYBRID,
    "mamba": MAMBA,
    "falcon-mamba": replace(
        MAMBA,
        kinds=("falcon_mamba",),
        architecture="mamba",
        facts=(*MAMBA.facts, Fact("mixer_rms_eps", "attention.layer_norm_rms_epsilon", float)),
        constants={"ssm.dt_b_c_rms": True},
    ),
    "falcon-h1": Family(
        ("falcon_h1",),
        facts=(*MAMBA_OF_GRANITE, Fact("mamba_d_ssm", INNER)),
        fixed=SILU
        | {"attention_bias": False, "mlp_bias": False, "projectors_bias": False, "mamba_proj_bias": False}
        | {"mamba_conv_bias": True, "mamba_norm_before_gate": False, "time_step_limit": (0.0, math.inf)},
        biases={"mamba_rms_norm": ("ssm_norm.weight",)},
        lacks=(*_UNREAD_IN_FALCON_H1, *OF_THE_FIRST_STEP),
        mamba2=True,
        bare=("ffn_norm",),
        multiplied={
            "token_embd": ("embedding_multiplier",),
            "output": ("lm_head_multiplier",),
            "attn_q": ("attention_in_multiplier",),
            "attn_k": ("attention_in_multiplier", "key_multiplier"),
            "attn_v": ("attention_in_multiplier",),
            "attn_output": ("attention_out_multiplier",),
            "ffn_gate": ("mlp_multipliers.0",),
            "ffn_down": ("mlp_multipliers.1",),
            "ssm_in": ("ssm_in_multiplier", "ssm_multipliers"),
            "ssm_out": ("ssm_out_multiplier",),
        },
    ),
    "nemotron_h": Family(
        ("nemotron_h",),
        facts=(
            Fact("conv_kernel", "ssm.conv_kernel"),
            Fact("ssm_state_size", STATES),
            Fact("n_groups", GROUPS),
            Fact("mamba_num_heads", HEADS),
            Fact("layer_norm_epsilon", "attention.layer_norm_rms_epsilon", float),
        ),
        fixed={"mamba_hidden_act": "silu", "mlp_hidden_act": "relu2", "use_conv_bias": True}
        | {"use_bias": False, "mlp_bias": False, "time_step_min": NO_STEP},
        lacks=(*_UNREAD_IN_NEMOTRON_H, *OF_THE_FIRST_STEP),
        epsilon=_NORM_EPSILON,
        between="linear_attention",
        apart="mlp",
        rotary=False,
        mamba2=True,
        of_state="mamba_head_dim",
        head="own",
    ),
    "mamba2": replace(
        MAMBA,
        kinds=("mamba2",),
        facts=(*MAMBA.facts[:2], Fact("n_groups", GROUPS), Fact("num_heads", HEADS)),
        fixed={**MAMBA.fixed, "time_step_limit": (0.0, math.inf)},
        constants={},
        lacks=(*MAMBA.lacks, "time_step_rank"),
        mamba2=True,
        of_state="head_dim",
    ),
    "chameleon": Family(
        ("chameleon",),
        fixed=SILU | {"attention_bias": False, "mlp_bias": False, "swin_norm": False},
        constants={"swin_norm": False},
        implied=("head_dim",),
        lacks=("vq_config", "model_parallel_size", "image_token_id"),
        unsaid=range(4, 8196),
        interleaved=True,
    ),
    "paddleocr": Family(
        ("paddleocr_vl_text",),
        fixed=SILU | {"use_bias": False},
        inside="paddleocr_vl",
        sections=True,
    ),
}
FAMILIES = _DENSE | MIXTURES


def in_files(architecture: str) -> str:
    """What files call the architecture of a row."""
    return FAMILIES[architecture].architecture or architecture


def architecture_of(hf_config: Any) -> str:
    """The row of a model with this transformers config. Raises ExportError if there is none."""
    rows = [row for row, family in FAMILIES.items() if hf_config.model_type in family.kinds]
    for row in sorted(rows, key=lambda row: not FAMILIES[row].only):
        if all(getattr(hf_config, name, None) in values for name, values in FAMILIES[row].only.items()):
            return row
    known = ", ".join(kind for family in FAMILIES.values() for kind in family.kinds)
    raise ExportError(
        f"{hf_config.model_type} models can't be written as GGUF",
        "base.model",
        f"known: {known}",
        "--to merged writes a folder, which llama.cpp's convert_hf_to_gguf.py may know how to convert",
    )
