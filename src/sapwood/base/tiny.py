"""A tiny model of the same architecture. All that training needs is tried on it before any weight is loaded.

Whatever decides which code runs stays as it is: kinds of layers, widths of heads, grouped heads, scalings,
norms, biases, soft caps. Only counts and widths shrink: layers to one of each kind, heads, experts, the MLP,
the vocabulary; and windows, so that a short row is longer than its window.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from sapwood.base.network.parts import is_wrapper, text_class
from sapwood.errors import first_line
from sapwood.gguf.settled import UNSAID
from sapwood.machine.shortage import refuse_shortage

WINDOW = 8
VOCABULARY = 256
MOST = 100_000_000  # parameters; a copy that is larger isn't tiny
EXPERTS = 4
LATENT = 32  # width of a latent, at least
LATENTS = ("q_lora_rank", "kv_lora_rank")  # some layers scale by the model's width over them
LIMITS = {  # keys of configs, and what they are at most in the copy
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), EXPERTS),
    **dict.fromkeys(
        ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k", "top_k_experts"), 2
    ),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "num_shared_experts"), 1),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 64),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "expert_ffn_hidden_size"), 64),
    "hidden_size_per_layer_input": LATENT,
    **dict.fromkeys(("sliding_window", "attention_window_size", "attention_chunk_size"), WINDOW),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"), 1),
    **dict.fromkeys(("attn_layer_period", "expert_layer_period", "decoder_sparse_step"), 2),
    **dict.fromkeys(("attn_layer_offset", "expert_layer_offset"), 1),
}
WIDE = (
    "decoder_ffn_dim",
    "intermediate_size",
    "ffn_hidden_size",
    "ffn_dim",
    "n_inner",
    "intermediate_size_mlp",
    "mlp_dim",
)
GROWING = (
    "mamba_n_heads",
    "n_mamba_heads",
    "mamba_d_ssm",
    "attention_hidden_size",
    "num_query_groups",
)  # with the width
OF_STATES = ("num_heads", "intermediate_size", "attention_hidden_size", "time_step_rank", "embedding_dim")
OF_FILES = {"_name_or_path", "architectures", "dtype", "transformers_version"}
HEADS = ("num_attention_heads", "num_key_value_heads", "hidden_size", "num_hidden_layers")
NAMED = (
    "attn_layer_indices",
    "hybrid_layer_ids",
    "full_attn_idxs",
    "mlp_only_layers",
    "moe_layers",
    "ple_layer_ids",
)
OF_PICTURES = re.compile("image|video|vision|audio")  # tokens that stand for them: no row may have those
# keys of a part beside text that say the width of what it hands to text
TO_TEXT = re.compile(r"^(adapter_)?out(put)?_(hidden_)?(size|dim)$|^text_hidden_size$")
BRIDGE = re.compile("adap|project")  # parts between another part and text
DEPTH = re.compile(r"^(num_hidden_layers|num_layers|depth|num_blocks)$")
WAYS = ((2, 1), (2, 2), (4, 1), (8, 1), (4, 2))  # heads of keys, and layers of each kind, at most


class NotOnTextError(ValueError):
    """A tiny copy was made, and can't be run on ids alone."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(first_line(cause))
        self.cause = cause


def tiny_config(
    hf_config: Any, vocabulary: int = VOCABULARY, *, heads: int | None = 2, layers: int = 1
) -> Any:
    """The config of the tiny copy of a model of ``hf_config``, which stays as it is. ``vocabulary``: its rows
    at most. heads: of keys at most, as wide as they are; None leaves widths, for a family whose widths depend
    on each other in ways of their own. layers: of each kind."""
    config = copy.deepcopy(hf_config)
    text = config.get_text_config()
    own, width = _taken_apart(text), text.hidden_size
    for key, most in LIMITS.items():
        _limit(text, key, most)
    for key in ("vocab_size", "vocab_size_per_layer_input"):
        _limit(text, key, vocabulary)
    if heads is not None:
        _narrow(text, heads)
        _follow(config, text, width)
    _shorten(text, own, layers, pairs=heads is not None)
    if names := getattr(text, "vocabulary_map", None):
        text.vocabulary_map = {name: id for name, id in names.items() if not name.startswith(UNSAID)}
    for key in list(text.to_dict()):
        if key.endswith("token_id") and not OF_PICTURES.search(key):
            _limit(text, key, vocabulary - 1)
    return config


def decides_copy(hf_config: Any) -> str:
    """What decides how a tiny copy behaves, to keep an answer under: the config without what says where it
    came from, and in which formats its weights are held."""
    return json.dumps(_without(hf_config.to_dict(), OF_FILES), sort_keys=True, default=str)


def tiny_model(hf_config: Any, folder: Path, vocabulary: int = VOCABULARY, seed: int = 0) -> Any:
    """Write a random model of `tiny_config` to ``folder`` in Hugging Face layout; returns its config.

    Raises ValueError if a config of this kind can't be made tiny, and whatever transformers raises.
    """
    model = tiny_network(hf_config, vocabulary, seed)
    model.save_pretrained(folder)
    return model.config


def tiny_network(hf_config: Any, vocabulary: int = VOCABULARY, seed: int = 0) -> Any:
    """A random model of `tiny_config`, in fp32 and eval mode. Errors as of `tiny_model`.

    The first of the ways to make a model small that works is taken. If none does, the error of the first way
    is raised, because that says most about the model.
    """
    first: Exception | None = None
    for heads, layers in (*WAYS, (None, 1)):
        try:
            return _built(tiny_config(hf_config, vocabulary, heads=heads, layers=layers), seed)
        except Exception as error:  # each architecture has its own
            refuse_shortage(error, "a tiny copy of the model was made")
            first = first or error
    assert first is not None
    raise first


def _built(config: Any, seed: int) -> Any:
    """A random model that runs."""
    import torch

    kind = text_class(config)
    if (size := _size(kind, config)) > MOST and is_wrapper(config):
        _flatten(config)
        size = _size(kind, config)
    if size > MOST:
        raise ValueError(f"a copy of a few layers still has {size:,} parameters")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        if is_wrapper(config):  # parts that text doesn't go through are never made
            with _unset_as_nan():
                model = kind.from_pretrained(None, config=config, state_dict={}, dtype=torch.float32)
            model._weight_conversions = None  # saved in the family's own layout
        else:
            model = kind._from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            # norms and biases start constant, which would hide a mix-up; decays of states start as they decay
            if parameter.dim() < 2 or parameter.mean().abs() > parameter.std():
                parameter.nan_to_num_(0.0).add_(0.1 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * max(parameter.shape[-1], 1) ** -0.5)
        _tame(model)
        model.eval()
        try:
            model(input_ids=torch.arange(4)[None], use_cache=False)
        except Exception as error:  # each architecture has its own
            raise NotOnTextError(error) from error
    return model


def _tame(model: Any) -> None:
    """Attention that doesn't divide its scores leaves their size to its norms of queries and keys.

    Trained norms keep scores near 1. Norms of 1 give the root of the head's width, and a softmax of that is
    all but one-hot.
    """
    for module in model.modules():
        norms = [getattr(module, name, None) for name in ("q_norm", "k_norm")]
        if getattr(module, "scaling", None) != 1.0 or any(norm is None for norm in norms):
            continue
        for norm in norms:
            if (weight := getattr(norm, "weight", None)) is not None:
                weight.mul_(len(weight) ** -0.25)


@contextmanager
def _unset_as_nan() -> Generator[None]:
    """Inside, memory that nobody has written holds NaN: transformers' initialiser passes over some
    parameters, and what lies there by chance would be their value."""
    import torch

    enabled, only_warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=only_warns)


def _size(kind: Any, config: Any) -> int:
    """Parameters of a model, which isn't made."""
    import torch

    with torch.device("meta"):
        return sum(p.numel() for p in kind._from_config(copy.deepcopy(config)).parameters())


def _beside(config: Any) -> Iterator[tuple[str, Any]]:
    """The configs of a wrapper's parts beside text, by name."""
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if part is not None and part is not config.get_text_config():
            yield name, part


def _follow(config: Any, text: Any, width: int) -> None:
    """Parts beside text that end in its width, which was ``width``, end in its new one."""
    for name, part in _beside(config):
        for key, value in list(vars(part).items()):
            if TO_TEXT.match(key) and value == width:
                setattr(part, key, text.hidden_size)
        if BRIDGE.search(name) and getattr(part, "hidden_size", None) == width:
            part.hidden_size = text.hidden_size
            if isinstance(inner := getattr(part, "intermediate_size", None), int):
                part.intermediate_size = max(inner * text.hidden_size // width, 1)


def _flatten(config: Any) -> None:
    """Two layers in each part that is made although text doesn't go through it."""
    for _, part in _beside(config):
        depth = getattr(part, "num_hidden_layers", None)
        for key, value in list(vars(part).items()):
            if DEPTH.match(key):
                _limit(part, key, 2)
            elif isinstance(value, list) and key.endswith("layer_types") and len(value) == depth:
                setattr(part, key, value[:2])


def _narrow(text: Any, few: int) -> None:
    """Fewer heads of the same width, in groups as before; the model as wide as they are together."""
    heads, width = getattr(text, "num_attention_heads", None), text.hidden_size
    if heads is None:  # layers of states alone
        text.hidden_size = min(few * 64, width)
        _grow(text, OF_STATES, width)
        return
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    own = getattr(text, "head_dim", None) or getattr(text, "attention_head_size", None)
    dim = own if isinstance(own, int) and own > 0 else width // heads
    few = min(key_heads, few)
    text.num_attention_heads = few * min(heads // key_heads, 2)
    if getattr(text, "num_key_value_heads", None):
        text.num_key_value_heads = few
    text.hidden_size = text.num_attention_heads * dim
    _limit(text, "decoder_attention_heads", text.num_attention_heads)
    for key in LATENTS:
        if isinstance(value := getattr(text, key, None), int):
            _limit(text, key, max(value * text.hidden_size // width, LATENT))
    _grow(text, GROWING, width)
    for key in WIDE:
        _limit(text, key, 2 * text.hidden_size)


def _grow(text: Any, keys: Sequence[str], width: int) -> None:
    """Counts and widths that go with the model's, which was ``width``."""
    for key in keys:
        if isinstance(value := getattr(text, key, None), int):
            setattr(text, key, max(value * text.hidden_size // width, 1))
    for key, value in list(vars(text).items()):  # widths that make up the model's together
        if key.endswith("_dim") and isinstance(value, list | tuple) and sum(value) == width:
            setattr(text, key, type(value)(part * text.hidden_size // width for part in value))


def _taken_apart(text: Any) -> dict[int, dict[str, Any]]:
    """Take out of the config what single layers have otherwise: the config refuses to say of all layers what
    isn't true of all."""
    told: Mapping[str, dict[str, Any]] = text.to_dict().get("per_layer_config") or {}
    if told:
        text.per_layer_config = None
    return {int(layer): values for layer, values in told.items()}


def _shorten(text: Any, own: Mapping[int, dict[str, Any]], most: int, *, pairs: bool) -> None:
    """``most`` layers of each kind, two at least if ``pairs``. What is said of each layer is a list as long
    as the layers, a list of those that something is true of, or ``own``."""
    count = text.num_hidden_layers
    each = {
        key: list(value)
        for key, value in vars(text).items()
        if isinstance(value, list | tuple) and len(value) == count and key not in NAMED and key[0] != "_"
    }
    named = {key: value for key in NAMED if isinstance(value := getattr(text, key, None), list | tuple)}
    kinds: dict[str, list[int]] = {}
    for i in range(count):
        said = [str(values[i]) for values in each.values()] + [i in layers for layers in named.values()]
        kinds.setdefault(repr((said, own.get(i))), []).append(i)
    chosen = sorted(i for same in list(kinds.values())[:4] for i in same[:most])
    shared = getattr(text, "num_kv_shared_layers", 0) or 0
    if shared or (pairs and len(chosen) == 1):  # layers that take keys from other layers need these
        chosen = chosen * 2
    for key, values in each.items():
        setattr(text, key, type(getattr(text, key))(values[i] for i in chosen))  # tuples stay tuples
    for key, layers in named.items():
        setattr(text, key, [new for new, i in enumerate(chosen) if i in layers])
    text.num_hidden_layers = len(chosen)
    for key in ("decoder_layers", "num_blocks"):
        _limit(text, key, len(chosen))
    if shared:
        text.num_kv_shared_layers = len(chosen) // 2
    if own:
        text.per_layer_config = {i: _fitting(text, own[old]) for i, old in enumerate(chosen) if old in own}


def _fitting(text: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of one layer that differ from the others', made as small as the rest."""
    most = LIMITS | {key: getattr(text, key) for key in HEADS if isinstance(getattr(text, key, None), int)}
    most |= dict.fromkeys(WIDE, 2 * text.hidden_size)
    return {
        key: min(value, most[key]) if key in most and isinstance(value, int) else value
        for key, value in values.items()
    }


def _without(value: Any, keys: set[str]) -> Any:
    """A value of JSON without some keys, at any depth."""
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return {key: _without(inner, keys) for key, inner in items if key not in keys}
    return value


def _limit(config: Any, key: str, most: int) -> None:
    """Bring a number, or the numbers of a list, down to ``most``."""
    value = getattr(config, key, None)
    if isinstance(value, list | tuple) and all(isinstance(one, int) for one in value):
        setattr(config, key, [min(one, most) for one in value])
    elif isinstance(value, int) and not isinstance(value, bool) and value > most:
        setattr(config, key, most)
