"""A transformers config in the one form that says what is computed, and what its attributes are called."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import Any

from sapwood.gguf.layers import in_rhythm, rhythm, settle_layers
from sapwood.gguf.rope import part_of, plain_rope
from sapwood.gguf.table.families import FAMILIES, architecture_of
from sapwood.gguf.table.family import Family, attribute

CONTEXT = 2048  # of models whose distances have no end, and whose config says nothing
ACTIVATIONS = ("hidden_act", "hidden_activation", "activation", "activation_function")
# llama.cpp has one of them, the last. It differs from the exact one by 5e-4 at most, which is less than
# rounding to 16 bits makes; the check of an export measures both.
GELU = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")
# llama.cpp has one epsilon for all norms. Two that are this small differ by less than rounding makes.
SMALL_EPSILON = 1e-5
IMPLIED: Mapping[str, Callable[[Any], int]] = {
    "num_key_value_heads": lambda config: config.num_attention_heads,
    "head_dim": lambda config: config.hidden_size // config.num_attention_heads,
    "intermediate_size": lambda config: 4 * config.hidden_size,
}
ROWS_OF_LAYERS = "vocab_size_per_layer_input"
# Kinds that compute as others do, at least for text: which others, and with what.
TWINS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "gemma4_unified_text": ("gemma4_text", {"hidden_size_per_layer_input": 0, "enable_moe_block": False}),
    "glm4v_text": ("glm4", {"attention_bias": True}),
    "glm_ocr_text": ("glm4", {"attention_bias": False}),
    "glm4v_moe_text": ("glm4_moe", {"use_qk_norm": False}),
    "solar_open": ("glm4_moe", {"use_qk_norm": False, "first_k_dense_replace": 0}),
}
UNSAID = "IMGIMG"  # how Chameleon names tokens of pictures begin, which it never says


def value_of(config: Any, family: Family, name: str) -> Any:
    """The value of a `Fact` by its attribute's name."""
    if name in family.implied:
        return IMPLIED[name](config)
    return reduce(getattr, attribute(family, name).split("."), config)


def flat(config: Any) -> dict[str, Any]:
    """All attributes by name; those of a config in it with its name and a point before theirs."""
    return flattened(config.to_dict(), type(config))


def flattened(values: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """Values for a class of configs, with those of configs in it as `flat` names them."""
    inner = {name: values[name] or {} for name in kind.sub_configs if name in values}
    own = {name: value for name, value in values.items() if name not in inner}
    return own | {f"{name}.{key}": value for name, some in inner.items() for key, value in some.items()}


def settled(config: Any) -> Any:
    """A config in the one form that says what is computed, and nothing that isn't: LFM2's class makes its
    MLPs narrower than their key says, GPT-2's may leave the width of its own out, Falcon's old layers are a
    kind of its new ones, and rotary embeddings have names for what everybody takes."""
    config = _as_twin(config) if config.model_type in TWINS else copy.copy(config)
    family = FAMILIES[architecture_of(config)]
    if family.by_layer:
        settle_layers(config)
    if getattr(config, "use_bidirectional_attention", None) == "vision":
        config.use_bidirectional_attention = None  # of pictures
    if getattr(config, "block_auto_adjust_ff_dim", False):
        width, times = int(2 * config.intermediate_size / 3), config.block_ffn_dim_multiplier
        if times is not None:
            width = -(-int(times * width) // config.block_multiple_of) * config.block_multiple_of
        config.intermediate_size, config.block_auto_adjust_ff_dim = width, False
    for name in ACTIVATIONS:
        if getattr(config, name, None) in GELU:
            setattr(config, name, GELU[-1])
    if getattr(config, "n_inner", 0) is None:
        config.n_inner = 4 * config.hidden_size
    if config.model_type == "bloom" and not hasattr(config, "max_position_embeddings"):
        config.max_position_embeddings = getattr(config, "seq_length", None) or CONTEXT
    if config.model_type == "falcon":
        _settle_falcon(config)
    if names := getattr(config, "vocabulary_map", None):
        config.vocabulary_map = unsaid_names(id for name, id in names.items() if name.startswith(UNSAID))
    if config.model_type == "dbrx":  # it reads no base but this one, and wants to find the other
        config.attn_config = copy.copy(config.attn_config)
        config.attn_config.rope_theta = config.rope_parameters["rope_theta"]
    if getattr(config, "topk_method", None) == "greedy":
        config.n_group = config.topk_group = None  # DeepSeek 2 doesn't read them then
    elif getattr(config, "topk_group", None) and config.topk_group == config.n_group:
        config.n_group = config.topk_group = 1  # all groups: llama.cpp ends if it is told so
    if family.latent and (kinds := getattr(config, "mlp_layer_types", None)):
        config.first_k_dense_replace = kinds.count("dense")  # GLM 4.7 Flash has a list for this number
    if family.rotated and getattr(config, family.rotated) != "rope":
        setattr(config, family.rotated, None)
    if hasattr(config, ROWS_OF_LAYERS):
        setattr(config, ROWS_OF_LAYERS, config.vocab_size)
    widths = getattr(config, "intermediate_size", None)
    if isinstance(widths, list) and len(set(widths)) == 1:  # Gemma 3n's, one for each layer
        config.intermediate_size = widths[0]
    inner = getattr(config, "mixer_rms_eps", None)
    if inner is not None and max(inner, config.layer_norm_epsilon) <= SMALL_EPSILON:
        config.mixer_rms_eps = config.layer_norm_epsilon
    for every, first, _ in family.rhythms:
        flags = in_rhythm(getattr(config, every), getattr(config, first), config.num_hidden_layers)
        if found := rhythm(flags):
            config.__dict__ |= {every: found[0], first: found[1]}
    for name in {name.partition(".")[0] for names in family.multiplied.values() for name in names}:
        told = getattr(config, name)
        setattr(config, name, [1.0] * len(told) if isinstance(told, list) else 1.0)
    if getattr(config, "mamba_rms_norm", True) is False:
        config.mamba_norm_before_gate = False  # there is none
    if getattr(config, "mamba_d_ssm", 0) is None:
        config.mamba_d_ssm = config.mamba_expand * config.hidden_size
    if rope := getattr(config, "rope_parameters", None):
        config.rope_parameters = ropes = settled_rope(rope, family)
        width = getattr(config, "head_dim", None) or IMPLIED["head_dim"](config)
        for one in ropes.values() if "full_attention" in ropes else [ropes]:
            if family.partial and not family.latent and (part := one.get("partial_rotary_factor")):
                one["partial_rotary_factor"] = part_of(int(width * part), width)  # 0.334 of 192 are 64
    return config


def _as_twin(config: Any) -> Any:
    """The config of the kind that computes the same."""
    from transformers import CONFIG_MAPPING

    kind, more = TWINS[config.model_type]
    values = {"head_dim": IMPLIED["head_dim"](config)} | config.to_dict() | more | {"model_type": kind}
    if "full_attention" not in (rope := values["rope_parameters"]):
        rope = {"partial_rotary_factor": 1.0} | rope  # what the twin takes if it is told nothing is its own
        values["rope_parameters"] = {name: value for name, value in rope.items() if name != "mrope_section"}
    known = CONFIG_MAPPING[kind]().to_dict().keys() | {"head_dim"}
    return CONFIG_MAPPING[kind].from_dict({name: value for name, value in values.items() if name in known})


def unsaid_names(ids: Iterable[int]) -> dict[str, int]:
    """A `vocabulary_map` in which these are the tokens of pictures."""
    return {f"{UNSAID}{id}Z": id for id in sorted(ids)}


def settled_rope(rope: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """``rope_parameters`` of a config, each in the form of `plain_rope`. That heads are turned whole is said
    by families alone in which they may not be: these have other ways to understand silence."""
    if "full_attention" in rope:
        return {kind: settled_rope(one, family) for kind, one in rope.items()}
    plain = plain_rope(rope)
    if not family.partial and plain.get("partial_rotary_factor") == 1.0:
        del plain["partial_rotary_factor"]
    return plain


def _settle_falcon(config: Any) -> None:
    """Its old layers are new ones with one norm, and one head of keys for all queries or for each."""
    if not config.new_decoder_architecture:
        config.num_kv_heads = 1 if config.multi_query else config.num_attention_heads
        config.new_decoder_architecture, config.multi_query, config.num_ln_in_parallel_attn = True, True, 1
    config.num_ln_in_parallel_attn = config.num_ln_in_parallel_attn or 2
