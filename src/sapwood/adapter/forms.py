"""The forms of adapters that are understood: by the fields of their settings, and the names of their tensors.

PEFT grows forms every month, and one that is opened as if it were a plain LoRA answers wrongly in silence:
PiSSA and OLoRA also change the base's weights, aLoRA is switched on by a word, others add layers. So a field
either is known here not to matter or to be applied, or it has to be at its default.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, cast

from sapwood.errors import ModelError, Problem

# Fields that say nothing about what is computed.
TOLD = frozenset(
    {"peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"}
    | {"runtime_config"}
)
# Starts after which the original base with A and B is the whole truth.
PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")
MEND = "open it with the program that made it, or merge it into its base there"
MOST = 2**16  # largest rank, and largest alpha
# Numbers of a file from elsewhere, before any memory is taken or any product computed by them.
BOUNDS: dict[str, Callable[[Any], bool]] = {
    "r": lambda rank: type(rank) is int and 1 <= rank <= MOST,
    "init_r": lambda rank: type(rank) is int and 1 <= rank <= MOST,
    "lora_alpha": lambda alpha: type(alpha) in (int, float) and math.isfinite(alpha) and 0 < alpha <= MOST,
}
VIRTUAL = frozenset(
    {"num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers"}
)


# Where an adapter is put; whole modules beside it.
PLACED = frozenset(
    {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"}
)
PATTERNS = frozenset({"rank_pattern", "alpha_pattern"})
LYCORIS = PLACED | PATTERNS | {"r", "alpha", "rank_dropout", "module_dropout", "init_weights"}
LORA = PLACED | {"r", "lora_alpha", "lora_dropout", "bias", "fan_in_fan_out", "init_lora_weights"}
SCHEDULE = frozenset(  # how AdaLoRA came to its ranks
    {"target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step"}
)


@dataclass(frozen=True, slots=True)
class Form:
    """free: fields that may have any value, because what is saved follows them. tensors: how each name
    ends."""

    free: frozenset[str]
    tensors: str


FORMS = {
    "LORA": Form(
        LORA
        | PATTERNS
        | {"use_rslora", "use_dora", "lora_bias", "target_parameters", "trainable_token_indices"}
        | {"ensure_weight_tying"},
        r"\.lora_[AB]\.(weight|bias)|\.lora_embedding_[AB]|\.lora_magnitude_vector|\.bias"
        r"|\.trainable_tokens_delta|\.base_layer\.weight",
    ),
    "ADALORA": Form(LORA | {"rank_pattern"} | SCHEDULE, r"\.lora_[ABE]|\.ranknum|\.bias"),
    "LOHA": Form(LYCORIS | {"use_effective_conv2d"}, r"\.hada_w[12]_[ab]"),
    "LOKR": Form(
        LYCORIS | {"decompose_both", "decompose_factor", "rank_dropout_scale"}, r"\.lokr_w[12](_[ab])?"
    ),
    "VERA": Form(
        PLACED
        | {"r", "projection_prng_key", "save_projection", "vera_dropout", "d_initial", "bias"}
        | {"fan_in_fan_out", "init_weights"},
        r"\.vera_lambda_[bd]|\.vera_[AB]|\.bias",
    ),
    "IA3": Form(
        frozenset({"target_modules", "feedforward_modules", "init_ia3_weights"})
        | {"exclude_modules", "modules_to_save", "fan_in_fan_out"},
        r"\.ia3_l",
    ),
    "PROMPT_TUNING": Form(
        VIRTUAL
        | {"prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"},
        "prompt_embeddings",
    ),
    "P_TUNING": Form(
        VIRTUAL
        | {"encoder_hidden_size", "encoder_num_layers", "encoder_dropout", "encoder_reparameterization_type"},
        "prompt_embeddings",
    ),
    "PREFIX_TUNING": Form(VIRTUAL | {"encoder_hidden_size", "init_weights"}, "prompt_embeddings"),
}


def refuse_unknown_settings(settings: Mapping[str, Any], where: str) -> None:
    """Raises ModelError naming every field of ``settings`` that isn't understood. ``where``: their file."""
    kind = settings.get("peft_type")
    form = FORMS.get(kind) if isinstance(kind, str) else None
    if form is None:
        why = f"known here: {', '.join(FORMS)}" if "peft_type" in settings else "the file isn't PEFT's"
        raise ModelError(f"adapter type {kind!r} isn't supported", where, why, MEND)
    usual = defaults(str(kind))
    odd = [
        f"{key}: {_short(value)}"
        for key, value in settings.items()
        if key not in form.free | TOLD and not _as_usual(key, value, usual)
    ]
    numbers = [(key, key, settings.get(key, 1)) for key in BOUNDS]
    numbers += [
        (key, one, value)
        for key, one in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha"))
        if kind != "ADALORA"
        for value in _values(settings.get(key))
    ]
    odd += [f"{key}: {_short(value)}" for key, one, value in numbers if not BOUNDS[one](value)]
    start = settings.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        odd.append(f"init_lora_weights: {_short(start)}, which changes the base's own weights")
    if odd:
        problems = [
            Problem(
                f"the adapter's form isn't supported: {text}",
                where,
                "it would be opened as something else",
                MEND,
            )
            for text in odd
        ]
        raise ModelError(problems)


def refuse_unknown_tensors(settings: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    """Raises ModelError naming tensors that no adapter with these settings has in a known form: a head that
    ``modules_to_save`` doesn't name, for example."""
    kind = settings["peft_type"]
    whole = "|".join(map(re.escape, settings.get("modules_to_save") or ()))
    if whole and settings.get("ensure_weight_tying"):  # PEFT also saves what is tied to these modules
        whole += r"|\w+"
    known = re.compile(f"(?:{FORMS[kind].tensors}" + (rf"|\.(?:{whole})\.\w+" if whole else "") + ")$")
    odd = sorted(name for name in names if not known.search(name))
    if odd:
        why = f"{len(odd)} such tensors; a {kind} adapter with these settings has none"
        raise ModelError(f"the adapter holds {odd[0]}", where, why, "open it with PEFT")


def defaults(kind: str) -> dict[str, Any]:
    """The fields of PEFT's settings of type ``kind``, each with its default."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    found: dict[str, Any] = {}
    for one in fields(PEFT_TYPE_TO_CONFIG_MAPPING[kind]):  # type: ignore[index]
        made = one.default_factory() if one.default_factory is not MISSING else one.default
        found[one.name] = None if made is MISSING else made
    return found


def _as_usual(key: str, value: Any, usual: Mapping[str, Any]) -> bool:
    """Whether a field has its default; or is empty, as older versions of PEFT write unused fields."""
    if key == "task_type":
        return value in ("CAUSAL_LM", None)
    default = usual.get(key)
    return value == default or (not value and not default)


def _values(pattern: Any) -> list[Any]:
    """The values in a pattern of ranks or scales; the value itself if it is no pattern."""
    if isinstance(pattern, Mapping):
        return list(cast("Mapping[str, Any]", pattern).values())
    return [pattern] if pattern else []


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
