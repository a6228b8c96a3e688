"""A whole model as one GGUF file: weights in F16 or Q8_0, and all that llama.cpp wants to know beside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import ExportError
from sapwood.export.gguf_adapter import rotary_heads
from sapwood.export.gguf_tokens import Metadata, tokenizer_metadata
from sapwood.export.merge import Parameters
from sapwood.gguf.file import read_gguf
from sapwood.gguf.map import architecture_of, llama3_divisors, module_names, permute
from sapwood.template.render import Renderer
from sapwood.types import BaseSpec

FileType = Literal["F16", "Q8_0"]
_FILE_TYPES = {"F16": 1, "Q8_0": 7}  # llama.cpp's own numbers for "mostly" these
_OWN = ("general.architecture", "general.file_type", "general.quantization_version", "general.alignment")


def write_gguf_model(
    parameters: Parameters, spec: BaseSpec, renderer: Renderer, path: Path, kind: FileType
) -> None:
    """Write a transformers model.

    Args:
        parameters: its weights by name, dense: merged, or the base's own.
        spec: where metadata comes from: a base that was a GGUF file hands its own on.
        renderer: its template and its stop token are what the file says.

    Raises:
        ExportError: something of the model has no place in the format.
    """
    from gguf.quants import quantize

    from gguf import GGMLQuantizationType, GGUFWriter

    config = spec.hf_config
    architecture = architecture_of(config)
    names = {module: name for name, module in module_names(architecture, config.num_hidden_layers).items()}
    writer = GGUFWriter(path, architecture)
    writer.add_file_type(_FILE_TYPES[kind])
    writer.add_quantization_version(2)
    for key, value in {**_metadata(spec, config, architecture), **_template(spec, renderer)}.items():
        _add(writer, key, value)
    for parameter, tensor in parameters:
        module, _, leaf = parameter.rpartition(".")
        if module not in names:
            raise ExportError(f"{parameter} has no place in a GGUF file", str(path), architecture)
        values = _file_layout(architecture, names[module], tensor.cpu().numpy(), config)
        fits = values.ndim > 1 and values.shape[-1] % 32 == 0
        packed = GGMLQuantizationType[("F32" if values.ndim == 1 else kind if fits else "F16")]
        writer.add_tensor(f"{names[module]}.{leaf}", quantize(values, packed), raw_dtype=packed)
    if (divisors := _rope_divisors(config)) is not None:
        writer.add_tensor("rope_freqs.weight", divisors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _file_layout(architecture: str, name: str, values: NDArray[Any], config: Any) -> NDArray[Any]:
    """The inverse of `gguf_map.to_torch_layout`."""
    if (heads := rotary_heads(architecture, name, config)) is not None:
        values = permute(values, heads)
    if architecture.startswith("gemma") and name.endswith("norm"):
        values = values + np.float32(1)
    return np.ascontiguousarray(values)


# --- metadata ---------------------------------------------------------------------------------------------


def _metadata(spec: BaseSpec, config: Any, architecture: str) -> Metadata:
    if spec.path.is_file():
        return {key: value for key, value in read_gguf(spec.path).metadata.items() if key not in _OWN}
    tokens = tokenizer_metadata(spec.tokenizer, config.vocab_size)
    return {"general.name": Path(spec.source).name, **_shapes(config, architecture), **tokens}


def _template(spec: BaseSpec, renderer: Renderer) -> Metadata:
    """The template that was trained, and the token that ends an answer in it: as the end of a turn, where the
    end of a text is another."""
    found: Metadata = {"tokenizer.chat_template": renderer.template}
    if renderer.stop_id != spec.tokenizer.eos_token_id:
        found["tokenizer.ggml.eot_token_id"] = renderer.stop_id
    return found


def _shapes(config: Any, architecture: str) -> Metadata:
    """The config in the format's words."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters
    full = rope.get("full_attention", rope)
    values: Metadata = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": width,
        "attention.value_length": width,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": width,
        "rope.freq_base": float(full["rope_theta"]),
        "vocab_size": config.vocab_size,
        **_scaling(full),
    }
    if architecture.startswith("gemma"):
        values["attention.sliding_window"] = config.sliding_window
        values["attention.sliding_window_pattern"] = [t == "sliding_attention" for t in config.layer_types]
    if architecture == "gemma2":
        values["attn_logit_softcapping"] = float(config.attn_logit_softcapping)
        values["final_logit_softcapping"] = float(config.final_logit_softcapping)
    if architecture == "gemma3":
        values["rope.freq_base_swa"] = float(rope["sliding_attention"]["rope_theta"])
    return {f"{architecture}.{key}": value for key, value in values.items()}


def _scaling(rope: Mapping[str, Any]) -> Metadata:
    kind = rope.get("rope_type", "default")
    if kind in ("default", "llama3"):
        return {}
    found: Metadata = {"rope.scaling.type": kind, "rope.scaling.factor": float(rope["factor"])}
    if kind == "yarn":
        found["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    elif kind != "linear":
        raise ExportError(f"rotary scaling {kind!r} can't be written as GGUF", "base.model")
    return found


def _rope_divisors(config: Any) -> NDArray[np.float32] | None:
    """Llama 3.1's stretched frequencies lie in the file as a tensor."""
    rope = dict(config.rope_parameters)
    if rope.pop("rope_type", None) != "llama3":
        return None
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return llama3_divisors(rope.pop("rope_theta"), width, **rope).astype(np.float32)


def _add(writer: Any, key: str, value: Any) -> None:
    """One key. Whole numbers are uint32 and others float32, as llama.cpp expects of every key it knows."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif value:
        writer.add_array(key, value)
