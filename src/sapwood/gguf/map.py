"""What a GGUF file calls things, and what transformers calls them: config values, tensor names, layouts.

Three layouts differ between the two:

- llama files hold the rows of q and k in the order that llama.cpp's rotary embedding wants (pairs side by
  side), transformers in halves: `to_torch_layout` undoes it per head;
- gemma files hold norm weights with 1 added; transformers' Gemma adds the 1 when it runs;
- Llama 3.1's stretched rotary frequencies lie in the file as a tensor (``rope_freqs``), in transformers as
  four numbers; they are recovered and checked against the tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import ModelError, Problem
from sapwood.gguf.file import GgufFile

MODEL_TYPES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "chatglm": "glm",
    "glm4": "glm4",
}

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
_ONE_GATE_AND_UP = {key: name for key, name in _EVERY_LAYER.items() if not key.startswith("ffn_")} | {
    "ffn_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj",
}
_NORMS_AFTER = {
    "post_attention_norm": "post_self_attn_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
}
_LAYER = {
    "llama": _EVERY_LAYER | _PRE_NORM,
    "qwen2": _EVERY_LAYER | _PRE_NORM,
    "qwen3": _EVERY_LAYER | _PRE_NORM | _HEAD_NORMS,
    "gemma2": _EVERY_LAYER | _SANDWICH_NORMS,
    "gemma3": _EVERY_LAYER | _SANDWICH_NORMS | _HEAD_NORMS,
    "chatglm": _ONE_GATE_AND_UP | _PRE_NORM,
    "glm4": _ONE_GATE_AND_UP | _PRE_NORM | _NORMS_AFTER,
}
_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_COMPUTED = {"rope_freqs.weight"}  # read for the config, no parameter of its own


def architecture_of(hf_config: Any) -> str:
    """What llama.cpp calls a model with this transformers config. Raises ModelError where it isn't known."""
    for architecture, kind in MODEL_TYPES.items():
        if kind == hf_config.model_type:
            return architecture
    known = f"known: {', '.join(MODEL_TYPES.values())}"
    raise ModelError(f"{hf_config.model_type} models can't be written as GGUF", "base.model", known)


def module_names(architecture: str, num_layers: int) -> dict[str, str]:
    """GGUF tensor name -> module name, both without ``.weight``: ``blk.0.attn_q`` -> ``model.layers.0…``."""
    names = dict(_OUTSIDE)
    for layer in range(num_layers):
        for tensor, module in _LAYER[architecture].items():
            names[f"blk.{layer}.{tensor}"] = f"model.layers.{layer}.{module}"
    return names


def parameter_names(file: GgufFile) -> dict[str, str]:
    """GGUF tensor name -> transformers parameter name, for every tensor that becomes one.

    Raises ModelError that lists the tensors which have no place in the architecture.
    """
    modules = module_names(_architecture(file), _integer(file, "block_count"))
    names: dict[str, str] = {}
    strangers: list[Problem] = []
    for tensor in file.tensors:
        stem, _, suffix = tensor.rpartition(".")
        if stem in modules and suffix in ("weight", "bias"):
            names[tensor] = f"{modules[stem]}.{suffix}"
        elif tensor not in _COMPUTED:
            strangers.append(
                Problem(f"unexpected tensor {tensor}", str(file.path), f"{file.architecture} has no such")
            )
    if strangers:
        raise ModelError(strangers)
    return names


def to_torch_layout(file: GgufFile, tensor: str, values: NDArray[Any]) -> NDArray[Any]:
    """Dense values of one tensor, in the layout that transformers expects under the same name."""
    if is_permuted(file, tensor):
        return unpermute(values, _heads(file, tensor))
    if file.architecture.startswith("gemma") and tensor.endswith("norm.weight"):
        return values - np.asarray(1, values.dtype)
    return values


def to_torch_rows(file: GgufFile, tensor: str) -> NDArray[np.uint8]:
    """The packed rows of a matrix, in the order that transformers expects: a row's blocks stay whole."""
    rows = np.asarray(file.tensors[tensor].data)
    return unpermute(rows, _heads(file, tensor)) if is_permuted(file, tensor) else rows


def is_permuted(file: GgufFile, tensor: str) -> bool:
    """True where the file's rows stand in another order than transformers', so that they belong together."""
    return file.architecture == "llama" and (".attn_q." in tensor or ".attn_k." in tensor)


def _heads(file: GgufFile, tensor: str) -> int:
    key = "attention.head_count" if ".attn_q." in tensor else "attention.head_count_kv"
    return _integer(file, key, _integer(file, "attention.head_count"))


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


def config_values(file: GgufFile) -> dict[str, Any]:
    """Keyword arguments of the transformers config class named by ``model_type``.

    Raises ModelError for architectures and rotary scalings that transformers would compute differently.
    """
    architecture = _architecture(file)
    heads = _integer(file, "attention.head_count")
    hidden = _integer(file, "embedding_length")
    if _integer(file, "expert_count", 0):
        raise ModelError(
            "mixtures of experts aren't supported", str(file.path), f"architecture {architecture}"
        )
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError("the file holds no token embedding", str(file.path), "token_embd.weight is missing")
    if embedding.shape[1] != hidden or _integer(file, "block_count") > len(file.tensors):
        why = f"it has {len(file.tensors):,} tensors, the embedding {embedding.shape[1]:,} columns"
        raise ModelError("the file's keys don't fit its tensors", str(file.path), why)
    values: dict[str, Any] = {
        "model_type": MODEL_TYPES[architecture],
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": _integer(file, "feed_forward_length"),
        "num_hidden_layers": _integer(file, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _integer(file, "attention.head_count_kv", heads),
        "head_dim": _integer(file, "attention.key_length", max(1, hidden // heads)),
        "max_position_embeddings": _integer(file, "context_length"),
        "rms_norm_eps": _number(file, "attention.layer_norm_rms_epsilon", 1e-6),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": architecture != "qwen2" and "blk.0.attn_q.bias" in file.tensors,
        "rope_parameters": _rope(file),
    }
    for name in ("bos", "eos", "padding"):
        token = file.metadata.get(f"tokenizer.ggml.{name}_token_id")
        values[f"{name.replace('padding', 'pad')}_token_id"] = int(token) if isinstance(token, int) else None
    if architecture.startswith("gemma"):
        values |= _gemma(file, values)
    return values


def _gemma(file: GgufFile, values: Mapping[str, Any]) -> dict[str, Any]:
    """Sliding windows, soft caps and the scale of queries, which the two Gemmas set by layer and by size."""
    architecture, layers = file.architecture, values["num_hidden_layers"]
    # llama.cpp knows the 27B models, whose queries are scaled otherwise, by their number of layers
    largest = layers == {"gemma2": 46, "gemma3": 62}[architecture]
    every = {"gemma2": 2, "gemma3": 6}[architecture]
    found: dict[str, Any] = {
        "sliding_window": _integer(file, "attention.sliding_window", 4096),
        "query_pre_attn_scalar": (
            values["hidden_size"] // values["num_attention_heads"] if largest else values["head_dim"]
        ),
        "layer_types": _layer_types(file, layers, every),
    }
    if architecture == "gemma2":
        found["attn_logit_softcapping"] = _number(file, "attn_logit_softcapping", 50.0)
        found["final_logit_softcapping"] = _number(file, "final_logit_softcapping", 30.0)
    else:
        base = _number(file, "rope.freq_base_swa", 10_000.0)
        found["rope_parameters"] = {
            "full_attention": values["rope_parameters"],
            "sliding_attention": {"rope_type": "default", "rope_theta": base},
        }
    return found


def _layer_types(file: GgufFile, layers: int, every: int) -> list[str]:
    """Which layers see a window only: the file's pattern (a number, or a flag per layer) or the family's."""
    pattern = file.metadata.get(f"{file.architecture}.attention.sliding_window_pattern", every)
    if isinstance(pattern, np.ndarray):
        if len(pattern) != layers:
            raise ModelError("the pattern of sliding windows doesn't fit", str(file.path), f"{layers} layers")
        sliding = [bool(flag) for flag in pattern]
    else:
        every = _integer(file, "attention.sliding_window_pattern", every)
        sliding = [bool((layer + 1) % max(1, every)) for layer in range(layers)]
    return ["sliding_attention" if flag else "full_attention" for flag in sliding]


# --- rotary embedding -------------------------------------------------------------------------------------


def _rope(file: GgufFile) -> dict[str, Any]:
    """transformers' ``rope_parameters`` for layers with full attention."""
    theta = _number(file, "rope.freq_base", 10_000.0)
    heads = _integer(file, "attention.head_count")
    width = _integer(file, "attention.key_length", max(1, _integer(file, "embedding_length") // heads))
    rotated = _integer(file, "rope.dimension_count", width)
    if file.architecture in ("chatglm", "glm4"):
        return {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": rotated / width}
    if rotated != width:
        raise ModelError("a rotary embedding on part of each head isn't supported", str(file.path))
    if "rope_freqs.weight" in file.tensors:
        return _llama3(file, theta, width)
    kind = file.metadata.get(f"{file.architecture}.rope.scaling.type", "none")
    factor = _number(file, "rope.scaling.factor", _number(file, "rope.scale_linear", 1.0))
    if kind == "none" and factor == 1.0:
        return {"rope_type": "default", "rope_theta": theta}
    if kind in ("none", "linear"):
        return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
    original = _integer(file, "rope.scaling.original_context_length", 0)
    if kind == "yarn" and original:
        scaling = {"factor": factor, "original_max_position_embeddings": original}
        return {"rope_type": "yarn", "rope_theta": theta, **scaling}
    mend = "use the model's safetensors folder in place of the GGUF file"
    raise ModelError(f"rotary scaling {kind!r} isn't supported in GGUF files", str(file.path), mend=mend)


def _llama3(file: GgufFile, theta: float, width: int) -> dict[str, Any]:
    """Llama 3.1's scaling from the divisors that the file holds. They follow from four numbers: three are the
    same in every published model, and the fourth is the largest divisor."""
    found = file.tensors["rope_freqs.weight"].dense().ravel()
    scaling: dict[str, Any] = {
        "factor": float(found.max()),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    expected = llama3_divisors(theta, width, **scaling)
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=1e-3):
        mend = "use the model's safetensors folder in place of the GGUF file"
        raise ModelError("rope_freqs isn't one of Llama 3.1's scalings", str(file.path), mend=mend)
    return {"rope_type": "llama3", "rope_theta": theta, **scaling}


def llama3_divisors(
    theta: float,
    width: int,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: int,
) -> NDArray[np.float64]:
    """What divides each rotary frequency: 1 for short waves, ``factor`` for long ones, a ramp between."""
    waves = 2 * math.pi * theta ** (np.arange(0, width, 2) / width)
    ramp = (original_max_position_embeddings / waves - low_freq_factor) / (high_freq_factor - low_freq_factor)
    smooth = np.clip(ramp, 0.0, 1.0)
    return 1 / ((1 - smooth) / factor + smooth)


# --- keys -------------------------------------------------------------------------------------------------


def _architecture(file: GgufFile) -> str:
    name = file.architecture
    if name not in MODEL_TYPES:
        known = f"supported: {', '.join(MODEL_TYPES)}"
        raise ModelError(f"GGUF architecture {name or 'missing'!r} isn't supported", str(file.path), known)
    return name


def _integer(file: GgufFile, key: str, default: int | None = None) -> int:
    value = file.metadata.get(f"{file.architecture}.{key}", default)
    if isinstance(value, np.ndarray) and len(value) and (value == value[0]).all():
        value = int(value[0])  # per layer, and the same in each
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise ModelError(
            f"{file.architecture}.{key} is {value!r}", str(file.path), "a whole number is needed"
        )
    if value == 0 and default != 0:
        raise ModelError(f"{file.architecture}.{key} is 0", str(file.path))
    return value


def _number(file: GgufFile, key: str, default: float) -> float:
    """A float as the model's config wrote it: the file holds 32 bits, which turn 1e-5 into 9.99999974e-06."""
    value = file.metadata.get(f"{file.architecture}.{key}", default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ModelError(
            f"{file.architecture}.{key} is {value!r}", str(file.path), "a positive number is needed"
        )
    return float(f"{value:.7g}")
