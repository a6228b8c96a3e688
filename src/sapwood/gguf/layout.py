"""How the values of a tensor lie in a GGUF file, and how in transformers.

What differs:

- files of Llama, and of some others, hold the rows of q and k in the order that llama.cpp's rotary embedding
  wants (pairs side by side), transformers in halves, per head; so do those of Chameleon the norms of heads;
- files of Gemma, and of Nemotron, hold norm weights with 1 added; transformers adds the 1 when it runs;
- files hold gate and up of experts as a stack each; transformers holds both as one, the rows of gate first.
  In GPT-OSS the stacks are turned, and the rows of gate and up stand by turns; in Llama 4 they are turned;
- DBRX's experts are three matrices in transformers, experts one below the other; that of down is turned;
- GPT-2's matrices have inputs as rows in transformers;
- in Falcon and BLOOM, and in others, q, k and v are one matrix. Its rows stand in groups in transformers:
  the heads of queries that share a head of keys, that head of keys, and its head of values. In files all
  queries come first, then all keys, then all values;
- kernels of convolutions have a dimension of 1 in transformers, which files leave out;
- Qwen 3 Next has one projection for queries, keys, values and gates in its linear attention, the rows of each
  head of keys side by side; files have a tensor for gates, and one for all others, one kind after the other;
- Gemma 3n's embedding for layers has rows for all tokens in files; in transformers tokens beyond its end have
  its first row;
- in Qwen 3.5's linear attention, heads of values that share a head of keys stand side by side in
  transformers; in files every head of keys comes once before one comes again. A decay is kept as its
  logarithm in transformers, and as minus the decay in files;
- in latent attention, files have what each head makes keys and values of as a stack each, that of keys
  turned; in transformers both are one matrix, in whose rows the keys of a head stand before its values;
- vectors of Mamba 2 with a number for each head are matrices of one column in files, and its norm is a row
  for each group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapwood.gguf.facts import OF_LAYERS, family_of, key_heads
from sapwood.gguf.file import GgufFile
from sapwood.gguf.keys import integer, layers_of
from sapwood.gguf.names import in_metadata, of_layer
from sapwood.gguf.settled import settled, value_of
from sapwood.gguf.table.families import FAMILIES, GROUPS, HEADS, INNER, STATES
from sapwood.gguf.table.family import COUNT, told_by
from sapwood.gguf.table.modules import DECAY, KERNELS, OF_HEADS, SHARED_GATE, SKIP, STACKS, THREE_KERNELS
from sapwood.gguf.written import global_rope

_OF_QUERIES, _OF_KEYS = ("attn_q", "attn_q_norm"), ("attn_k", "attn_k_norm")
_ONE_ROW = (SHARED_GATE, "exp_probs_b")
_OF_VALUES = ("attn_qkv", "attn_gate", "ssm_conv1d", "ssm_dt", DECAY, "ssm_beta", "ssm_alpha")
_FROM_VALUES = "ssm_out"  # its columns are those of heads of values


def places(architecture: str, tensors: Sequence[str], values: Any, config: Any) -> list[Any]:
    """Where the values of tensors lie in those of their parameter: parts of ``values`` (of numpy or torch)
    that share its memory, each in the shape that its tensor has in a file. ``tensors``: with or without
    ``.weight``."""
    name = of_layer(tensors[0])
    if name.removesuffix(".weight") in OF_HEADS:
        heads = values.reshape(config.num_attention_heads, -1, values.shape[-1])
        keys = config.qk_nope_head_dim
        return [heads[:, :keys].swapaxes(1, 2), heads[:, keys:]]
    if name.removesuffix(".weight") in THREE_KERNELS:
        size = len(values) // len(THREE_KERNELS)
        return [values[start : start + size] for start in range(0, len(values), size)]
    if name == DECAY and values.ndim == 4:
        return [values[0, 0]]
    if name.removesuffix(".weight") in KERNELS and values.ndim > 1:
        return [values[:, 0]]
    if name.removesuffix(".bias") in _ONE_ROW and values.ndim == 2:
        return [values[0]]
    if FAMILIES[architecture].mamba2 and name in (DECAY, SKIP):
        return [values[:, None]]
    if FAMILIES[architecture].mamba2 and name.removesuffix(".weight") == "ssm_norm":
        return [values.reshape(getattr(config, told_by(FAMILIES[architecture], GROUPS)), -1)]
    if in_metadata(tensors[0]):
        return [values.reshape(1)]
    if name.removesuffix(".weight") in FAMILIES[architecture].across and values.ndim == 2:
        return [values.T]
    if FAMILIES[architecture].one_below and name.startswith(STACKS):
        experts = value_of(config, FAMILIES[architecture], told_by(FAMILIES[architecture], COUNT))
        stack = values.reshape(experts, -1, values.shape[-1])
        return [stack.swapaxes(1, 2) if name.startswith(STACKS[-1]) else stack]
    turned = FAMILIES[architecture].turned
    if turned and name.startswith(STACKS):
        values = values[..., None] if name.endswith(".bias") else values.swapaxes(-1, -2)
        parts = apart(tensors, values, turned == "by turns")
        return [part[..., 0] for part in parts] if name.endswith(".bias") else parts
    return apart(tensors, values)


@dataclass(frozen=True, slots=True)
class Grouped:
    """How the rows of one projection of linear attention lie in several tensors of a file.

    order: where each row of the tensors, one after the other, lies in the projection. sizes: rows of each.
    """

    order: NDArray[np.int64]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, file: GgufFile, tensors: Sequence[str]) -> Grouped | None:
        """Of a parameter with these tensors; None if its rows aren't grouped."""
        if not family_of(file).by_key_heads or not _is_grouped(tensors):
            return None
        keys = integer(file, GROUPS)
        return cls._by(keys, integer(file, "ssm.state_size"), integer(file, INNER) // keys)

    @classmethod
    def of_config(cls, architecture: str, tensors: Sequence[str], config: Any) -> Grouped | None:
        if not FAMILIES[architecture].by_key_heads or not _is_grouped(tensors):
            return None
        keys, values = config.linear_num_key_heads, config.linear_num_value_heads
        return cls._by(keys, config.linear_key_head_dim, config.linear_value_head_dim * values // keys)

    @classmethod
    def _by(cls, keys: int, key: int, value: int) -> Grouped:
        """keys: heads of keys. key: numbers of one. value: numbers of all heads of values that share it."""
        rows = np.arange(keys * 2 * (key + value)).reshape(keys, -1)
        queries, own, values, gates = np.split(rows, np.cumsum([key, key, value]), 1)
        order = np.concatenate([part.ravel() for part in (gates, queries, own, values)])
        return cls(order, (gates.size, len(order) - gates.size))

    def apart(self, values: Any) -> list[Any]:
        """The rows of the projection, or of its adapter's B, as those of the tensors."""
        gates, rest = self.sizes
        return [values[self.order[:gates]], values[self.order[-rest:]]]

    def joined(self, parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """The inverse of `apart`."""
        return np.concatenate(parts)[np.argsort(self.order)]


def _is_grouped(tensors: Sequence[str]) -> bool:
    return len(tensors) > 1 and of_layer(tensors[0]).startswith("attn_")


def to_torch_layout(file: GgufFile, tensor: str, values: NDArray[Any]) -> NDArray[Any]:
    """Dense values of one tensor, in the layout that transformers expects under the same name."""
    if is_permuted(file, tensor):
        heads, part = _heads(file, tensor), _turned_of(file)
        values = unpermute(_as_rows(tensor, values), heads, part).reshape(values.shape)
    values = _back(values, head_order(tensor, len(values), _heads_of(file)))
    if has_other_columns(file, tensor):
        columns = head_order(tensor, values.shape[-1], _heads_of(file), columns=True)
        values = _back(values.T, columns).T
    if of_layer(tensor) == DECAY:
        return np.log(-values)
    if family_of(file).norms_plus_one and _adds_one(tensor.removesuffix(".weight")):
        return values - np.asarray(1, values.dtype)
    return values


def to_torch_rows(file: GgufFile, tensor: str) -> NDArray[np.uint8]:
    """The packed rows of a matrix, in the order that transformers expects: a row's blocks stay whole."""
    rows = np.asarray(file.tensors[tensor].data)
    rows = unpermute(rows, _heads(file, tensor), _turned_of(file)) if is_permuted(file, tensor) else rows
    return _back(rows, head_order(tensor, len(rows), _heads_of(file)))


def is_whole_only(file: GgufFile, tensor: str) -> bool:
    """True if the values of a tensor can't be put in transformers' order a few rows at a time."""
    moved = of_layer(tensor).startswith((*_OF_VALUES, _FROM_VALUES)) and _heads_of(file) is not None
    return moved or is_permuted(file, tensor) or len(file.tensors[tensor].shape) == 1


def has_other_columns(file: GgufFile, tensor: str) -> bool:
    """True if columns stand in another order than transformers', so that a row's blocks can't stay whole."""
    if of_layer(tensor).removesuffix(".weight") in OF_HEADS:
        return True
    return head_order(tensor, file.tensors[tensor].shape[-1], _heads_of(file), columns=True) is not None


def _back(values: NDArray[Any], order: NDArray[np.int64] | None) -> NDArray[Any]:
    return values if order is None else values[np.argsort(order)]


def is_permuted(file: GgufFile, tensor: str) -> bool:
    """True if the file's rows stand in another order than transformers', so that they belong together."""
    return family_of(file).interleaved and of_layer(tensor).partition(".")[0] in (*_OF_QUERIES, *_OF_KEYS)


def _as_rows(tensor: str, values: NDArray[Any]) -> NDArray[Any]:
    """Numbers of norms that each head has of its own as those of rows of queries or keys."""
    return values.reshape(-1) if "_norm" in of_layer(tensor) else values


def _turned_of(file: GgufFile) -> float:
    """The part of each head that the rotary embedding turns."""
    if not family_of(file).partial:
        return 1.0
    silent = integer(file, "embedding_length") // _heads(file, "attn_q")
    width = integer(file, "attention.key_length", silent)
    return integer(file, "rope.dimension_count", width) / width


def _turned(architecture: str, config: Any) -> float:
    """`_turned_of` a config."""
    partial = FAMILIES[architecture].partial
    return global_rope(config).get("partial_rotary_factor", 1.0) if partial else 1.0


def _heads(file: GgufFile, tensor: str) -> int:
    queries = integer(file, "attention.head_count")
    if of_layer(tensor).partition(".")[0] in _OF_QUERIES:
        return queries
    if family_of(file).between:
        return max(key_heads(file, layers_of(file)))
    return integer(file, "attention.head_count_kv", queries)


def to_file_layout(
    architecture: str, tensor: str, values: NDArray[Any], config: Any, leaf: str = "weight"
) -> NDArray[Any]:
    """The inverse of `to_torch_layout`. ``tensor``: its name without the ``leaf``, weight or bias."""
    values = to_file_rows(architecture, tensor, to_file_columns(architecture, tensor, values, config), config)
    if f"{tensor}.{leaf}" == OF_LAYERS and len(values) < config.vocab_size:
        first = np.repeat(values[:1], config.vocab_size - len(values), 0)
        values = np.concatenate([values, first])
    if FAMILIES[architecture].norms_plus_one and leaf == "weight" and _adds_one(tensor):
        values = values + np.float32(1)
    if of_layer(tensor) == DECAY:
        values = -np.exp(values)
    return np.ascontiguousarray(values)


def to_file_rows(architecture: str, tensor: str, values: NDArray[Any], config: Any) -> NDArray[Any]:
    """Rows of a tensor, or of its adapter's B, in the file's order."""
    if (times := multiplier(architecture, tensor, config)) is not None:
        values = values * times
    if (heads := rotary_heads(architecture, tensor, config)) is not None:
        part = _turned(architecture, config)
        values = permute(_as_rows(tensor, values), heads, part).reshape(values.shape)
    order = head_order(tensor, len(values), _heads_of_config(architecture, config))
    return np.ascontiguousarray(values if order is None else values[order])


def to_file_columns(architecture: str, tensor: str, values: NDArray[Any], config: Any) -> NDArray[Any]:
    """Columns of a tensor, or of its adapter's A, in the file's order."""
    order = head_order(tensor, values.shape[-1], _heads_of_config(architecture, config), columns=True)
    return np.ascontiguousarray(values if order is None else values[..., order])


def to_torch_rows_of(architecture: str, tensor: str, values: NDArray[Any], config: Any) -> NDArray[Any]:
    """The inverse of `to_file_rows`."""
    if (times := multiplier(architecture, tensor, config)) is not None:
        values = values / times
    if (heads := rotary_heads(architecture, tensor, config)) is not None:
        values = unpermute(values, heads, _turned(architecture, config))
    return _back(values, head_order(tensor, len(values), _heads_of_config(architecture, config)))


def to_torch_columns_of(architecture: str, tensor: str, values: NDArray[Any], config: Any) -> NDArray[Any]:
    """The inverse of `to_file_columns`."""
    heads = _heads_of_config(architecture, config)
    return _back(values.T, head_order(tensor, values.shape[-1], heads, columns=True)).T


def _adds_one(tensor: str) -> bool:
    """Whether 1 is added to a norm in the file, if the family's norms are so: not to that of a gate."""
    return tensor.endswith("norm") and not tensor.endswith("ssm_norm")


@dataclass(frozen=True, slots=True)
class _ValueHeads:
    """How many heads of keys, and of values, linear attention has, if they aren't as many."""

    keys: int
    values: int

    def order(self, name: str, size: int, columns: bool) -> NDArray[np.int64] | None:
        if name != _FROM_VALUES if columns else name not in _OF_VALUES:
            return None
        before = 2 * self.keys if name in ("attn_qkv", "ssm_conv1d") else 0  # queries and keys stay
        width = size // (before + self.values)
        first = np.arange(self.values).reshape(self.keys, -1).T.ravel() * width
        moved = first[:, None] + np.arange(width) + before * width
        return np.concatenate([np.arange(before * width), moved.ravel()])


@dataclass(frozen=True, slots=True)
class _Groups:
    """How many heads of queries, and of keys, a joined matrix has."""

    queries: int
    keys: int

    def order(self, name: str, size: int, columns: bool) -> NDArray[np.int64] | None:
        if columns or name != "attn_qkv":
            return None
        groups = np.arange(size).reshape(self.keys, self.queries // self.keys + 2, -1)
        return np.concatenate([part.ravel() for part in (groups[:, :-2], groups[:, -2], groups[:, -1])])


def _heads_of(file: GgufFile) -> _ValueHeads | _Groups | None:
    family = family_of(file)
    if family.tiled:
        return _if_more(integer(file, GROUPS), integer(file, HEADS))
    return _Groups(_heads(file, "attn_q"), _heads(file, "attn_k")) if family.grouped else None


def _heads_of_config(architecture: str, config: Any) -> _ValueHeads | _Groups | None:
    family = FAMILIES[architecture]
    if family.tiled:
        return _if_more(config.linear_num_key_heads, config.linear_num_value_heads)
    if not family.grouped:
        return None
    return _Groups(config.num_attention_heads, value_of(settled(config), family, "num_key_value_heads"))


def _if_more(keys: int, values: int) -> _ValueHeads | None:
    return _ValueHeads(keys, values) if values > keys else None


def head_order(
    tensor: str, size: int, heads: _ValueHeads | _Groups | None, columns: bool = False
) -> NDArray[np.int64] | None:
    """Where each of ``size`` rows (or columns) of a file lies in transformers; None: in the same place."""
    return None if heads is None else heads.order(of_layer(tensor).partition(".")[0], size, columns)


def apart(tensors: Sequence[str], values: Any, by_turns: bool = False) -> list[Any]:
    """The rows of one parameter, or of its adapter's B, as those of the tensors of a file: they stand one
    after the other, or by turns."""
    if len(tensors) == 1:
        return [values]
    if by_turns:
        return [values[..., i :: len(tensors), :] for i in range(len(tensors))]
    rows, parts = values.shape[-2], len(tensors)
    return [values[..., i * rows // parts : (i + 1) * rows // parts, :] for i in range(parts)]


def multiplier(architecture: str, tensor: str, config: Any) -> NDArray[np.float32] | None:
    """What a file has a matrix times, or its adapter's B: [1, 1], or [rows, 1]. None: it is as it is."""
    family = FAMILIES[architecture]
    if of_layer(tensor) not in family.multiplied:
        return None
    product = np.ones((1, 1), np.float32)
    for name in family.multiplied[of_layer(tensor)]:
        outer, _, place = name.partition(".")
        told = np.asarray(getattr(config, outer), np.float32)
        if place:
            told = told[int(place)]
        elif told.ndim:  # of gates, values, keys, queries and steps
            keys = (INNER, GROUPS, STATES, HEADS)
            sizes = (value_of(settled(config), family, told_by(family, key)) for key in keys)
            inner, groups, states, heads = sizes
            told = np.repeat(told, [inner, inner, groups * states, groups * states, heads])[:, None]
        product = product * told
    return product


def rotary_heads(architecture: str, tensor: str, config: Any) -> int | None:
    """Heads of a tensor whose rows stand in another order in the file; None for all others."""
    if not FAMILIES[architecture].interleaved:
        return None
    name = of_layer(tensor)
    if name in _OF_QUERIES:
        return config.num_attention_heads
    return config.num_key_value_heads if name in _OF_KEYS else None


def unpermute(rows: NDArray[Any], num_heads: int, part: float = 1.0) -> NDArray[Any]:
    """Rows of q or k from llama.cpp's order (rotary pairs adjacent) to transformers' (halves), per head.

    rows: [heads * head_dim, …]; a bias has no second dimension. part: of each head, whose rest stays.
    """
    width = len(rows) // num_heads
    return rows[_moved(np.arange(len(rows)), num_heads, int(width * part), 2)]


def permute(rows: NDArray[Any], num_heads: int, part: float = 1.0) -> NDArray[Any]:
    """The inverse of `unpermute`: what goes into a llama-type GGUF file."""
    width = int(len(rows) // num_heads * part)
    return rows[_moved(np.arange(len(rows)), num_heads, width, width // 2)]


def _moved(rows: NDArray[np.int64], heads: int, turned: int, step: int) -> NDArray[np.int64]:
    """Rows of the part of each head that is turned, so many apart side by side."""
    own = rows.reshape(heads, -1)
    part = own[:, :turned].reshape(heads, -1, step).swapaxes(1, 2).reshape(heads, turned)
    return np.concatenate([part, own[:, turned:]], 1).ravel()
