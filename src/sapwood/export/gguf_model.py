"""A whole model as one GGUF file: its weights in a type, and all that llama.cpp wants to know beside."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from sapwood.base.inspect import skeleton
from sapwood.base.network.parts import is_wrapper, text_names
from sapwood.errors import ExportError
from sapwood.export.gguf_tokens import Metadata, tokenizer_metadata
from sapwood.export.merge import Parameters
from sapwood.export.quantise import NUMBERS, FileType, Quantiser, type_of
from sapwood.gguf.facts import CHOSEN
from sapwood.gguf.file import LINEARS, STACKED, GgufFile, read_gguf
from sapwood.gguf.file import NUMBERS as LAYER_NUMBERS
from sapwood.gguf.keys import SPECULATING, integer, layers_of
from sapwood.gguf.latent import latent_values
from sapwood.gguf.layout import Grouped, places, to_file_layout
from sapwood.gguf.names import file_name, in_metadata, of_layer, tensor_names, unread
from sapwood.gguf.rope import DIVISORS, rope_divisors, rope_factors
from sapwood.gguf.table.families import FAMILIES, architecture_of, in_files
from sapwood.gguf.written import context_of, file_values, global_rope, head_width
from sapwood.machine.doing import counted
from sapwood.template.render import Renderer
from sapwood.types import BaseSpec

_OF_PHI = {"</s>", "<unk>", "<s>", "<|endoftext|>"}
_OWN = ("general.architecture", "general.file_type", "general.quantization_version", "general.alignment")


def write_gguf_model(
    parameters: Parameters,
    spec: BaseSpec,
    renderer: Renderer,
    path: Path,
    kind: FileType,
    tied: bool = False,
) -> None:
    """Write a transformers model.

    Args:
        parameters: its weights by name, dense: merged, or the base's own.
        spec: where metadata comes from: a base that was a GGUF file hands its own on.
        renderer: its template and its stop token are what the file says.
        tied: the head is the embedding, which then has the head's type.

    Raises:
        ExportError: something of the model has no place in the format.
    """
    from gguf import GGMLQuantizationType, GGUFWriter

    config, alone = spec.text, text_names(skeleton(spec)) if is_wrapper(spec.hf_config) else str
    architecture = architecture_of(config)
    names = tensor_names(architecture, config.num_hidden_layers)
    writer = GGUFWriter(path, in_files(architecture))
    writer.add_file_type(NUMBERS[kind])
    writer.add_quantization_version(2)
    for key, value in {**_metadata(spec, config), **_template(spec, renderer)}.items():
        _add(writer, key, value)
    stacks: dict[str, dict[str, Any]] = {}
    numbers: dict[str, dict[int, float]] = {}
    with Quantiser() as quantiser:
        for parameter, tensor in counted("writing tensor", parameters):
            own = alone(parameter)
            module, leaf = (own, "weight") if own in names else own.rsplit(".", 1)
            if module not in names:
                raise ExportError(f"GGUF can't store the tensor {parameter}", str(path), architecture)
            grouped = Grouped.of_config(architecture, names[module], config)
            whole = tensor.cpu().numpy()
            parts = grouped.apart(whole) if grouped else places(architecture, names[module], whole, config)
            for name, values in zip(names[module], parts, strict=True):
                if in_metadata(name):
                    numbers.setdefault(of_layer(name), {})[int(name.split(".")[1])] = float(values[0])
                    continue
                values = to_file_layout(architecture, name, values, config, leaf)
                packed = type_of(kind, name, values.shape, config.num_hidden_layers, tied)
                blocks = quantiser.packed(packed, values)
                if (stack := name.rpartition(".")[0]) in STACKED:
                    parts_of = stacks.setdefault(stack, {})
                    parts_of[name] = blocks
                    if len(parts_of) < LINEARS:
                        continue
                    name, blocks = stack, np.stack([parts_of[part] for part in sorted(parts_of)])
                own = file_name(architecture, name, leaf)
                writer.add_tensor(own, blocks, raw_dtype=GGMLQuantizationType[packed])
        _add_unread(writer, architecture, config)
    for key, by_layer in numbers.items():
        writer.add_array(key, [by_layer[layer] for layer in sorted(by_layer)])
    if (divisors := rope_divisors(global_rope(config), head_width(config))) is not None:
        writer.add_tensor(DIVISORS, divisors)
    for name, factors in rope_factors(global_rope(config)).items():
        writer.add_tensor(name, factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_unread(writer: Any, architecture: str, config: Any) -> None:
    """Zeros for the tensors that llama.cpp wants to find and doesn't read."""
    width = head_width(config)
    for name in unread(architecture, config.num_hidden_layers):
        shape = (config.num_key_value_heads * width, config.hidden_size)
        writer.add_tensor(
            f"{name}.weight", np.zeros((width,) if name.endswith("norm") else shape, np.float32)
        )


# --- metadata ---------------------------------------------------------------------------------------------


def _metadata(spec: BaseSpec, config: Any) -> Metadata:
    if spec.path.is_file():
        file = read_gguf(spec.path)
        kept = {key: value for key, value in file.metadata.items() if key not in (*_OWN, *LAYER_NUMBERS)}
        if kept.pop(f"{file.architecture}.{SPECULATING}", None):  # layers that aren't read are not written
            own = f"{file.architecture}."
            kept |= {key: _of_layers(file, value) for key, value in kept.items() if key.startswith(own)}
            kept[f"{own}block_count"] = layers_of(file)
        family = FAMILIES[architecture_of(config)]
        if hasattr(config, CHOSEN):
            kept[f"{file.architecture}.context_length"] = context_of(config)
        if family.latent:  # an older file says the widths of other tensors than are written
            kept |= {
                f"{file.architecture}.{key}": value for key, value in latent_values(config, family).items()
            }
        return kept
    tokens = tokenizer_metadata(spec.tokenizer, config.vocab_size)
    return {"general.name": _name(spec), **file_values(config, spec.hf_config), **tokens}


def _of_layers(file: GgufFile, value: Any) -> Any:
    """A value of the file without what it says of layers that guess ahead, if it says something of each."""
    each = isinstance(value, np.ndarray) and len(value) == integer(file, "block_count")
    return value[: layers_of(file)] if each else value


def _name(spec: BaseSpec) -> str:
    """The folder's name. If a name says Phi-3, llama.cpp looks up tokens of it, and ends if it lacks one."""
    name = Path(spec.source).name
    of_phi = re.search("phi-?3", name, re.IGNORECASE)
    return name if not of_phi or spec.tokenizer.get_vocab().keys() >= _OF_PHI else "model"


def _template(spec: BaseSpec, renderer: Renderer) -> Metadata:
    """The template that was trained, and the token that ends an answer in it: as the end of a turn, if the
    end of a text is another."""
    found: Metadata = {"tokenizer.chat_template": renderer.template}
    if renderer.stop_id != spec.tokenizer.eos_token_id:
        found["tokenizer.ggml.eot_token_id"] = renderer.stop_id
    return found


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
