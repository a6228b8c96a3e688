"""What llama.cpp computes for each architecture, and where a transformers config says it.

One table, read from when a GGUF file becomes a config and when a config becomes a GGUF file. Values that a
file can carry are `Fact`s. Values that llama.cpp computes in one way only, whatever a file says, are
``fixed``: a config that says otherwise has no GGUF form. The source is llama.cpp's ``src/models``; every row
is held against the library itself by `tests/export/test_facts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sapwood.errors import ExportError

SILU, GELU = {"hidden_act": "silu"}, {"hidden_activation": "gelu_pytorch_tanh"}
QKV, MLP = ("attn_q", "attn_k", "attn_v"), ("ffn_gate", "ffn_up", "ffn_down")


@dataclass(frozen=True, slots=True)
class Fact:
    """One value, as both sides name it.

    Attributes:
        config: attribute of the transformers config.
        key: in the file, below the architecture's name.
        number: ``int`` is written as uint32, ``float`` as float32, ``bool`` as it is.
        default: what llama.cpp takes if the file is silent; None: the file must say it, or another fact does.
    """

    config: str
    key: str
    number: type[int] | type[float] | type[bool] = int
    default: float | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture of llama.cpp.

    Attributes:
        kinds: transformers' ``model_type``s that it computes; a file is read as the first.
        architecture: the name in files, if another row has it already: one with experts, or with windows.
        facts: beside those of `COMMON`.
        fixed: config attributes with the one value that is computed.
        by_depth: config attributes with one value for a number of layers.
        constants: keys of a file with the one value that transformers computes; a file may leave them out.
        yarn: numbers of its YaRN beside those of every family, and their keys; "": no key says it.
        between: what ``layer_types`` calls the layers without attention; a file gives them 0 heads of keys.
        own_keys: so many first layers have keys of their own, which the others use; 0: all have.
        unadapted: tensors whose products llama.cpp computes without adapters.
        lacks: config attributes of `COMMON` that it doesn't have.
        inside: the model of transformers around it, if no class is for the language model by itself.
        sections: a file says how many frequencies turn by time, height and width, for pictures.
        turned: transformers has the stacks of experts with inputs as rows, and those of gate and up by turns.
        every: the last of so many layers has attention, the others are those ``between``.
        by_key_heads: linear attention with one projection in transformers, by heads of keys, see `layout`.
        tiled: linear attention with heads of values in another order, see `layout`.
        shared: config attribute with the number of shared experts, whose width a file says too.
        biases: switches of the config, and the tensors that get a bias by them, or that are there by them.
        epsilon: of the norms; None: it is one of the `constants`.
        window: how many layers make one pattern of sliding windows, the last of which sees all; 0: no layer
            has a window.
        largest: number of layers by which llama.cpp knows the size whose queries are scaled by
            hidden_size / heads; others are scaled by the head's width.
        other: number of layers by which llama.cpp takes a model for another one, which has windows.
        unturned: every so-manieth layer has no rotary embedding; 0: all have one.
        partial: the rotary embedding turns a part of each head.
        interleaved: rows of q and k stand in pairs in the file, in halves in transformers.
        norms_plus_one: norm weights have 1 added in the file.
        head: "tied": llama.cpp has no place for a head of its own; "own": none for a tied one.
        scalings: rotary scalings that it computes.
        local_theta: layers with a window have a rotary base of their own.
        equal_heads: keys have as many heads as queries.
        plain_windows: layers with a window have the same rotary base as the others, and no scaling.
    """

    kinds: tuple[str, ...]
    architecture: str = ""
    facts: tuple[Fact, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    by_depth: Mapping[str, Callable[[int], Any]] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    yarn: Mapping[str, str] = field(default_factory=dict)
    between: str = ""
    shared: str = ""
    inside: str = ""
    sections: bool = False
    own_keys: int = 0
    unadapted: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    turned: bool = False
    every: int = 0
    by_key_heads: bool = False
    tiled: bool = False
    biases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    epsilon: Fact | None = Fact("rms_norm_eps", "attention.layer_norm_rms_epsilon", float, 1e-6)
    window: int = 0
    largest: int = 0
    other: int = 0
    unturned: int = 0
    partial: bool = False
    interleaved: bool = False
    norms_plus_one: bool = False
    head: Literal["either", "tied", "own"] = "either"
    scalings: tuple[str, ...] = ("default", "linear", "yarn")
    local_theta: bool = False
    plain_windows: bool = False
    equal_heads: bool = False


COMMON = (
    Fact("hidden_size", "embedding_length"),
    Fact("intermediate_size", "feed_forward_length"),
    Fact("num_hidden_layers", "block_count"),
    Fact("num_attention_heads", "attention.head_count"),
    Fact("num_key_value_heads", "attention.head_count_kv"),
    Fact("head_dim", "attention.key_length"),
    Fact("max_position_embeddings", "context_length"),
)
_LAYER_NORM = Fact("layer_norm_eps", "attention.layer_norm_epsilon", float, 1e-5)
_NORM_EPS = Fact("norm_eps", "attention.layer_norm_rms_epsilon", float, 1e-5)
_KERNEL = Fact("conv_L_cache", "shortconv.l_cache")
_LOGIT_SCALE = Fact("logit_scale", "logit_scale", float)
_LLAMA3 = ("default", "linear", "yarn", "llama3")
_WINDOW = Fact("sliding_window", "attention.sliding_window", int, 4096)

_MULTIPLIERS = (
    Fact("embedding_multiplier", "embedding_scale", float, 1.0),
    Fact("residual_multiplier", "residual_scale", float, 1.0),
    Fact("attention_multiplier", "attention.scale", float),
    Fact("logits_scaling", "logit_scale", float),
)
COUNT = "expert_count"
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
_SHARED_WIDTH = Fact("shared_expert_intermediate_size", "expert_shared_feed_forward_length")
_DELTA_NETWORK = (
    Fact("linear_conv_kernel_dim", "ssm.conv_kernel"),
    Fact("linear_key_head_dim", "ssm.state_size"),
    Fact("linear_num_key_heads", "ssm.group_count"),
    Fact("linear_num_value_heads", "ssm.time_step_rank"),
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

# By llama.cpp's name, or by transformers' if that one is taken.
FAMILIES = {
    "llama": Family(
        ("llama", "mistral", "ministral"),
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
        fixed=SILU | {"attention_bias": False, "clip_qkv": None},
        constants={_LAYER_NORM.key: 1e-5},
        epsilon=None,
        interleaved=True,
    ),
    "phi2": Family(
        ("phi",),
        fixed={"hidden_act": "gelu_new", "qk_layernorm": False},
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
    "granitemoe": Family(
        ("granitemoe",),
        facts=(*_MULTIPLIERS, *_LOCAL_EXPERTS),
        fixed=SILU,
        biases={"attention_bias": (*QKV, "attn_output")},
        interleaved=True,
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


def facts_of(family: Family) -> tuple[Fact, ...]:
    """All that a file of the family can carry."""
    common = [fact for fact in COMMON if fact.config not in family.lacks]
    return (*common, *([family.epsilon] if family.epsilon else []), *family.facts)


def fixed_of(family: Family, layers: int) -> dict[str, Any]:
    """Config attributes of a model with so many layers that llama.cpp computes with one value."""
    return {**family.fixed, **{name: value(layers) for name, value in family.by_depth.items()}}


def has_experts(family: Family) -> bool:
    """Whether its files are mixtures of experts."""
    return any(fact.key == COUNT for fact in family.facts)


def in_files(architecture: str) -> str:
    """What files call the architecture of a row."""
    return FAMILIES[architecture].architecture or architecture


def architecture_of(hf_config: Any) -> str:
    """The row of a model with this transformers config. Raises ExportError if there is none."""
    for architecture, family in FAMILIES.items():
        if hf_config.model_type in family.kinds:
            return architecture
    known = ", ".join(kind for family in FAMILIES.values() for kind in family.kinds)
    raise ExportError(
        f"{hf_config.model_type} models can't be written as GGUF",
        "base.model",
        f"known: {known}",
        "--to merged writes a folder, which llama.cpp's convert_hf_to_gguf.py may know how to convert",
    )
