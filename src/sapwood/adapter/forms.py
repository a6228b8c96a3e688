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
from typing import Any

from sapwood.errors import ModelError, Problem

# Fields that say nothing about what is computed.
TOLD = frozenset(
    {"peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"}
    | {"runtime_config"}
)
# Starts after which the original base with A and B is the whole truth.
PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")
MOST = 2**16  # rank, and how far alpha may be from 1
# Numbers of a file from elsewhere, before any memory is taken or any product computed by them.
BOUNDS: dict[str, Callable[[Any], bool]] = {
    "r": lambda rank: type(rank) is int and 1 <= rank <= MOST,
    "lora_alpha": lambda alpha: type(alpha) in (int, float) and math.isfinite(alpha) and 0 < alpha <= MOST,
}
VIRTUAL = frozenset(
    {"num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers"}
)


@dataclass(frozen=True, slots=True)
class Form:
    """free: fields that may have any value, because what is saved follows them. tensors: how each name
    ends."""

    free: frozenset[str]
    tensors: str


FORMS = {
    "LORA": Form(
        frozenset(
            {"r", "lora_alpha", "lora_dropout", "target_modules", "bias", "use_rslora", "use_dora"}
            | {"init_lora_weights"}
        ),
        r"\.lora_[AB]\.weight|\.lora_magnitude_vector|\.bias",
    ),
    "IA3": Form(frozenset({"target_modules", "feedforward_modules", "init_ia3_weights"}), r"\.ia3_l"),
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
        raise ModelError(f"adapter type {kind!r} isn't supported", where, why, _mend(settings))
    usual = defaults(str(kind))
    odd = [
        f"{key}: {_short(value)}"
        for key, value in settings.items()
        if key not in form.free | TOLD and not _as_usual(key, value, usual)
    ]
    odd += [
        f"{key}: {_short(settings[key])}" for key, fits in BOUNDS.items() if not fits(settings.get(key, 1))
    ]
    start = settings.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        odd.append(f"init_lora_weights: {_short(start)}, which changes the base's own weights")
    if odd:
        problems = [
            Problem(
                f"the adapter's form isn't supported: {text}",
                where,
                "it would be opened as something else",
                _mend(settings),
            )
            for text in odd
        ]
        raise ModelError(problems)


def refuse_unknown_tensors(kind: str, names: Iterable[str], where: str) -> None:
    """Raises ModelError naming tensors that no adapter of PEFT's type ``kind`` has in a known form: a saved
    head or embedding, for example."""
    odd = sorted(name for name in names if not re.search(f"(?:{FORMS[kind].tensors})$", name))
    if odd:
        why = f"{len(odd)} such tensors; a plain {kind} adapter has none"
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
    """At its default; or empty, as older versions of PEFT write what they don't use."""
    if key == "task_type":
        return value in ("CAUSAL_LM", None)
    default = usual.get(key)
    return value == default or (not value and not default)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _mend(settings: Mapping[str, Any]) -> str:
    if "fine_tune_type" in settings:
        return "it is MLX's: convert it to PEFT's format first"
    return "open it with the program that made it, or merge it into its base there"
