"""An adapter to go on from: the config's section that fits it, and its tensors."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sapwood.adapter.elsewhere.kind import is_adapter
from sapwood.adapter.elsewhere.read import read_saved
from sapwood.adapter.facts import ADAPTER_DIR, FACTS, read_facts, verify_adapter
from sapwood.config.sections import LoraConfig, Method
from sapwood.errors import ConfigError, ModelError, Problem
from sapwood.types import BaseSpec

KEY = "lora.start_from"
OWN_PLACES = ("layers_to_transform", "layers_pattern", "exclude_modules")  # told by full names instead
BESIDE = ("modules_to_save", "trainable_token_indices", "lora_bias", "target_parameters", "rank_pattern",
          "alpha_pattern")  # fmt: skip
log = logging.getLogger("sapwood")


def started(lora: LoraConfig, spec: BaseSpec) -> LoraConfig:
    """``lora`` with the method, rank, alpha and targets of the adapter that the run goes on from; unchanged
    if there is none. Raises ConfigError if ``lora`` itself says otherwise, and ModelError for an adapter of
    another base or of a form that can't be trained here."""
    if lora.start_from is None:
        return lora
    place = _place(lora.start_from)
    settings, tensors = read_saved(place, spec.hf_config)
    if (place / FACTS).is_file():
        verify_adapter(place, sealed=False)
        if read_facts(place).base_fingerprint != spec.fingerprint:
            raise ModelError("the adapter to go on from was trained on another base", str(place), mend=KEY)
    else:
        log.warning("%s: nothing proves that it was trained on %s", place, spec.source)
    found = _section(settings, tensors, place)
    if lora.method == "lora+" and found["method"] == "lora":
        found["method"] = "lora+"  # another way to train the same adapter
    told = {key: getattr(lora, key) for key in lora.model_fields_set & found.keys()}
    problems = [
        Problem(f"lora.{key} is {value}", f"lora.{key}", f"the adapter to go on from has {found[key]}",
                f"leave lora.{key} out")
        for key, value in told.items()
        if value != found[key]
    ]  # fmt: skip
    if problems:
        raise ConfigError(problems)
    return lora.model_copy(update=found)


def start_tensors(lora: LoraConfig, spec: BaseSpec) -> dict[str, Tensor]:
    """What the adapter to go on from holds, by PEFT's saved names."""
    assert lora.start_from is not None
    return read_saved(_place(lora.start_from), spec.hf_config)[1]


def _place(path: str) -> Path:
    """An adapter, or that of a finished run."""
    place = Path(path)
    place = place / ADAPTER_DIR if (place / ADAPTER_DIR).is_dir() else place
    if not is_adapter(place):
        raise ConfigError("no adapter lies there", f"{KEY} {path}", mend="name an adapter, or a run's folder")
    return place


def _section(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], place: Path) -> dict[str, Any]:
    kind = settings["peft_type"]
    odd = [key for key in BESIDE if settings.get(key)]
    if kind not in ("LORA", "IA3") or odd:
        why = f"it is a {kind} adapter" + (f" with {odd[0]}" if odd else "")
        mend = "merge it into its base (`sapwood export --to merged`), and train on that"
        raise ModelError("training can't go on from this adapter", str(place), why, mend)
    named = settings["target_modules"]
    if not isinstance(named, str):
        named = tuple(sorted(named))
    if any(settings.get(key) for key in OWN_PLACES):
        sides = (name.removeprefix("base_model.model.").partition(".lora_A.") for name in tensors)
        named = tuple(sorted(module for module, side, _ in sides if side))
    if kind == "IA3":
        return {"method": "ia3", "targets": named}
    method: Method = "dora" if settings.get("use_dora") else "lora"
    method = "rslora" if settings.get("use_rslora") else method
    return {
        "method": method,
        "rank": int(settings["r"]),
        "alpha": float(settings["lora_alpha"]),
        "targets": named,
        "bias": settings.get("bias", "none"),
    }
