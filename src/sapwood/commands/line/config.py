"""The config that a verb's first words name: a file of ours, a file of data, or nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from sapwood.commands.line.options import USUAL
from sapwood.config.file import MAX_BYTES, inline_yaml
from sapwood.config.sections import RunConfig
from sapwood.data.files.paths import BUILTIN, HUB, is_data


def named_config(first: Path, overrides: Sequence[str]) -> tuple[Path | None, list[str]]:
    """(config's file, overrides) of what was typed. ``first`` may be an override itself, if `USUAL` is meant;
    or data, which are then all that is known: None, and an override that names them."""
    text = str(first)
    if "=" in text and not first.exists():
        return USUAL, [text, *overrides]
    if _is_data(first):
        return None, [f"data.train={inline_yaml([text])}", *overrides]
    return first, [*overrides]


def _is_data(path: Path) -> bool:
    text = str(path)
    if text.startswith((BUILTIN, HUB)) or path.is_dir():
        return True
    return is_data(path.name) and not (path.suffix.lower() == ".json" and _is_config(path))


def _is_config(path: Path) -> bool:
    """Whether a file is JSON with our sections, which is a config: YAML also reads JSON."""
    try:
        tree = json.loads(path.read_bytes()) if path.stat().st_size <= MAX_BYTES else None
    except (OSError, ValueError, RecursionError):
        return False
    keys = cast(Mapping[str, Any], tree).keys() if isinstance(tree, dict) else set[str]()
    return bool(keys) and keys <= RunConfig.model_fields.keys()
