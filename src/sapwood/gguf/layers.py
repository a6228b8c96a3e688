"""Which layers see a window only, or have no attention: as a file says it, and as a config does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sapwood.errors import ModelError
from sapwood.gguf.file import GgufFile
from sapwood.gguf.keys import integer
from sapwood.gguf.table.family import PATTERN

KEY_HEADS, WIDTH = "attention.head_count_kv", "feed_forward_length"
SAME = ("attention.value_length_swa", "rope.dimension_count_swa")  # as wide as its keys, and turned whole
_HEADS = "num_key_value_heads"


def layer_types_of(file: GgufFile, layers: int, every: int) -> list[str]:
    """Which layers see a window only: the file's pattern (a number, or a flag per layer) or the family's."""
    pattern = file.metadata.get(f"{file.architecture}.{PATTERN}", every)
    if isinstance(pattern, np.ndarray):
        if len(pattern) != (blocks := integer(file, "block_count")):  # with those that guess ahead
            why = f"it is for {len(pattern)} layers, the model has {blocks}"
            raise ModelError("the pattern of sliding windows doesn't fit", str(file.path), why)
        return types_by([bool(flag) for flag in pattern[:layers]])
    return types_by(periodic(integer(file, PATTERN, every), layers))


def read_by_layer(file: GgufFile, values: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says for each layer, as Gemma 4's config says it: of layers with a window, of others, and
    of the last ones, which use keys of others. ``values``: of the config, as far as they are known."""
    layers, shared = values["num_hidden_layers"], values["num_kv_shared_layers"]
    flags = file.metadata.get(f"{file.architecture}.{PATTERN}")
    if not isinstance(flags, np.ndarray) or len(flags) != layers or flags[-1]:
        why = "a flag for each layer is needed, and the last layer must see everything"
        raise ModelError(f"the pattern of sliding windows is {flags!r}", str(file.path), why)
    if {integer(file, key, values["sliding_head_dim"]) for key in SAME} != {values["sliding_head_dim"]}:
        raise ModelError("heads of layers with a window differ in size", str(file.path), ", ".join(SAME))
    heads, widths = (_of_each_layer(file, key, layers) for key in (KEY_HEADS, WIDTH))
    by_kind = [{n for n, flag in zip(heads, flags, strict=True) if flag == kind} for kind in (False, True)]
    full, local = (kind or by_kind[0] for kind in by_kind)
    own, others = set(widths[: layers - shared]), set(widths[layers - shared :])
    double = bool(others) and others == {2 * n for n in own}
    without = [f"blk.{i}.attn_v.weight" not in file.tensors for i in range(layers - shared) if not flags[i]]
    odd = [len(full) > 1 or len(local) > 1, len(own) != 1 or not (double or others <= own)]
    if any(odd) or len(set(without)) > 1 or (full != local and not all(without)):
        why = f"{KEY_HEADS}: {heads}, {WIDTH}: {widths}"
        raise ModelError("layers of one kind differ in size", str(file.path), why)
    return {
        "layer_types": types_by([bool(flag) for flag in flags]),
        "num_key_value_heads": min(local),
        "num_global_key_value_heads": min(full),
        "intermediate_size": min(own),
        "use_double_wide_mlp": double,
        "attention_k_eq_v": all(without),
    }


def _of_each_layer(file: GgufFile, key: str, layers: int) -> list[int]:
    found = file.metadata.get(f"{file.architecture}.{key}")
    blocks = integer(file, "block_count")  # with those that guess ahead
    numbers = found.tolist() if isinstance(found, np.ndarray) else [integer(file, key)] * blocks
    if len(numbers) != blocks or not all(isinstance(n, int) and n > 0 for n in numbers):
        why = f"a whole number for each of {blocks} layers is needed"
        raise ModelError(f"{file.architecture}.{key} is {found!r}", str(file.path), why)
    return numbers[:layers]


def values_by_layer(config: Any) -> dict[str, Any]:
    """The inverse of `read_by_layer`, of a settled config."""
    flags = [kind == "sliding_attention" for kind in config.layer_types]
    both, width = (config.num_global_key_value_heads, config.num_key_value_heads), config.intermediate_size
    shared = config.num_kv_shared_layers if config.use_double_wide_mlp else 0
    return {
        PATTERN: flags,
        KEY_HEADS: [both[flag] for flag in flags],
        WIDTH: [width] * (len(flags) - shared) + [2 * width] * shared,
    } | dict.fromkeys(SAME, config.head_dim)


def read_doubled(file: GgufFile, layers: int, every: int) -> dict[str, Any]:
    """What a file says for each layer, as MiMo 2's config says it: which layers have a window, and how many
    heads of keys the others have."""
    kinds, heads = layer_types_of(file, layers, every), _of_each_layer(file, KEY_HEADS, layers)
    own = {n / 2 if kind == "sliding_attention" else n for kind, n in zip(kinds, heads, strict=True)}
    if len(own) != 1 or (found := own.pop()) != int(found):
        why = "layers with a window must have twice as many as the others"
        raise ModelError(f"{file.architecture}.{KEY_HEADS} is {heads}", str(file.path), why)
    return {"layer_types": kinds, "num_key_value_heads": int(found)}


def doubled_values(config: Any) -> dict[str, Any]:
    """The inverse of `read_doubled`."""
    flags = [kind == "sliding_attention" for kind in config.layer_types]
    return {PATTERN: flags, KEY_HEADS: [config.num_key_value_heads * (1 + flag) for flag in flags]}


def settle_layers(config: Any) -> None:
    """Sizes that layers have of their own, as Gemma 4's files say them: of one kind of layers, and of the
    other. Whatever else layers have of their own stays as an attribute that no file has a place for."""
    if hasattr(config, "global_head_dim"):
        return
    layers, own = list(config.per_layer_config), config.per_layer_attributes or set()
    config.per_layer_config = None
    for name, of_all in (("head_dim", "global_head_dim"), (_HEADS, f"num_global_{_HEADS[4:]}")):
        pairs = {(kind, getattr(one, name)) for kind, one in zip(config.layer_types, layers, strict=True)}
        sizes = dict(sorted(pairs))
        setattr(config, of_all, sizes.get("full_attention", getattr(config, name)))
        setattr(config, name, sizes.get("sliding_attention", getattr(config, of_all)))
        if len(sizes) < len(pairs):
            own = own | {f"other {name}"}
    if odd := own - {"head_dim", _HEADS}:
        config.sizes_of_layers = sorted(odd)


def key_heads(file: GgufFile, layers: int, name: str = KEY_HEADS) -> list[int]:
    """Heads of keys in each layer, or what another key says of each. Those that aren't 0 have one number."""
    key = f"{file.architecture}.{name}"
    found = file.metadata.get(key)
    heads: list[Any] = found.tolist() if isinstance(found, np.ndarray) else [found] * layers
    if len(heads) != layers or len(set(heads) - {0}) != 1:
        why = f"of the {layers} layers those that have some have one number of heads, or one width"
        raise ModelError(f"{key} is {found!r}", str(file.path), why)
    return heads


def periodic(every: int, layers: int) -> list[bool]:
    """Flags of windows, if the last layer of ``every`` sees everything."""
    return [(layer + 1) % every != 0 for layer in range(layers)]


def turned(every: int, layers: int) -> list[int]:
    """1 for each layer with a rotary embedding, if each last of ``every`` has none: SmolLM3's own form."""
    return [int(flag) for flag in periodic(every, layers)]


def types_by(flags: list[bool], other: str = "sliding_attention") -> list[str]:
    return [other if flag else "full_attention" for flag in flags]


def period(layer_types: list[str], other: str = "sliding_attention") -> int | None:
    """The period of the pattern of windows, or of ``other`` layers; None if there is none. At least one layer
    must have a window, because llama.cpp ends otherwise."""
    layers = len(layer_types)
    periods = range(2, layers + 2)
    wanted = list(layer_types)
    return next((every for every in periods if types_by(periodic(every, layers), other) == wanted), None)


def rhythm(flags: list[bool]) -> tuple[int, int] | None:
    """The shortest period of layers with a flag, and the first of them; None if nothing says these flags."""
    first = flags.index(True) if True in flags else len(flags)
    periods = range(first + 1, len(flags) + 1)
    return next(((every, first) for every in periods if in_rhythm(every, first, len(flags)) == flags), None)


def in_rhythm(every: int, first: int, layers: int) -> list[bool]:
    """The inverse of `rhythm`."""
    return [layer % every == first for layer in range(layers)]


def window_of(config: Any) -> int | None:
    """The width of the config's window; None if no layer has one."""
    types: list[str] = getattr(config, "layer_types", None) or []
    if types and "sliding_attention" not in types:
        return None
    return getattr(config, "sliding_window", None)
