"""A model folder that others open: today's transformers, and programs that pin transformers 4.

transformers 5 renamed keys of config.json and joins the experts of a mixture in memory. An older program
reads the old keys, and silently takes its default for a key that it doesn't find. So both are written: keys
under both names, tensors in the layout of the family's own checkpoints, and the tokenizer's files as the base
has them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sapwood.base.chatglm import is_chatglm
from sapwood.base.folder import read_folder, read_json
from sapwood.base.inspect import quiet
from sapwood.base.network.parts import is_wrapper, rest_class
from sapwood.base.packed.formats import without_packing
from sapwood.base.packed.stored import stored_tensors
from sapwood.errors import ExportError
from sapwood.machine.doing import counted
from sapwood.types import BaseSpec

TOKENIZER = "tokenizer.json"
SETTINGS, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
GENERATION = "generation_config.json"
BESIDE = ("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model")
OF_WRAPPERS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
OWN_CLASS = "PreTrainedTokenizerFast"  # reads tokenizer.json as it stands, in every version
ONLY_NEW = ("TokenizersBackend",)  # classes that transformers 4 doesn't know


def is_tied(network: Any) -> bool:
    """Whether the head is the embedding. The model's own weights decide: a config may say "tied" although the
    checkpoint has a head of its own."""
    head, embedding = network.get_output_embeddings(), network.get_input_embeddings()
    if head is None or head.weight.shape != embedding.weight.shape:
        return head is None
    ours, theirs = head.weight, embedding.weight  # held: an adapter's are made anew each time
    return ours.data_ptr() == theirs.data_ptr() or torch.equal(ours, theirs)


def write_folder(
    weights: Iterable[tuple[str, Tensor]],
    network: Any,
    spec: BaseSpec,
    template: str | None,
    stop_ids: Iterable[int],
    folder: Path,
) -> None:
    """Write a whole model.

    Args:
        weights: by transformers' name; all in one number format, which config.json names.
        network: the model that they are of.
        template: the chat template that is to be in the folder.
        stop_ids: what generation ends on.
    """
    from huggingface_hub import save_torch_state_dict

    whole = {name: tensor.contiguous() for name, tensor in counted("writing tensor", weights)}
    stored = _stored(network, _rest(spec, next(iter(whole.values())).dtype) | whole)
    dtype = str(next(iter(stored.values())).dtype).removeprefix("torch.")
    save_torch_state_dict(stored, folder)
    _write_json(folder / "config.json", _config(network, spec, dtype))
    _write_tokenizer(spec, template, folder)
    _write_json(folder / GENERATION, _generation(spec, stop_ids))


def _rest(spec: BaseSpec, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights of a wrapper that text doesn't go through, as its own files have them."""
    if not is_wrapper(spec.hf_config):
        return {}
    with quiet():
        rest, report = rest_class(spec.hf_config).from_pretrained(
            None,
            config=spec.hf_config,
            state_dict=stored_tensors(read_folder(spec.path)),
            dtype=dtype,
            output_loading_info=True,
        )
    if lost := sorted(report["missing_keys"]):
        why = f"{len(lost)} tensors beside the language model aren't found, and a merged model needs them"
        mend = "export the adapter alone, or take the checkpoint as its makers published it"
        raise ExportError(f"tensor {lost[0]} is missing", str(spec.path), why, mend)
    return {name: tensor.contiguous() for name, tensor in rest.state_dict().items()}


def _stored(network: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as the family's checkpoints have them: one for each expert, for example."""
    from transformers.core_model_loading import revert_weight_conversion

    remembered = getattr(network, "_weight_conversions", None)
    network._weight_conversions = None  # the family's own layout, whatever this model was loaded from
    try:
        stored = revert_weight_conversion(network, weights)
    finally:
        network._weight_conversions = remembered
    return {name: _alone(tensor) for name, tensor in stored.items()}


def _alone(tensor: Tensor) -> Tensor:
    """safetensors refuses a part of a larger storage, as each expert is."""
    return tensor.contiguous() if tensor.nbytes == tensor.untyped_storage().nbytes() else tensor.clone()


# --- config.json ------------------------------------------------------------------------------------------


def _config(network: Any, spec: BaseSpec, dtype: str) -> dict[str, Any]:
    """Every key that the base's own file has, what today's transformers says, and the old names of it."""
    values = spec.hf_config.to_dict()
    base = without_packing(read_folder(spec.path).config) if spec.path.is_dir() else {}
    if is_chatglm(base):  # another layout under another model_type
        base = {}
    base.pop("auto_map", None)
    aliases = {old: values[new] for old, new in type(spec.hf_config).attribute_map.items() if new in values}
    return {
        **base,
        **aliases,
        **values,
        **old_keys(values, base),
        "architectures": [type(network).__name__],
        "dtype": dtype,
        "torch_dtype": dtype,
        "tie_word_embeddings": is_tied(network),
    }


def old_keys(values: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary embedding as transformers 4 reads it. ``base``: the base's own file, whose form of a key is
    kept."""
    rope = values.get("rope_parameters")
    if not rope:
        return {}
    whole = rope.get("full_attention", rope)
    if "rope_theta" not in whole:
        return {}
    keys = {"rope_theta": whole["rope_theta"]}
    if (local := rope.get("sliding_attention")) and "rope_theta" in local:
        keys["rope_local_base_freq"] = local["rope_theta"]
    if whole.get("partial_rotary_factor") is not None:
        keys["partial_rotary_factor"] = whole["partial_rotary_factor"]
    scaling = {key: value for key, value in whole.items() if key not in keys and value is not None}
    if scaling.get("rope_type", "default") != "default" or scaling.keys() - {"rope_type", "type"}:
        keys["rope_scaling"] = scaling
    return {key: base.get(key) or value for key, value in keys.items()}


def _generation(spec: BaseSpec, stop_ids: Iterable[int]) -> dict[str, Any]:
    """How the base samples, and on which tokens this model stops."""
    own = spec.path / GENERATION
    base = read_json(own) if spec.path.is_dir() and own.is_file() else {}
    tokenizer = spec.tokenizer
    ids = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return {**base, **ids, "eos_token_id": list(stop_ids)}


# --- tokenizer --------------------------------------------------------------------------------------------


def _write_tokenizer(spec: BaseSpec, template: str | None, folder: Path) -> None:
    """The base's own files if it is a folder that has them; else what transformers writes. The class and the
    extra tokens are spelled as both versions read them."""
    own = spec.path / TOKENIZER
    text = spec.tokenizer.backend_tokenizer.to_str()
    with quiet():
        spec.tokenizer.save_pretrained(folder)
    if spec.path.is_dir() and own.is_file() and _reads_as(own, text):
        for name in (TOKENIZER, SETTINGS, *BESIDE):
            if (spec.path / name).is_file():
                shutil.copyfile(spec.path / name, folder / name)
    for name in OF_WRAPPERS:
        if spec.path.is_dir() and (spec.path / name).is_file():
            shutil.copyfile(spec.path / name, folder / name)
    settings = read_json(folder / SETTINGS)
    if settings.get("tokenizer_class") in (None, *ONLY_NEW):
        settings["tokenizer_class"] = OWN_CLASS
    if isinstance(extra := settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = extra
        del settings["extra_special_tokens"]
    settings.pop("auto_map", None)
    settings.pop("chat_template", None)
    (folder / TEMPLATE).unlink(missing_ok=True)
    if template is not None:  # programs read one of two files
        settings["chat_template"] = template
        (folder / TEMPLATE).write_text(template, encoding="utf-8")
    _write_json(folder / SETTINGS, settings)


def _reads_as(file: Path, text: str) -> bool:
    """Is the tokenizer in use the one of the file, without added tokens?"""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(file)).to_str() == text


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
