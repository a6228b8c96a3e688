"""The base model before its weights: config, tokenizer, stop tokens, fingerprint, shapes."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sapwood.base.cache import file_sha256
from sapwood.base.chatglm import chatglm_tokenizer, glm_values, is_chatglm
from sapwood.base.folder import Folder, read_folder, read_json
from sapwood.base.packed.formats import refuse_unknown, without_packing
from sapwood.base.packed.stored import num_elements
from sapwood.base.sources import resolve
from sapwood.base.tokenizer import check_vocabulary, read_tokenizer_of, with_new_tokens
from sapwood.config.sections import BaseConfig
from sapwood.errors import ModelError, first_line
from sapwood.gguf.facts import config_values, family_of
from sapwood.gguf.file import GgufFile, read_gguf
from sapwood.gguf.keys import integer
from sapwood.gguf.tokenizer import read_tokenizer
from sapwood.machine.bars import told_bars
from sapwood.types import BaseSpec

if TYPE_CHECKING:
    import torch

DROPOUT = re.compile(
    r"^(?!classifier|summary).*drop(out)?($|_)"
)  # attention_dropout, resid_pdrop, hidden_dropout_prob

ONLY_DECODERS = "sapwood trains decoders"


# --- before the weights -----------------------------------------------------------------------------------


def inspect_base(config: BaseConfig) -> BaseSpec:
    """Find the model and read everything but its weights: config, tokenizer, stop tokens, fingerprint.

    Raises:
        ModelError: not found, damaged, no tokenizer, code of its own, or not a trainable language model.
    """
    path = resolve(config.model, offline=config.offline)
    if path.is_file() and config.new_tokens:
        what, why = "a GGUF file takes no new tokens", "its vocabulary stays as it is"
        raise ModelError(what, "base.new_tokens", why, "take the model's folder")
    read = _inspect_folder if path.is_dir() else _inspect_file
    return with_new_tokens(read(config.model, path), config.new_tokens)


def _inspect_folder(source: str, path: Path) -> BaseSpec:
    folder = read_folder(path)
    hf_config = _native_config(folder)
    notes = (*without_dropout(hf_config), *_with_said_base(hf_config, folder))
    _check_size(hf_config, folder)
    tokenizer = chatglm_tokenizer(path) if is_chatglm(folder.config) else read_tokenizer_of(path)
    check_vocabulary(tokenizer, hf_config.get_text_config().vocab_size, path)
    generation = path / "generation_config.json"
    stops = _ids(read_json(generation).get("eos_token_id")) if generation.is_file() else []
    hashes = [("config.json", file_sha256(path / "config.json"))]
    hashes += [(shard.name, file_sha256(shard)) for shard in folder.shards]
    return BaseSpec(
        source=source,
        path=path,
        fingerprint=_fingerprint(hashes),
        tokenizer=tokenizer,
        hf_config=hf_config,
        stop_ids=_stop_ids([*stops, *_eos(hf_config)], tokenizer),
        notes=(*notes, *_ahead(hf_config)),
    )


def _inspect_file(source: str, path: Path) -> BaseSpec:
    from transformers import PreTrainedTokenizerFast

    file = read_gguf(path)
    hf_config = _config_of(file)
    read = read_tokenizer(file)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=read.tokenizer,
        bos_token=read.bos,
        eos_token=read.eos,
        unk_token=read.unk,
        pad_token=read.pad,
        model_max_length=integer(file, "context_length"),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = read.chat_template
    check_vocabulary(tokenizer, hf_config.get_text_config().vocab_size, path)
    return BaseSpec(
        source=source,
        path=path,
        fingerprint=_fingerprint([("gguf", file_sha256(path))]),
        tokenizer=tokenizer,
        hf_config=hf_config,
        stop_ids=_stop_ids(read.stop_ids, tokenizer),
    )


def _config_of(file: GgufFile) -> Any:
    """The transformers config of a file, in that of a wrapper if no class is for its language model alone."""
    from transformers import CONFIG_MAPPING

    values = config_values(file)
    kind, around = values.pop("model_type"), family_of(file).inside
    made: Any = CONFIG_MAPPING[around or kind]
    if not around:
        return made(**values)
    tied = {"tie_word_embeddings": values["tie_word_embeddings"]}  # what a wrapper says counts
    return made(text_config=values | {"model_type": kind}, **tied)


def _native_config(folder: Folder) -> Any:
    """The transformers config, made from cleaned values. Models that bring code of their own are refused."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import modeling_auto

    where = str(folder.path / "config.json")
    values = glm_values(folder.config, where) if is_chatglm(folder.config) else dict(folder.config)
    kind = values.pop("model_type", None)
    own = values.pop("auto_map", None) or {}
    mappings = [
        getattr(modeling_auto, f"MODEL_FOR_{name}_MAPPING_NAMES") for name in ("CAUSAL_LM", "MULTIMODAL_LM")
    ]
    native = [names[kind] for names in mappings if isinstance(kind, str) and kind in names]
    wanted = str(own.get("AutoModelForCausalLM", "") if isinstance(own, Mapping) else own).rpartition(".")[2]
    if wanted and wanted not in native:
        mend = "use a checkpoint in transformers' own layout; sapwood never runs code from a model folder"
        raise ModelError("the model needs code of its own", where, f"auto_map names {wanted}", mend)
    if not native:
        why = "this transformers knows no language model of that type"
        raise ModelError(
            f"model_type {kind!r} isn't supported", where, why, "check config.json, or update transformers"
        )
    if values.get("is_encoder_decoder"):
        raise ModelError(f"{kind} is an encoder with a decoder", where, ONLY_DECODERS)
    refuse_unknown(folder)
    values = without_packing(values)
    try:
        made: Any = CONFIG_MAPPING[kind].from_dict(values)
    except Exception as error:  # each config class checks values in its own way
        raise ModelError("config.json isn't valid", where, first_line(error)) from None
    try:
        text = made.get_text_config()
    except ValueError:
        why = "it has several, and nothing says which of them a row is for"
        raise ModelError(f"{kind} isn't one language model", where, why) from None
    if text is not made and getattr(text, "is_encoder_decoder", False):
        raise ModelError(f"the language model in {kind} is an encoder with a decoder", where, ONLY_DECODERS)
    return made


def without_dropout(hf_config: Any) -> tuple[str, ...]:
    """Set every dropout of the base to 0: an adapter has its own dropout, and a frozen model computes as in
    inference. Returns a note if one was set."""
    text = hf_config.get_text_config()
    keys = [key for key, v in vars(text).items() if DROPOUT.search(key) and isinstance(v, float) and v]
    for key in keys:
        setattr(text, key, 0.0)
    return (
        (f"{', '.join(keys)} of the base set to 0: a frozen base computes as in inference",) if keys else ()
    )


def _with_said_base(hf_config: Any, folder: Folder) -> tuple[str, ...]:
    """Give the rotary embedding the base that config.json says, if it is one that transformers passes over:
    DBRX's stands among the settings of attention. Returns a note then. Raises ModelError for any other."""
    text = hf_config.get_text_config()
    part = next((name for name in hf_config.sub_configs if getattr(hf_config, name, None) is text), None)
    told = folder.config if part is None else folder.config.get(part) or {}
    rope = getattr(text, "rope_parameters", None)
    if not rope or told.get("rope_parameters"):
        return ()
    taken = [rope] if "rope_theta" in rope else [one for one in rope.values() if one]
    bases = [one["rope_theta"] for one in taken if "rope_theta" in one]
    if (base := told.get("rope_theta")) is not None and base not in bases:
        why = f"transformers computes {text.model_type} with {' and '.join(f'{one:,.0f}' for one in bases)}"
        mend = "write rope_parameters with the one that the model was made with"
        raise ModelError(f"rope_theta {base} is passed over", str(folder.path / "config.json"), why, mend)
    attention = told.get("attn_config")
    base = attention.get("rope_theta") if isinstance(attention, Mapping) else None
    if base is None or base in bases:
        return ()
    rope["rope_theta"] = base
    return (f"attn_config.rope_theta {base:,.0f}, which transformers passes over, is taken",)


def _ahead(hf_config: Any) -> tuple[str, ...]:
    """A note, if other programs let each token of a prompt see the whole prompt (PaliGemma)."""
    if getattr(hf_config.get_text_config(), "use_bidirectional_attention", None) is not True:
        return ()
    return (
        "every token is read from the left; other programs let a prompt of this family see all of itself",
    )


def _check_size(hf_config: Any, folder: Folder) -> None:
    """Compare what the config describes with what the files hold, before anything is allocated for it."""
    where = str(folder.path / "config.json")
    layers = getattr(hf_config.get_text_config(), "num_hidden_layers", 0)
    if layers > len(folder.shapes):
        what = f"the config describes {layers:,} layers, more than the weights have"
        why = f"the files hold {len(folder.shapes):,} tensors, and a layer needs several"
        mend = "config.json and the weights belong to different models, or a file is missing"
        raise ModelError(what, where, why, mend)
    described = sum(parameter.numel() for parameter in on_meta(hf_config, where).parameters())
    if described > (held := num_elements(folder)):
        why = f"it describes {described:,} parameters, the files hold {held:,}"
        mend = "config.json and the weights belong to different models, or a file is missing"
        raise ModelError("the config doesn't fit the weights", where, why, mend)


def _fingerprint(hashes: Sequence[tuple[str, str]]) -> str:
    return hashlib.sha256("\n".join(f"{name} {digest}" for name, digest in hashes).encode()).hexdigest()


def _stop_ids(ids: Sequence[int], tokenizer: Any) -> tuple[int, ...]:
    eos = tokenizer.eos_token_id
    return tuple(dict.fromkeys([*ids, *([] if eos is None else [int(eos)])]))


def _eos(hf_config: Any) -> list[int]:
    """What the config says, of the whole or of the language model in it."""
    configs = (hf_config, hf_config.get_text_config())
    return [id for config in configs for id in _ids(getattr(config, "eos_token_id", None))]


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [id for id in values if isinstance(id, int) and not isinstance(id, bool)]


# --- shapes ------------------------------------------------------------------------------------------------


def on_meta(hf_config: Any, where: str, dtype: torch.dtype | None = None) -> Any:
    """A module tree with shapes and no memory. fp32 without ``dtype``."""
    import torch

    from sapwood.base.network.parts import text_class

    try:
        with quiet(), torch.device("meta"):
            return text_class(hf_config)._from_config(copy.deepcopy(hf_config), dtype=dtype or torch.float32)
    except (RuntimeError, ValueError, TypeError, ArithmeticError, AttributeError, LookupError) as error:
        raise ModelError(
            "the config describes no model that can be built", where, first_line(error)
        ) from None


@contextmanager
def bars_of_transformers(what: str) -> Generator[None]:
    """Say what the block does, and how far transformers' own bars say that it is."""
    from transformers.utils import logging

    with told_bars(what) as bar:
        before = logging.set_tqdm_hook(lambda _, given, named: bar(*given, **named))
        try:
            yield
        finally:
            logging.set_tqdm_hook(before)


@contextmanager
def quiet() -> Generator[None]:
    """Silence the progress bars and reports of transformers: sapwood's errors say the same."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


# A start asks many times, and the modules of a large model take a tenth of a second and more.
_skeletons: WeakKeyDictionary[BaseSpec, Any] = WeakKeyDictionary()


def skeleton(spec: BaseSpec) -> Any:
    """The model without weights (on torch's meta device): its modules and shapes, to read. Everyone who asks
    gets the same one; `on_meta` makes one to change."""
    if spec not in _skeletons:
        _skeletons[spec] = on_meta(spec.hf_config, str(spec.path))
    return _skeletons[spec]


def whole_names(spec: BaseSpec) -> set[str]:
    """All weights of a wrapper, with those beside its language model. A model that is no wrapper has none
    here."""
    import torch

    from sapwood.base.network.parts import is_wrapper, whole_class

    if not is_wrapper(spec.hf_config):
        return set()
    with quiet(), torch.device("meta"):
        return set(whole_class(spec.hf_config)._from_config(copy.deepcopy(spec.hf_config)).state_dict())


def largest(text: Any, key: str) -> int | None:
    """A number of a config, the largest of any layer's: if layers differ, transformers refuses to say one
    for all. None if it says none."""
    differ = getattr(text, "is_heterogeneous", False)
    values = [getattr(one, key, None) for one in (text.per_layer_config if differ else [text])]
    return max((value for value in values if isinstance(value, int)), default=None)


def count_parameters(spec: BaseSpec) -> tuple[int, int]:
    """(weights of the decoder, weights of the embedding), from shapes alone."""
    from sapwood.base.network.parts import decoder_of

    model = skeleton(spec)
    embedding = model.get_input_embeddings().weight.numel()
    return sum(p.numel() for p in decoder_of(model).parameters()) - embedding, embedding
