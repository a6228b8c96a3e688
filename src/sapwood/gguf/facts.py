"""A GGUF file's keys as a transformers config, by the table of `families`. The inverse is `written`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from sapwood.errors import ModelError
from sapwood.gguf.file import GgufFile
from sapwood.gguf.keys import flag, integer, layers_of, number
from sapwood.gguf.latent import latent_sizes
from sapwood.gguf.layers import (
    WIDTH,
    key_heads,
    layer_types_of,
    periodic,
    read_by_layer,
    read_doubled,
    rhythm,
    types_by,
)
from sapwood.gguf.rope import FOLDER, read_rope
from sapwood.gguf.settled import IMPLIED, ROWS_OF_LAYERS, unsaid_names
from sapwood.gguf.table.families import (
    FAMILIES,
    HEADS,
    INNER,
    INTERVAL,
    in_files,
)
from sapwood.gguf.table.family import (
    COUNT,
    Family,
    attribute,
    facts_of,
    fixed_of,
    has_attention,
    has_experts,
)
from sapwood.gguf.table.modules import ROUTER

WINDOW = "attention.sliding_window"
ROTATED = "rope.scaling.finetuned"
LOCAL_THETA = "rope.freq_base_swa"
OF_LAYERS = "per_layer_token_embd.weight"
CHOSEN = "index_topk"  # tokens that each one sees, in GLM's sparse attention
OTHER_WINDOWS = "{} layers have windows in llama.cpp, whose positions no test has proven"


def config_values(file: GgufFile) -> dict[str, Any]:
    """Keyword arguments of the transformers config class named by ``model_type``.

    Raises ModelError for architectures and rotary scalings that transformers would compute differently.
    """
    family = family_of(file)
    _refuse_constants(file, family)
    values = _sizes(file, family)
    values |= fixed_of(family, values["num_hidden_layers"])
    values["model_type"] = family.kinds[0]
    values["tie_word_embeddings"] = "output.weight" not in file.tensors
    own = {name.split(".", 2)[-1] for name in file.tensors}  # in whichever layer
    for switch, tensors in family.biases.items():
        values[switch] = not own.isdisjoint(name if "." in name else f"{name}.bias" for name in tensors)
    if family.unsaid:
        values["vocabulary_map"] = unsaid_names(family.unsaid)
        if values["vocab_size"] < family.unsaid.stop:
            why = f"tokens {family.unsaid.start} to {family.unsaid.stop - 1} are those of pictures"
            raise ModelError(f"the file has {values['vocab_size']} tokens", str(file.path), why)
    if family.rotated:
        values[family.rotated] = "rope" if flag(file, ROTATED, True) else None
    for name in ("bos", "eos", "padding"):
        token = file.metadata.get(f"tokenizer.ggml.{name}_token_id")
        values[f"{name.replace('padding', 'pad')}_token_id"] = int(token) if isinstance(token, int) else None
    if family.rotary:
        beside = values["qk_nope_head_dim"] if family.latent and family.partial else 0
        values["rope_parameters"] = read_rope(file, family, values["head_dim"] + beside)
    if family.experts_in:
        flags = [f"blk.{i}.{ROUTER}.weight" in file.tensors for i in range(values["num_hidden_layers"])]
        values[family.experts_in] = ["sparse" if has else "dense" for has in flags]
    if family.window and not (family.by_layer or family.doubled):
        values["layer_types"] = layer_types_of(file, values["num_hidden_layers"], family.window)
    elif family.every:
        flags = periodic(integer(file, INTERVAL, family.every), values["num_hidden_layers"])
        values["layer_types"] = types_by(flags, family.between)
        values["linear_value_head_dim"] = integer(file, INNER) // values["linear_num_value_heads"]
    elif family.rhythms:
        values |= _rhythms(file, family, values["num_hidden_layers"])
    elif family.between:
        heads = key_heads(file, values["num_hidden_layers"])
        if family.apart:
            widths = key_heads(file, len(heads), WIDTH)
            kinds = [family.apart if width else family.between for width in widths]
            values["layer_types"] = [
                "full_attention" if n else kind for n, kind in zip(heads, kinds, strict=True)
            ]
        elif family.places:
            values[family.places] = [layer for layer, own in enumerate(heads) if own]
        else:
            values["layer_types"] = ["full_attention" if own else family.between for own in heads]
    elif "sliding_window" in family.fixed:
        values["layer_types"] = types_by([False] * values["num_hidden_layers"])
    if family.largest:
        values["query_pre_attn_scalar"] = query_scale(family, values)
    if family.local_theta or family.plain_windows:
        rope = values["rope_parameters"]
        theta = rope["rope_theta"] if family.plain_windows else number(file, LOCAL_THETA, 10_000.0)
        local = {"rope_type": "default", "rope_theta": theta}
        if family.partial:
            local["partial_rotary_factor"] = rope["partial_rotary_factor"]
        values["rope_parameters"] = {"full_attention": rope, "sliding_attention": local}
    return _named(file, family, values)


def _rhythms(file: GgufFile, family: Family, layers: int) -> dict[str, int]:
    """Which layers are of which kind, as a period and the first of them. None is for its class to say."""
    values: dict[str, int] = {}
    for every, first, tensor in family.rhythms:
        flags = [f"blk.{layer}.{tensor}.weight" in file.tensors for layer in range(layers)]
        found = rhythm(flags)
        if found:
            values |= {every: found[0], first: found[1]}
        elif True in flags:
            layers_with = ", ".join(str(layer) for layer, has in enumerate(flags) if has)
            raise ModelError(f"layers {layers_with} have {tensor}", str(file.path), "they must have a period")
    return values


def _named(file: GgufFile, family: Family, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the names that the family's config has for them, without those that it implies."""
    for name in family.implied:
        implied = IMPLIED[name](SimpleNamespace(**values))
        if values[name] != implied:
            key = next(fact.key for fact in facts_of(family) if fact.config == name)
            why = f"transformers' {family.kinds[0]} computes {implied!r}"
            raise ModelError(f"{file.architecture}.{key} is {values[name]!r}", str(file.path), why)
    named: dict[str, Any] = {}
    for name, value in values.items():
        outer, _, inner = attribute(family, name).rpartition(".")
        if name not in family.implied:
            (named.setdefault(outer, {}) if outer else named)[inner] = value
    return named


def family_of(file: GgufFile) -> Family:
    """The row of the table for a file. Raises ModelError for a file that is no whole model of a known one."""
    return FAMILIES[row_of(file)]


def row_of(file: GgufFile) -> str:
    """The name of `family_of`."""
    _refuse_parts(file)
    name, experts = file.architecture, bool(integer(file, COUNT, 0))
    rows = [row for row in FAMILIES if in_files(row) == name]
    signs = {row: f"blk.0.{FAMILIES[row].sign}.weight" in file.tensors for row in rows}
    fit = [row for row in rows if has_experts(FAMILIES[row]) == experts]
    fit = [row for row in fit if signs[row]] or [row for row in fit if not FAMILIES[row].sign]
    if fit:  # of rows that share a name, one has windows, or another function of its router
        windows = f"{name}.{WINDOW}" in file.metadata
        alike = [row for row in fit if bool(FAMILIES[row].window) == windows] or fit
        return next((row for row in alike if not _other_constants(file, FAMILIES[row])), alike[0])
    if rows:
        what = f"{name} files {'with' if experts else 'without'} experts aren't supported"
    else:
        what = f"GGUF architecture {name or 'missing'!r} isn't supported"
    known = ", ".join(dict.fromkeys(in_files(row) for row in FAMILIES))
    why = f"no test here proves that it is computed as llama.cpp does; proven: {known}"
    raise ModelError(what, str(file.path), why, FOLDER)


def _refuse_parts(file: GgufFile) -> None:
    """Raises ModelError for a LoRA adapter, and for one file of several."""
    kind = file.metadata.get("general.type", "model")
    if kind == "adapter":
        mend = "name the base model here; sapwood opens adapters by their own folder"
        raise ModelError(
            "this file is a LoRA adapter, not a model", str(file.path), "general.type: adapter", mend
        )
    count = file.metadata.get("split.count", 1)
    if isinstance(count, int) and count > 1:
        part = int(file.metadata.get("split.no", 0)) + 1
        mend = f"join the parts first: llama-gguf-split --merge {file.path.name} whole.gguf"
        raise ModelError(f"the file is part {part} of {count}", str(file.path), "split.count", mend)


def _refuse_constants(file: GgufFile, family: Family) -> None:
    """Raises ModelError for a file that says another value than the one which transformers computes."""
    for key, found in _other_constants(file, family).items():
        why = f"transformers' {family.kinds[0]} computes {family.constants[key]!r}"
        raise ModelError(f"{file.architecture}.{key} is {found!r}", str(file.path), why)


def _other_constants(file: GgufFile, family: Family) -> dict[str, Any]:
    """Those of the family's constants for which a file says another value: key and value."""
    name, constants = file.architecture, family.constants
    told = {key: file.metadata.get(f"{name}.{key}", own) for key, own in constants.items()}
    return {
        key: found
        for key, found in told.items()
        if found != (own := constants[key])
        and not (isinstance(own, float) and math.isclose(found, own, rel_tol=1e-5))
    }


def _sizes(file: GgufFile, family: Family) -> dict[str, Any]:
    heads = integer(file, "attention.head_count") if has_attention(family) else 0
    hidden = integer(file, "embedding_length")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError("the file holds no token embedding", str(file.path), "token_embd.weight is missing")
    layers = layers_of(file)
    if embedding.shape[1] != hidden or layers > len(file.tensors):
        why = f"it has {len(file.tensors):,} tensors, the embedding {embedding.shape[1]:,} columns"
        raise ModelError("the file's keys don't fit its tensors", str(file.path), why)
    width = max(1, hidden // heads) if heads else 0
    silent = {"num_key_value_heads": heads, "head_dim": width, "v_head_dim": width} if heads else {}
    values: dict[str, Any] = {"vocab_size": embedding.shape[0]}
    if OF_LAYERS in file.tensors:
        values[ROWS_OF_LAYERS] = file.tensors[OF_LAYERS].shape[0]
    if family.of_state:
        values[family.of_state] = integer(file, INNER) // integer(file, HEADS)
    for fact in facts_of(family):
        if family.between and not family.every and fact.config == "num_key_value_heads":
            values[fact.config] = max(key_heads(file, layers))
        elif family.apart and fact.key == WIDTH:
            values[fact.config] = max(key_heads(file, layers, WIDTH))
        elif fact.optional:
            told = file.metadata.get(f"{file.architecture}.{fact.key}", fact.default)
            values[fact.config] = number(file, fact.key, fact.default) if told else None
        elif fact.number is bool:
            values[fact.config] = flag(file, fact.key, fact.default)
        elif fact.number is int:
            default = silent.get(fact.config, fact.default)
            values[fact.config] = integer(file, fact.key, None if default is None else int(default))
        else:
            values[fact.config] = number(file, fact.key, fact.default)
    values["num_hidden_layers"] = layers
    if CHOSEN in values:
        values["max_position_embeddings"] = min(values["max_position_embeddings"], values[CHOSEN])
    if layers == family.other:
        raise ModelError(OTHER_WINDOWS.format(family.other), str(file.path), file.architecture)
    if not heads:
        return values
    width = values["head_dim"]
    if family.latent:
        return values | latent_sizes(file, heads)
    if family.by_layer:
        values |= read_by_layer(file, values)
    if family.doubled:
        values |= read_doubled(file, layers, family.window)
    elif integer(file, "attention.value_length", width) != width:
        raise ModelError("heads whose values and keys differ in size aren't supported", str(file.path))
    return values


def query_scale(family: Family, values: Mapping[str, Any]) -> int:
    """The number by whose square root Gemma's queries are divided. No key of a file says it."""
    if values["num_hidden_layers"] == family.largest:
        return values["hidden_size"] // values["num_attention_heads"]
    return values["head_dim"]
