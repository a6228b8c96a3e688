"""Which program made an adapter, and what the adapter says of its base: read from its names and small
files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sapwood.adapter.facts import FACTS, SETTINGS
from sapwood.base.folder import read_json
from sapwood.base.sources import named_on_hub
from sapwood.errors import ModelError
from sapwood.gguf.file import GgufFile, is_gguf, read_gguf

HUB = re.compile(r"https://huggingface\.co/([\w.-]+/[\w.-]+)")


def is_adapter(place: Path) -> bool:
    """Does an adapter lie there: a folder of ours, PEFT's or mlx-lm's, or a GGUF file that holds one?"""
    if place.is_dir():
        return (place / SETTINGS).is_file() or (place / FACTS).is_file()
    return is_gguf(place) and holds_adapter(read_gguf(place))


def is_mlx(settings: Mapping[str, Any]) -> bool:
    """Are these the settings of an adapter of mlx-lm's?"""
    return "peft_type" not in settings and ("fine_tune_type" in settings or "lora_parameters" in settings)


def holds_adapter(file: GgufFile) -> bool:
    return file.metadata.get("general.type") == "adapter"


def told_base(place: Path) -> str | None:
    """What an adapter of another program says of its base: a name on a hub, or a path."""
    if place.is_file():
        return _base_of(read_gguf(place))
    settings = read_json(place / SETTINGS)
    name = settings.get("model" if is_mlx(settings) else "base_model_name_or_path")
    return name if isinstance(name, str) and name else None


def base_named(place: Path, base: str | None) -> str:
    """``base.model`` of an adapter of another program: ``base``, or what its files name. Raises ModelError
    if they name none."""
    told = told_base(place) if base is None else base
    if told is None:
        why = "its files name no base"
        raise ModelError(
            "it isn't known which base the adapter is for", str(place), why, "name the base: --base MODEL"
        )
    beside = place.parent / told
    return str(beside) if not Path(told).exists() and beside.exists() else named_on_hub(told)


def _base_of(file: GgufFile) -> str | None:
    """The base that the file names, if it does."""
    address = file.metadata.get("general.base_model.0.repo_url")
    found = HUB.match(address) if isinstance(address, str) else None
    return found[1] if found else None
