"""What can be said of one architecture of llama.cpp: the row of a table that `families` has; and what several
rows say alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

COUNT = "expert_count"


@dataclass(frozen=True, slots=True)
class Fact:
    """One value, as both sides name it.

    Attributes:
        config: attribute of the transformers config.
        key: in the file, below the architecture's name.
        number: ``int`` is written as uint32, ``float`` as float32, ``bool`` as it is.
        default: what llama.cpp takes if the file is silent; None: the file must say it, or another fact does.
        optional: None in the config, and a file that says 0, mean that something is off; so does a silent
            file, if there is no default.
    """

    config: str
    key: str
    number: type[int] | type[float] | type[bool] = int
    default: float | None = None
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture of llama.cpp.

    Attributes:
        kinds: transformers' ``model_type``s that it computes; a file is read as the first.
        only: of rows with the same kind, this one is for configs with one of these values of each attribute;
            one without is for all others.
        sign: tensor of the first layer that files of this row have; those of rows with the same name don't.
        architecture: the name in files, if another row has it already: one with experts, or with windows.
        facts: beside those of `COMMON`.
        fixed: config attributes with the one value that is computed.
        by_depth: config attributes with one value for a number of layers.
        constants: keys of a file with the one value that transformers computes; a file may leave them out,
            and must leave out those whose value is None.
        yarn: numbers of its YaRN beside those of every family, and their keys; "": no key says it.
        tempered: a file says YaRN's original context once more, as the length by which queries grow.
        log_unit: a file's multiplier of YaRN's logarithm is so many times transformers' ``mscale_all_dim``.
        between: what ``layer_types`` calls the layers without attention; a file gives them 0 heads of keys.
        apart: what ``layer_types`` calls layers that are an MLP alone; a file gives the others a width of 0.
        own_keys: so many first layers have keys of their own, which the others use; 0: all have.
        lacks: config attributes of `COMMON` that it doesn't have, or that its class doesn't read.
        names: what its config calls attributes of `COMMON`, if it calls them otherwise.
        implied: attributes of `COMMON` that a file says, and its config doesn't: they follow from others.
        inside: the model of transformers around it, if no class is for the language model by itself.
        sections: a file says how many frequencies turn by time, height and width, for pictures.
        turned: transformers has the stacks of experts with inputs as rows: what gate and up give stands by
            turns, or that of gate first; "": outputs are rows.
        one_below: transformers has the experts of a layer as three matrices, experts one below the other,
            that of down with inputs as rows.
        places: config attribute with the places of layers that have attention, if no list has all kinds.
        rhythms: config attributes with the period and the first of layers that have some tensor, and that
            tensor. Files have the tensors alone.
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
        rotary: it has a rotary embedding; False: positions are learnt, or distances are added (ALiBi).
        chunked: layers with a rotary embedding see a chunk only, the others everything.
        unturned: every so-manieth layer has no rotary embedding; 0: all have one.
        partial: the rotary embedding turns a part of each head.
        interleaved: rows of q and k stand in pairs in the file, in halves in transformers.
        grouped: q, k and v are one matrix; in transformers its rows stand in one group for each head of keys.
        across: tensors that transformers has with inputs as rows.
        norms_plus_one: norm weights have 1 added in the file.
        head: "tied": llama.cpp has no place for a head of its own; "own": none for a tied one.
        scalings: rotary scalings that it computes.
        local_theta: layers with a window have a rotary base of their own.
        by_layer: a file says for each layer whether it has a window, how many heads of keys, and the width
            of its MLP; a config has numbers for layers with a window and for others, see `layers`.
        doubled: layers with a window have twice as many heads of keys as others. A file says for each layer
            how many it has, and whether it has a window.
        experts_in: config attribute that lists for each layer whether it is "sparse", with experts, or
            "dense". Files have the tensors alone.
        equal_heads: keys have as many heads as queries.
        plain_windows: layers with a window have the same rotary base as the others, and no scaling.
        latent: keys and values of all heads come from one vector. A file has that product apart for keys and
            for values ("split"), or in one ("joined"); "": heads have keys and values of their own.
        mamba2: its layers without attention are those of Mamba 2.
        of_state: config attribute with the width of Mamba 2's heads, if its class needs to be told.
        expand: config attribute that says how many times wider than the model its states are.
        bare: tensors of a layer that have no .weight after their name in files.
        multiplied: tensors that a file has times numbers of the config, which then says 1. A list is for the
            parts of Mamba 2's projection; one of a list has a point before its place.
        unsaid: ids of tokens that llama.cpp never says, whatever the head does: those of pictures.
        rotated: config attribute that is "rope" if there is a rotary embedding, and else something else.
        unadapted: tensors whose products llama.cpp computes without adapters, or without the factor that
            follows: an adapter's product isn't multiplied by an expert's own scale.
    """

    kinds: tuple[str, ...]
    architecture: str = ""
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    sign: str = ""
    facts: tuple[Fact, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    by_depth: Mapping[str, Callable[[int], Any]] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    yarn: Mapping[str, str] = field(default_factory=dict)
    tempered: bool = False
    log_unit: float = 1.0
    between: str = ""
    apart: str = ""
    shared: str = ""
    inside: str = ""
    sections: bool = False
    own_keys: int = 0
    unadapted: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    implied: tuple[str, ...] = ()
    turned: Literal["by turns", "gate first", ""] = ""
    one_below: bool = False
    places: str = ""
    rhythms: tuple[tuple[str, str, str], ...] = ()
    every: int = 0
    by_key_heads: bool = False
    tiled: bool = False
    biases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    epsilon: Fact | None = Fact("rms_norm_eps", "attention.layer_norm_rms_epsilon", float, 1e-6)
    window: int = 0
    largest: int = 0
    other: int = 0
    rotary: bool = True
    unturned: int = 0
    chunked: bool = False
    partial: bool = False
    interleaved: bool = False
    grouped: bool = False
    across: tuple[str, ...] = ()
    norms_plus_one: bool = False
    head: Literal["either", "tied", "own"] = "either"
    scalings: tuple[str, ...] = ("default", "linear", "yarn")
    local_theta: bool = False
    plain_windows: bool = False
    by_layer: bool = False
    doubled: bool = False
    experts_in: str = ""
    equal_heads: bool = False
    latent: Literal["split", "joined", ""] = ""
    mamba2: bool = False
    of_state: str = ""
    expand: str = ""
    bare: tuple[str, ...] = ()
    multiplied: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unsaid: range = range(0)
    rotated: str = ""


COMMON = (
    Fact("hidden_size", "embedding_length"),
    Fact("intermediate_size", "feed_forward_length"),
    Fact("num_hidden_layers", "block_count"),
    Fact("num_attention_heads", "attention.head_count"),
    Fact("num_key_value_heads", "attention.head_count_kv"),
    Fact("head_dim", "attention.key_length"),
    Fact("max_position_embeddings", "context_length"),
)


def facts_of(family: Family) -> tuple[Fact, ...]:
    """All that a file of the family can carry."""
    common = [fact for fact in COMMON if fact.config not in family.lacks]
    return (*common, *([family.epsilon] if family.epsilon else []), *family.facts)


def told_by(family: Family, key: str) -> str:
    """The config attribute that a key of its files says."""
    return next(fact.config for fact in facts_of(family) if fact.key == key)


def fixed_of(family: Family, layers: int) -> dict[str, Any]:
    """Config attributes of a model with so many layers that llama.cpp computes with one value."""
    return {**family.fixed, **{name: value(layers) for name, value in family.by_depth.items()}}


def has_attention(family: Family) -> bool:
    """Whether some layer of its models has attention. Positions have no end if none has."""
    return WITHOUT_ATTENTION[0] not in family.lacks


def has_experts(family: Family) -> bool:
    """Whether its files are mixtures of experts."""
    return any(fact.key == COUNT for fact in family.facts)


def attribute(family: Family, name: str) -> str:
    """What the family's config calls an attribute of a `Fact`. One of a config in it has a point."""
    return family.names.get(name, name)


# --- what several rows have -------------------------------------------------------------------------------

PATTERN = "attention.sliding_window_pattern"
WITHOUT_ATTENTION = ("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings")
SILU = {"hidden_act": "silu"}
GELU = {"hidden_activation": "gelu_pytorch_tanh"}
QKV = ("attn_q", "attn_k", "attn_v")
LLAMA3 = ("default", "linear", "yarn", "llama3")
NORM_EPS = Fact("norm_eps", "attention.layer_norm_rms_epsilon", float, 1e-5)
KERNEL = Fact("conv_L_cache", "shortconv.l_cache")
WINDOW = Fact("sliding_window", "attention.sliding_window", int, 4096)
MULTIPLIERS = (
    Fact("embedding_multiplier", "embedding_scale", float, 1.0),
    Fact("residual_multiplier", "residual_scale", float, 1.0),
    Fact("attention_multiplier", "attention.scale", float),
    Fact("logits_scaling", "logit_scale", float),
)
DELTA_NETWORK = (
    Fact("linear_conv_kernel_dim", "ssm.conv_kernel"),
    Fact("linear_key_head_dim", "ssm.state_size"),
    Fact("linear_num_key_heads", "ssm.group_count"),
    Fact("linear_num_value_heads", "ssm.time_step_rank"),
)
QWEN35 = Family(
    ("qwen3_5_text",),
    facts=DELTA_NETWORK,
    fixed=SILU | {"attention_bias": False},
    between="linear_attention",
    every=4,
    tiled=True,
    sections=True,
    partial=True,
    norms_plus_one=True,
    scalings=("default",),
)
GEMMA4 = Family(
    ("gemma4_text", "gemma4_unified_text"),
    facts=(
        WINDOW,
        Fact("sliding_head_dim", "attention.key_length_swa"),
        Fact("num_kv_shared_layers", "attention.shared_kv_layers", int, 0),
        Fact("hidden_size_per_layer_input", "embedding_length_per_layer_input", int, 0),
        Fact("final_logit_softcapping", "final_logit_softcapping", float, 30.0, optional=True),
    ),
    fixed=GELU | {"attention_bias": False, "use_bidirectional_attention": None, "enable_moe_block": False},
    names={"head_dim": "global_head_dim", "sliding_head_dim": "head_dim"},
    lacks=("num_key_value_heads", "intermediate_size"),
    window=6,
    by_layer=True,
    local_theta=True,
    scalings=("proportional",),
    unadapted=("per_layer_model_proj",),
)
QWEN3VL = Family(("qwen3_vl_text",), fixed=SILU | {"attention_bias": False}, inside="qwen3_vl", sections=True)

KV_RANK = Fact("kv_lora_rank", "attention.kv_lora_rank")
LATENT = ("attn_q", "attn_q_a", "attn_q_b", "attn_kv_a_mqa", "attn_kv_b", "attn_k_b", "attn_v_b")
OF_THE_FIRST_STEP = (  # what begins a training from nothing, and which of several ways is computed by
    *("time_step_scale", "time_step_min", "time_step_max", "time_step_init_scheme", "time_step_floor"),
    *("rescale_prenorm_residual", "residual_in_fp32", "use_mambapy", "use_associative_scan", "chunk_size"),
)
MAMBA_OF_GRANITE = (
    Fact("mamba_d_conv", "ssm.conv_kernel"),
    Fact("mamba_d_state", "ssm.state_size"),
    Fact("mamba_n_groups", "ssm.group_count"),
    Fact("mamba_n_heads", "ssm.time_step_rank"),
)
MAMBA = Family(
    ("mamba",),
    facts=(
        Fact("conv_kernel", "ssm.conv_kernel"),
        Fact("state_size", "ssm.state_size"),
        Fact("time_step_rank", "ssm.time_step_rank"),
    ),
    fixed=SILU | {"expand": 2, "use_bias": False, "use_conv_bias": True},
    constants={"ssm.dt_b_c_rms": False},
    lacks=(*WITHOUT_ATTENTION, "intermediate_size", *OF_THE_FIRST_STEP),
    epsilon=Fact("layer_norm_epsilon", "attention.layer_norm_rms_epsilon", float),
    rotary=False,
    expand="expand",
)
BAMBA = Family(
    ("bamba",),
    architecture="granitehybrid",
    facts=MAMBA_OF_GRANITE,
    fixed=SILU
    | {"time_step_limit": (0.0, math.inf), "mlp_bias": False}
    | {"mamba_expand": 2, "mamba_conv_bias": True, "mamba_proj_bias": False},
    constants=dict.fromkeys(fact.key for fact in MULTIPLIERS) | {"rope.scaling.finetuned": True},
    biases={"attention_bias": (*QKV, "attn_output")},
    lacks=("num_logits_to_keep", "z_loss_coefficient", "attn_rotary_emb"),
    between="linear_attention",
    places="attn_layer_indices",
    interleaved=True,
    partial=True,
    mamba2=True,
    expand="mamba_expand",
)
GRANITE_HYBRID = Family(
    ("granitemoehybrid",),
    only={"num_local_experts": (0,)},
    facts=(*MULTIPLIERS, *MAMBA_OF_GRANITE, Fact("shared_intermediate_size", "feed_forward_length")),
    fixed=SILU
    | {"time_step_limit": (0.0, math.inf)}
    | {"num_local_experts": 0, "mamba_expand": 2, "mamba_conv_bias": True, "mamba_proj_bias": False},
    biases={"attention_bias": (*QKV, "attn_output")},
    lacks=("intermediate_size", "num_experts_per_tok"),
    between="linear_attention",
    interleaved=True,
    mamba2=True,
    expand="mamba_expand",
    rotated="position_embedding_type",
)
