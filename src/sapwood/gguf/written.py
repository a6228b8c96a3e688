"""A transformers config as a GGUF file's keys, and what in it has no place there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sapwood.errors import ExportError, Problem
from sapwood.gguf.facts import CHOSEN, LOCAL_THETA, OTHER_WINDOWS, ROTATED, query_scale
from sapwood.gguf.latent import NAMES, latent_values, unwritable_latent
from sapwood.gguf.layers import (
    WIDTH,
    doubled_values,
    period,
    periodic,
    turned,
    types_by,
    values_by_layer,
    window_of,
)
from sapwood.gguf.rope import rope_values, unwritable_rope
from sapwood.gguf.settled import flat, settled, value_of
from sapwood.gguf.table.families import (
    DEEPSTACK,
    FAMILIES,
    HEADS,
    INNER,
    INTERVAL,
    SECTIONS,
    architecture_of,
    in_files,
)
from sapwood.gguf.table.family import (
    PATTERN,
    Family,
    attribute,
    facts_of,
    fixed_of,
    has_attention,
    told_by,
)

SHARED_WIDTH = "expert_shared_feed_forward_length"
# llama.cpp wants to find these keys, and reads none of them of a model without attention.
UNREAD_SIZES = {"attention.head_count": 0, WIDTH: 0}
ENDLESS = 1 << 20  # the context that a file promises of a model without attention
SHORTEST_CONTEXT = 1024  # of a model whose window becomes its context: a shorter one is of no use
# Attributes without influence on what a model says, or that the tokenizer, the tensors and the rules below
# tell. Any other attribute that isn't in the table and isn't its class's default has no place in a file.
ELSEWHERE = {
    *("vocab_size", "tie_word_embeddings", "rope_parameters", "layer_types", "query_pre_attn_scalar"),
    *("use_sliding_window", "sliding_window", "max_window_layers", "_sliding_window_pattern"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "attention_dropout", "initializer_range"),
    *("use_cache", "pretraining_tp", "cache_implementation", "model_type", "dtype", "torch_dtype"),
    *("architectures", "transformers_version", "_name_or_path", "auto_map", "id2label", "label2id"),
    *("problem_type", "output_hidden_states", "output_attentions", "return_dict"),
    *("chunk_size_feed_forward", "hidden_act", "hidden_activation", "head_dim", "eod_token_id"),
    *("no_rope_layers", "no_rope_layer_interval", "sliding_window_pattern"),
    *("original_max_position_embeddings", "resid_pdrop", "embd_pdrop"),  # Phi's; the first is longrope's
    *("residual_dropout", "embedding_dropout", "hidden_dropout"),
    *("full_attention_interval", "mtp_num_hidden_layers"),  # of Qwen 3.5, as the next two
    *("mamba_ssm_dtype", "attn_output_gate"),
    *("linear_value_head_dim", "mlp_only_layers"),
    *("output_router_logits", "router_aux_loss_coef", "router_jitter_noise"),  # of training a router
    *("num_nextn_predict_layers", "num_mtp_layers", "sep_token_id", "moe_layer_end_index"),
    *("full_attn_idxs", "block_multiple_of", "block_ffn_dim_multiplier"),
    *("block_dim", "block_mlp_init_scale", "block_norm_eps", "block_out_init_scale"),  # LFM2's, which its
    *("block_use_swiglu", "block_use_xavier_init", "conv_dim", "conv_dim_out"),  # class doesn't read
    *("conv_use_xavier_init", "num_heads", "theta", "use_pos_enc", "embedding_initializer_range"),
    *("mamba_chunk_size", "mamba_d_head"),  # the first changes the order of sums, others tell the second
    *("mlp_layer_types", "moe_layers", "vocabulary_map"),  # see `_unwritable_layers`
    *("attention_k_eq_v", "use_double_wide_mlp", "num_global_key_value_heads"),  # see `layers`
    *("altup_coef_clip", "vocab_size_per_layer_input"),  # Gemma 3n's: of its training; see `layout`
    *("emb_pdrop", "classifier_dropout", "summary_type", "summary_use_proj"),  # GPT-2's and
    *("summary_activation", "summary_proj_to_labels", "summary_first_dropout", "n_ctx"),  # those after it
    *("task_specific_params", "gradient_checkpointing", "attention_softmax_in_fp32"),
    *("scale_attention_softmax_in_fp32", "inference_runner", "max_batch_size", "max_sequence_length"),
    *("pad_key_length", "pre_allocate_kv_cache", "validate_runner_input"),  # StarCoder's
    *("seq_length", "unk_token_id", "masked_softmax_fusion", "bias_dropout_fusion", "offset_alibi"),
    *("skip_bias_add", "skip_bias_add_qkv", "n_embed", "apply_residual_connection_post_layernorm"),  # BLOOM's
    *("init_config", "init_device", "norm_type", "embedding_fraction", "verbose", "tokenizer_name"),  # MPT's
    *("attn_impl", "attn_pdrop", "learned_pos_emb"),
}


def file_values(config: Any, whole: Any = None) -> dict[str, Any]:
    """A config in the format's words, keys with the architecture's name before them. ``whole``: of the
    wrapper around the model, if there is one: a file says to how many layers pictures are added.

    Raises ExportError as `refuse_unwritable`.
    """
    refuse_unwritable(config)
    given, config, architecture = config, settled(config), architecture_of(config)
    family, width = FAMILIES[architecture], head_width(config)
    values: dict[str, Any] = {"vocab_size": config.vocab_size}
    values |= {"attention.value_length": width} if has_attention(family) else UNREAD_SIZES
    for fact in facts_of(family):
        value = width if fact.config == "head_dim" else value_of(config, family, fact.config)
        if value is not None:
            values[fact.key] = fact.number(value)
        elif fact.optional and fact.default is not None:
            values[fact.key] = fact.number(0)
    values |= {key: value for key, value in family.constants.items() if value is not None}
    if family.rotary:
        values |= rope_values(family, global_rope(config), width)
    if family.by_layer:
        values |= values_by_layer(config)
    elif family.doubled:
        values |= doubled_values(config)
    elif family.window:
        values[PATTERN] = period(config.layer_types)
    if family.local_theta:
        values[LOCAL_THETA] = float(config.rope_parameters["sliding_attention"]["rope_theta"])
    if family.every:
        values[INTERVAL] = period(config.layer_types, family.between)
        values[INNER] = config.linear_value_head_dim * config.linear_num_value_heads
    elif family.between:
        kinds = config.layer_types
        values["attention.head_count_kv"] = [
            config.num_key_value_heads if kind == "full_attention" else 0 for kind in kinds
        ]
    if family.apart:
        values[WIDTH] = [
            config.intermediate_size if kind == family.apart else 0 for kind in config.layer_types
        ]
    if family.rotated:
        values[ROTATED] = getattr(config, family.rotated) == "rope"
    if family.of_state:
        values[INNER] = getattr(config, family.of_state) * getattr(config, told_by(family, HEADS))
    elif family.expand:
        values[INNER] = int(getattr(config, family.expand) * config.hidden_size)
    if family.sections:
        values[SECTIONS] = [*_sections(given, values["rope.dimension_count"] // 2), 0]
    pictures = getattr(getattr(whole, "vision_config", None), "deepstack_visual_indexes", None)
    if family.inside and pictures:
        values[DEEPSTACK] = len(pictures)
    if family.shared:
        values[SHARED_WIDTH] = getattr(config, family.shared) * config.moe_intermediate_size
    values["context_length"] = context_of(config)
    if family.latent:
        values |= latent_values(config, family)
    return {f"{in_files(architecture)}.{key}": value for key, value in values.items()}


def _sections(config: Any, frequencies: int) -> list[int]:
    """How many of a head's frequencies turn by time, height and width: by turns, if the config says nothing.
    Of text all turn alike; llama.cpp turns none that is in no section."""
    return global_rope(config).get("mrope_section") or [(frequencies + 2 - axis) // 3 for axis in range(3)]


def context_of(config: Any) -> int:
    """Tokens that a GGUF file promises. If llama.cpp has no windows for the architecture, that is the
    window's width, and of GLM's sparse attention the number of tokens that it chooses: up to there, both
    compute the same."""
    family = FAMILIES[architecture_of(config)]
    if not has_attention(family):
        return ENDLESS
    longest = value_of(settled(config), family, "max_position_embeddings")
    longest = min(longest, getattr(config, CHOSEN, longest))
    return min(longest, window_of(config) or longest) if not family.window else longest


def refuse_unwritable(config: Any) -> None:
    """Raises ExportError with everything in a config that llama.cpp would compute otherwise, or leave out."""
    given, config, architecture = config, settled(config), architecture_of(config)
    family = FAMILIES[architecture]
    told = {stored_name(config, attribute(family, fact.config)) for fact in facts_of(family)}
    told |= {name for rhythm in family.rhythms for name in rhythm[:2]}
    told |= {family.places, family.of_state}
    told |= family.biases.keys() | (NAMES if family.latent else set()) | {family.rotated}
    fixed = fixed_of(family, config.num_hidden_layers)
    found = {name: getattr(config, name, None) for name in fixed}
    odd = {name: value for name, value in found.items() if not _same(value, fixed[name])}
    facts = [fact for fact in facts_of(family) if not fact.optional]
    own = {fact.config: value_of(config, family, fact.config) for fact in facts}
    told_by_facts = {fact.config for fact in family.facts}
    odd |= {
        name: value
        for name, value in own.items()
        if isinstance(value, list) or (value is None and name in told_by_facts)
    }
    defaults = flat(type(config)())
    odd |= {
        name: value
        for name, value in flat(config).items()
        if name not in told | fixed.keys() and value != defaults.get(name)
        if name.rpartition(".")[2] not in ELSEWHERE
        if not {name, name.partition(".")[0]} & set(family.lacks)
    }
    where = f"llama.cpp's {architecture} takes the embedding for it"
    problems = [
        Problem(
            f"GGUF can't store {name}: {value!r}", name, f"llama.cpp's {architecture} has no such setting"
        )
        for name, value in odd.items()
    ]
    problems += _unwritable_twins(config, family, architecture)
    problems += _unwritable_ends(given, family)
    if family.head == "tied" and not config.tie_word_embeddings:
        problems.append(Problem("GGUF can't store a separate output head", "tie_word_embeddings", where))
    if family.head == "own" and config.tie_word_embeddings:
        why = f"llama.cpp's {architecture} looks for a head of its own"
        problems.append(Problem("GGUF can't store a tied output head", "tie_word_embeddings", why))
    if family.rotary:
        problems += unwritable_rope(global_rope(config), architecture)
        part = global_rope(config).get("partial_rotary_factor", 1.0)
        if family.partial and (count := int(head_width(config) * part)) % 2:
            what = f"GGUF can't store partial_rotary_factor: {part}"
            why = f"llama.cpp's {architecture} turns pairs, and this would be {count} numbers of a head"
            problems.append(Problem(what, "rope_parameters", why))
    if sum(sections := global_rope(given).get("mrope_section") or []) > head_width(config):
        why = f"llama.cpp's {architecture} takes no more than a head has numbers, {head_width(config)}"
        problems.append(Problem(f"GGUF can't store mrope_section: {sections}", "rope_parameters", why))
    problems += _unwritable_layers(config, family, architecture)
    if problems:
        raise ExportError(problems)


def _unwritable_twins(config: Any, family: Family, architecture: str) -> list[Problem]:
    """Attributes that a file has one value for, if they differ."""
    told: dict[str, Any] = {}
    problems: list[Problem] = []
    for fact in facts_of(family):
        value = value_of(config, family, fact.config)
        if (first := told.setdefault(fact.key, value)) != value:
            why = f"llama.cpp's {architecture} takes {first!r}"
            problems.append(Problem(f"GGUF can't store {fact.config}: {value!r}", fact.config, why))
    return problems


def _unwritable_ends(config: Any, family: Family) -> list[Problem]:
    """Multipliers of an embedding and of its head, if both are one matrix."""
    ends = [family.multiplied.get(end, ()) for end in ("token_embd", "output")]
    times = [math.prod(getattr(config, name) for name in names) for names in ends]
    if times[0] == times[1] or not config.tie_word_embeddings:
        return []
    why = f"a file has the matrix times {times[0]:g} for the embedding, and times {times[1]:g} for the head"
    return [Problem("GGUF can't store a tied output head", "tie_word_embeddings", why)]


def stored_name(config: Any, name: str) -> str:
    """The name under which a config keeps the value that its class calls ``name``."""
    return type(config).attribute_map.get(name, name)


def _same(a: Any, b: Any) -> bool:
    """Whether two values of a config mean the same: False, None and 0 all mean that something is off,
    and what a class keeps as a tuple is a list in JSON."""
    if isinstance(a, list) and isinstance(b, tuple):
        return tuple(a) == b
    return a == b or not (a or b)


def _unwritable_layers(config: Any, family: Family, architecture: str) -> list[Problem]:
    where = f"llama.cpp's {architecture}"
    problems: list[Problem] = []
    if config.num_hidden_layers == family.other:
        problems.append(Problem(OTHER_WINDOWS.format(family.other), "num_hidden_layers", where))
    if family.equal_heads and config.num_key_value_heads != config.num_attention_heads:
        what = f"GGUF can't store {config.num_key_value_heads} heads of keys"
        why = f"{where} takes as many as the queries have, {config.num_attention_heads}"
        problems.append(Problem(what, "num_key_value_heads", why))
    if family.latent:
        problems += unwritable_latent(config, family, where)
    original = global_rope(config).get("original_max_position_embeddings", 0)
    if global_rope(config).get("rope_type") == "longrope" and config.max_position_embeddings > original:
        why = f"{where} takes its factors by the context that it is started with, not by a text's length"
        what = f"GGUF can't store longrope for more than {original} tokens"
        problems.append(Problem(what, "max_position_embeddings", why))
    last = config.num_hidden_layers - 1
    if getattr(config, "moe_layer_end_index", last) != last:
        what, why = (
            f"GGUF can't store experts up to layer {config.moe_layer_end_index}",
            f"{where} has them to the end",
        )
        problems.append(Problem(what, "moe_layer_end_index", why))
    kinds = ([] if family.experts_in else getattr(config, "mlp_layer_types", None)) or []
    if kinds != sorted(kinds) or kinds.count("dense") not in (0, getattr(config, "first_k_dense_replace", 0)):
        why = f"in {where} the first {config.first_k_dense_replace} layers have none, all others have"
        problems.append(Problem("layers without experts are others", "mlp_layer_types", why))
    if family.unturned and config.no_rope_layers != turned(family.unturned, config.num_hidden_layers):
        why = f"in {where} every {family.unturned}th layer has none"
        problems.append(Problem("layers without a rotary embedding are others", "no_rope_layers", why))
    if family.unsaid and list((config.vocabulary_map or {}).values()) != list(family.unsaid):
        why = f"{where} never says tokens {family.unsaid.start} to {family.unsaid.stop - 1}"
        problems.append(Problem("tokens of pictures are others", "vocabulary_map", why))
    if family.chunked:
        problems += _unwritable_chunks(config, family, where)
    own = last + 1 - (getattr(config, "num_kv_shared_layers", 0) or 0)
    if own <= last and config.layer_types[max(own - 2, 0) : own] != types_by([True, False]):
        where_from = f"layers from {own} on use keys of the two before them"
        why = f"in {where} {where_from}: one with a window, one without"
        problems.append(Problem("GGUF can't store this order of sliding windows", "layer_types", why))
    if family.every:
        return problems + _unwritable_linear(config, family, where)
    kinds = (
        set(config.layer_types) - {"full_attention", family.between, family.apart}
        if family.between
        else set()
    )
    if kinds:
        what = f"GGUF can't store layers of the kind {', '.join(sorted(kinds))}"
        problems.append(Problem(what, "layer_types", f"{where} has none"))
    if family.apart and family.apart not in config.layer_types:
        why = f"in {where} some layer must be one"
        problems.append(Problem("GGUF can't store a model without an MLP", "layer_types", why))
    if family.between and "full_attention" not in config.layer_types:
        why = f"in {where} some layer must have it"
        problems.append(Problem("GGUF can't store a model without attention", "layer_types", why))
    if not family.window:
        return problems + _unwritable_window(config, where)
    return problems + _unwritable_windows(config, family, where)


def _unwritable_windows(config: Any, family: Family, where: str) -> list[Problem]:
    """Of layers of which some have a window: their order, the scale of their queries, their rotary base."""
    problems: list[Problem] = []
    rule = f"every {family.constants.get(PATTERN, 'n')}-th layer must see the whole context"
    if family.by_layer or family.doubled:
        every = family.window if "sliding_attention" in config.layer_types else None
        rule = "some layer must have a window"
    else:
        every = period(config.layer_types)
    if every is None or family.constants.get(PATTERN, every) != every:
        what = "GGUF can't store this order of sliding windows"
        problems.append(Problem(what, "layer_types", f"in {where} {rule}"))
    wanted = query_scale(family, {**config.to_dict(), "head_dim": head_width(config)})
    if family.largest and config.query_pre_attn_scalar != wanted:
        what = f"GGUF can't store query_pre_attn_scalar: {config.query_pre_attn_scalar}"
        problems.append(Problem(what, "query_pre_attn_scalar", f"{where} computes {wanted}"))
    if family.local_theta or family.plain_windows:
        local = config.rope_parameters["sliding_attention"]
        odd = {k: v for k, v in local.items() if k != "rope_theta" and v not in ("default", 1.0, None)}
        if family.partial:
            told = [rope.get("partial_rotary_factor") for rope in (global_rope(config), local)]
            odd.pop("partial_rotary_factor", None)
            if None in told or told[0] != told[1]:
                odd["partial_rotary_factor"] = told[1]
        if family.plain_windows and local["rope_theta"] != global_rope(config)["rope_theta"]:
            odd["rope_theta"] = local["rope_theta"]
        problems += [
            Problem(f"GGUF can't store {name}: {value!r} for layers with a window", "rope_parameters", where)
            for name, value in odd.items()
        ]
    return problems


def _unwritable_chunks(config: Any, family: Family, where: str) -> list[Problem]:
    """Layers of Llama 4 that see a chunk, and those with experts, in an order that no key says."""
    problems: list[Problem] = []
    layers, step = config.num_hidden_layers, config.interleave_moe_layer_step
    if config.layer_types != types_by(periodic(family.unturned, layers), "chunked_attention"):
        why = f"in {where} every {family.unturned}th layer sees everything, the others a chunk"
        problems.append(Problem("layers that see everything are others", "layer_types", why))
    if config.moe_layers != list(range(step - 1, layers, step)):
        why = f"in {where} each last of {step} layers has them, by interleave_moe_layer_step"
        problems.append(Problem("layers with experts are others", "moe_layers", why))
    return problems


def _unwritable_linear(config: Any, family: Family, where: str) -> list[Problem]:
    problems: list[Problem] = []
    if period(config.layer_types, family.between) is None:
        why = f"in {where} every n-th layer must have attention"
        problems.append(Problem("GGUF can't store this order of linear attention", "layer_types", why))
    if config.linear_value_head_dim != config.linear_key_head_dim:
        what = f"GGUF can't store heads of values of {config.linear_value_head_dim} numbers"
        why = f"{where} takes as many as for keys, {config.linear_key_head_dim}"
        problems.append(Problem(what, "linear_value_head_dim", why))
    return problems


def _unwritable_window(config: Any, where: str) -> list[Problem]:
    window = window_of(config)
    if window is None or window >= min(config.max_position_embeddings, SHORTEST_CONTEXT):
        return []
    why = f"{where} has no windows, so the file's context would be {window} tokens"
    return [
        Problem(f"GGUF can't store a sliding window of {window} tokens for this model", "sliding_window", why)
    ]


def global_rope(config: Any) -> Mapping[str, Any]:
    """``rope_parameters`` of the layers that see everything."""
    rope = getattr(config, "rope_parameters", None) or {}
    return rope.get("full_attention", rope)


def head_width(config: Any) -> int:
    """Numbers of one head, in layers that see everything; 0 for a model without attention."""
    if getattr(config, "is_heterogeneous", False):
        config = config.per_layer_config[config.layer_types.index("full_attention")]
    heads = getattr(config, "num_attention_heads", 0)
    told = getattr(config, "global_head_dim", None) or getattr(config, "head_dim", None)
    return (told or config.hidden_size // heads) if heads else 0
