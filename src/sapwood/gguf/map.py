"""What a GGUF file calls tensors, and what transformers calls them; and how their values lie in each.

Five layouts differ:

- files of Llama, and of some others, hold the rows of q and k in the order that llama.cpp's rotary embedding
  wants (pairs side by side), transformers in halves, per head;
- files of Gemma, and of Nemotron, hold norm weights with 1 added; transformers adds the 1 when it runs;
- files hold the experts of a layer as one stack each of gate, up and down; transformers holds gate and up as
  one stack, the rows of gate first.
  In GPT-OSS the stacks are turned, and the rows of gate and up stand by turns;
- kernels of convolutions have a dimension of 1 in transformers, which files leave out;
- in Qwen 3.5's linear attention, heads of values that share a head of keys stand side by side in
  transformers; in files every head of keys comes once before one comes again. A decay is kept as its
  logarithm in transformers, and as minus the decay in files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import ModelError, Problem
from sapwood.gguf.facts import family_of, row_of
from sapwood.gguf.families import FAMILIES
from sapwood.gguf.file import GgufFile
from sapwood.gguf.keys import integer, layers_of
from sapwood.gguf.rope import DIVISORS, FOLDER

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
_BLOCK = re.compile(r"blk\.(\d{1,6})\.")
_ONE_EXPERT = re.compile(r"blk\.\d+\.ffn_(gate|up|down)\.\d+\.weight")
SHARED_GATE = "ffn_gate_inp_shexp"  # a matrix of one row in transformers, often a vector in files
CHOICE = "exp_probs_b.bias"  # what is added to the scores of experts before they are chosen
_ONE_ROW = (SHARED_GATE, "exp_probs_b")
KERNELS = ("shortconv.conv", "ssm_conv1d")
DECAY = "ssm_a"  # the one tensor without .weight or .bias
_OF_VALUES = ("attn_qkv", "attn_gate", "ssm_conv1d", "ssm_dt", DECAY, "ssm_beta", "ssm_alpha")
_FROM_VALUES = "ssm_out"  # its columns are those of heads of values


def _mixture(block: str, router: str = "gate") -> dict[str, str]:
    """A layer whose MLP, called ``block``, is a mixture of experts."""
    return _ATTENTION | _PRE_NORM | _experts(block, router)


def _experts(block: str, router: str = "gate") -> dict[str, str]:
    stacks = zip(STACKS, ("gate_up_proj", "gate_up_proj", "down_proj"), strict=True)
    return {"ffn_gate_inp": f"{block}.{router}"} | {
        tensor: f"{block}.experts.{stack}" for tensor, stack in stacks
    }


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
_OF_QWEN35 = _HEAD_NORMS | {
    "post_attention_norm": "post_attention_layernorm",
    "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z",
    "ssm_beta": "linear_attn.in_proj_b",
    "ssm_alpha": "linear_attn.in_proj_a",
    "ssm_conv1d": "linear_attn.conv1d",
    "ssm_dt.bias": "linear_attn.dt_bias",
    DECAY: "linear_attn.A_log",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
}
_OF_GLM_MOE = _experts("mlp") | _shared("mlp.shared_experts") | {CHOICE: "mlp.gate.e_score_correction_bias"}
# A layer of a family has some of these tensors: those of its attention or convolution, of its MLP or experts.
_LAYER = {
    **dict.fromkeys(("gemma", "granite", "smollm3", "ernie4_5", "stablelm"), _EVERY_LAYER | _PRE_NORM),
    **dict.fromkeys(("olmo2", "olmo3", "exaone4"), _ONLY_NORMS_AFTER | _HEAD_NORMS),
    **dict.fromkeys(("command-r", "cohere2"), _EVERY_LAYER),
    **dict.fromkeys(("arcee", "nemotron"), _WITHOUT_GATE | _PRE_NORM),
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
    "chatglm": _ONE_GATE_AND_UP | _PRE_NORM,
    "glm4": _ONE_GATE_AND_UP | _PRE_NORM | _NORMS_AFTER,
    "mixtral": _mixture("mlp"),
    "qwen2moe": _mixture("mlp") | {SHARED_GATE: "mlp.shared_expert_gate"} | _shared("mlp.shared_expert"),
    **dict.fromkeys(("qwen3moe", "olmoe"), _mixture("mlp") | _HEAD_NORMS),
    "granitemoe": _mixture("block_sparse_moe", "router"),
    "mistral3": _EVERY_LAYER | _PRE_NORM,
    "olmo": {key: name for key, name in _EVERY_LAYER.items() if key != "attn_norm"},
    "phi2": _ATTENTION | {"attn_output": "self_attn.dense", "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2"},
    "lfm2": _OF_LFM2,
    "lfm2moe": _OF_LFM2 | _experts("feed_forward") | {CHOICE: "feed_forward.expert_bias"},
    "ernie4_5-moe": _EVERY_LAYER
    | _mixture("mlp")
    | _shared("mlp.shared_experts")
    | {CHOICE: "mlp.gate.moe_statics.e_score_correction_bias"},
    "qwen35": _EVERY_LAYER | _OF_QWEN35,
    "qwen35moe": _ATTENTION
    | _OF_QWEN35
    | _experts("mlp")
    | {SHARED_GATE: "mlp.shared_expert_gate"}
    | _shared("mlp.shared_expert"),
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
    "hunyuan-moe": _mixture("mlp", "gate.wg") | _NORMS_OF_HUNYUAN | _shared("mlp.shared_mlp"),
}
_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_NORM_OF_LFM2 = {
    "token_embd": "model.embed_tokens",
    "token_embd_norm": "model.embedding_norm",
    "output": "lm_head",
}
_OTHER_ENDS = {
    "lfm2": _NORM_OF_LFM2,
    "lfm2moe": _NORM_OF_LFM2,
    "olmo": {"token_embd": "model.embed_tokens", "output": "lm_head"},
    "phi2": _OUTSIDE | {"output_norm": "model.final_layernorm"},
}
_COMPUTED = {DIVISORS}  # read for the config, no parameter of its own


def module_names(architecture: str, num_layers: int) -> dict[str, str]:
    """GGUF tensor name -> module name, both without ``.weight``: ``blk.0.attn_q`` -> ``model.layers.0…``. A
    stack of experts has the name of a parameter; one of gate and up has two tensors. So has what is named by
    its whole name (`is_whole`)."""
    names = dict(_OTHER_ENDS.get(architecture, _OUTSIDE))
    for layer in range(num_layers):
        for tensor, module in _LAYER[architecture].items():
            names[f"blk.{layer}.{tensor}"] = f"model.layers.{layer}.{module}"
    return names


def tensor_names(architecture: str, num_layers: int) -> dict[str, tuple[str, ...]]:
    """The inverse of `module_names`: the tensors of a module, whose rows follow each other in that order."""
    names: dict[str, tuple[str, ...]] = {}
    for tensor, module in module_names(architecture, num_layers).items():
        names[module] = (*names.get(module, ()), tensor)
    return names


def is_stack(tensor: str) -> bool:
    """Whether a tensor, named without ``.weight``, holds one matrix for each expert."""
    return tensor.rpartition(".")[2] in STACKS


def is_whole(tensor: str) -> bool:
    """Whether a tensor of the table has its whole name there, and is a parameter that no module is called
    after."""
    name = _of_layer(tensor)
    return name == DECAY or name.endswith((".weight", ".bias"))


def _of_layer(tensor: str) -> str:
    """What a tensor is called in every layer."""
    return tensor.split(".", 2)[2] if tensor.startswith("blk.") else tensor


def file_name(tensor: str, leaf: str) -> str:
    """The name in a file of the weight or bias of a tensor of the table."""
    return tensor if is_whole(tensor) else f"{tensor}.{leaf}"


def parameter_names(file: GgufFile) -> dict[str, str]:
    """GGUF tensor name -> transformers parameter name, for every tensor that becomes one, or a part of one.

    Raises ModelError that lists the tensors which have no place in the architecture.
    """
    layers = layers_of(file)
    modules = module_names(row_of(file), layers)
    if any(_ONE_EXPERT.fullmatch(tensor) for tensor in file.tensors):
        why = "newer files have one stack for all experts of a layer"
        raise ModelError("the file has tensors for single experts", str(file.path), why, FOLDER)
    names: dict[str, str] = {}
    strangers: list[Problem] = []
    for tensor in file.tensors:
        if (block := _BLOCK.match(tensor)) and layers <= int(block[1]) < integer(file, "block_count"):
            continue  # it guesses ahead
        stem, _, suffix = tensor.rpartition(".")
        if stem in modules and is_stack(stem) and suffix == "weight":
            names[tensor] = modules[stem]
        elif stem in modules and not is_stack(stem) and suffix in ("weight", "bias"):
            names[tensor] = f"{modules[stem]}.{suffix}"
        elif tensor in modules and is_whole(tensor):
            names[tensor] = modules[tensor]
        elif tensor not in _COMPUTED:
            strangers.append(
                Problem(
                    f"unexpected tensor {tensor}", str(file.path), f"{file.architecture} has no such tensor"
                )
            )
    if strangers:
        raise ModelError(strangers)
    return names


def sources(file: GgufFile) -> dict[str, tuple[str, ...]]:
    """transformers parameter name -> its tensors, whose rows follow each other in that order. Raises
    ModelError as `parameter_names`."""
    found: dict[str, tuple[str, ...]] = {}
    for tensor, name in parameter_names(file).items():
        found[name] = tuple(sorted((*found.get(name, ()), tensor)))  # gate before up
    return found


def places(architecture: str, tensors: Sequence[str], values: Any) -> list[Any]:
    """Where the values of tensors lie in those of their parameter: parts of ``values`` (of numpy or torch)
    that share its memory, each in the shape that its tensor has in a file. ``tensors``: with or without
    ``.weight``."""
    name = _of_layer(tensors[0])
    if name.removesuffix(".weight") in KERNELS:
        return [values[:, 0]]
    if name.removesuffix(".bias") in _ONE_ROW and values.ndim == 2:
        return [values[0]]
    by_turns = FAMILIES[architecture].turned
    if by_turns and name.startswith(STACKS):
        values = values[..., None] if name.endswith(".bias") else values.swapaxes(-1, -2)
        parts = apart(tensors, values, by_turns)
        return [part[..., 0] for part in parts] if name.endswith(".bias") else parts
    return apart(tensors, values)


def to_torch_layout(file: GgufFile, tensor: str, values: NDArray[Any]) -> NDArray[Any]:
    """Dense values of one tensor, in the layout that transformers expects under the same name."""
    if is_permuted(file, tensor):
        values = unpermute(values, _heads(file, tensor))
    values = _back(values, head_order(tensor, len(values), _ValueHeads.of(file)))
    if has_other_columns(file, tensor):
        columns = head_order(tensor, values.shape[-1], _ValueHeads.of(file), columns=True)
        values = _back(values.T, columns).T
    if _of_layer(tensor) == DECAY:
        return np.log(-values)
    if family_of(file).norms_plus_one and _adds_one(tensor.removesuffix(".weight")):
        return values - np.asarray(1, values.dtype)
    return values


def to_torch_rows(file: GgufFile, tensor: str) -> NDArray[np.uint8]:
    """The packed rows of a matrix, in the order that transformers expects: a row's blocks stay whole."""
    rows = np.asarray(file.tensors[tensor].data)
    rows = unpermute(rows, _heads(file, tensor)) if is_permuted(file, tensor) else rows
    return _back(rows, head_order(tensor, len(rows), _ValueHeads.of(file)))


def is_whole_only(file: GgufFile, tensor: str) -> bool:
    """True if the values of a tensor can't be put in transformers' order a few rows at a time."""
    moved = _of_layer(tensor).startswith((*_OF_VALUES, _FROM_VALUES)) and _ValueHeads.of(file) is not None
    return moved or is_permuted(file, tensor) or len(file.tensors[tensor].shape) == 1


def has_other_columns(file: GgufFile, tensor: str) -> bool:
    """True if columns stand in another order than transformers', so that a row's blocks can't stay whole."""
    heads = _ValueHeads.of(file)
    return heads is not None and head_order(tensor, heads.values, heads, columns=True) is not None


def _back(values: NDArray[Any], order: NDArray[np.int64] | None) -> NDArray[Any]:
    return values if order is None else values[np.argsort(order)]


def is_permuted(file: GgufFile, tensor: str) -> bool:
    """True if the file's rows stand in another order than transformers', so that they belong together."""
    return family_of(file).interleaved and (".attn_q." in tensor or ".attn_k." in tensor)


def _heads(file: GgufFile, tensor: str) -> int:
    key = "attention.head_count" if ".attn_q." in tensor else "attention.head_count_kv"
    return integer(file, key, integer(file, "attention.head_count"))


def to_file_layout(
    architecture: str, tensor: str, values: NDArray[Any], config: Any, leaf: str = "weight"
) -> NDArray[Any]:
    """The inverse of `to_torch_layout`. ``tensor``: its name without the ``leaf``, weight or bias."""
    values = to_file_rows(architecture, tensor, to_file_columns(architecture, tensor, values, config), config)
    if FAMILIES[architecture].norms_plus_one and leaf == "weight" and _adds_one(tensor):
        values = values + np.float32(1)
    if _of_layer(tensor) == DECAY:
        values = -np.exp(values)
    return np.ascontiguousarray(values)


def to_file_rows(architecture: str, tensor: str, values: NDArray[Any], config: Any) -> NDArray[Any]:
    """Rows of a tensor, or of its adapter's B, in the file's order."""
    if (heads := rotary_heads(architecture, tensor, config)) is not None:
        values = permute(values, heads)
    order = head_order(tensor, len(values), _ValueHeads.of_config(architecture, config))
    return np.ascontiguousarray(values if order is None else values[order])


def to_file_columns(architecture: str, tensor: str, values: NDArray[Any], config: Any) -> NDArray[Any]:
    """Columns of a tensor, or of its adapter's A, in the file's order."""
    order = head_order(tensor, values.shape[-1], _ValueHeads.of_config(architecture, config), columns=True)
    return np.ascontiguousarray(values if order is None else values[..., order])


def to_torch_rows_of(architecture: str, tensor: str, values: NDArray[Any], config: Any) -> NDArray[Any]:
    """The inverse of `to_file_rows`."""
    if (heads := rotary_heads(architecture, tensor, config)) is not None:
        values = unpermute(values, heads)
    return _back(values, head_order(tensor, len(values), _ValueHeads.of_config(architecture, config)))


def to_torch_columns_of(architecture: str, tensor: str, values: NDArray[Any], config: Any) -> NDArray[Any]:
    """The inverse of `to_file_columns`."""
    heads = _ValueHeads.of_config(architecture, config)
    return _back(values.T, head_order(tensor, values.shape[-1], heads, columns=True)).T


def _adds_one(tensor: str) -> bool:
    """Whether 1 is added to a norm in the file, if the family's norms are so: not to that of a gate."""
    return tensor.endswith("norm") and not tensor.endswith("ssm_norm")


@dataclass(frozen=True, slots=True)
class _ValueHeads:
    """How many heads of keys, and of values, linear attention has, if they aren't as many."""

    keys: int
    values: int

    @classmethod
    def of(cls, file: GgufFile) -> _ValueHeads | None:
        if not family_of(file).tiled:
            return None
        return cls._if_more(integer(file, "ssm.group_count"), integer(file, "ssm.time_step_rank"))

    @classmethod
    def of_config(cls, architecture: str, config: Any) -> _ValueHeads | None:
        if not FAMILIES[architecture].tiled:
            return None
        return cls._if_more(config.linear_num_key_heads, config.linear_num_value_heads)

    @classmethod
    def _if_more(cls, keys: int, values: int) -> _ValueHeads | None:
        return cls(keys, values) if values > keys else None


def head_order(
    tensor: str, size: int, heads: _ValueHeads | None, columns: bool = False
) -> NDArray[np.int64] | None:
    """Where each of ``size`` rows (or columns) of a file lies in transformers; None: in the same place."""
    name = _of_layer(tensor).partition(".")[0]
    if heads is None or (name != _FROM_VALUES if columns else name not in _OF_VALUES):
        return None
    before = 2 * heads.keys if name in ("attn_qkv", "ssm_conv1d") else 0  # queries and keys stay
    width = size // (before + heads.values)
    first = np.arange(heads.values).reshape(heads.keys, -1).T.ravel() * width
    moved = first[:, None] + np.arange(width) + before * width
    return np.concatenate([np.arange(before * width), moved.ravel()])


def apart(tensors: Sequence[str], values: Any, by_turns: bool = False) -> list[Any]:
    """The rows of one parameter, or of its adapter's B, as those of the tensors of a file: they stand one
    after the other, or by turns."""
    if len(tensors) == 1:
        return [values]
    if by_turns:
        return [values[..., i :: len(tensors), :] for i in range(len(tensors))]
    rows, parts = values.shape[-2], len(tensors)
    return [values[..., i * rows // parts : (i + 1) * rows // parts, :] for i in range(parts)]


def rotary_heads(architecture: str, tensor: str, config: Any) -> int | None:
    """Heads of a tensor whose rows stand in another order in the file; None for all others."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    return heads.get(tensor.rpartition(".")[2]) if FAMILIES[architecture].interleaved else None


def unpermute(rows: NDArray[Any], num_heads: int) -> NDArray[Any]:
    """Rows of q or k from llama.cpp's order (rotary pairs adjacent) to transformers' (halves), per head.

    rows: [heads * head_dim, …]; a bias has no second dimension.
    """
    pairs = rows.reshape(num_heads, len(rows) // num_heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def permute(rows: NDArray[Any], num_heads: int) -> NDArray[Any]:
    """The inverse of `unpermute`: what goes into a llama-type GGUF file."""
    halves = rows.reshape(num_heads, 2, len(rows) // num_heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)
