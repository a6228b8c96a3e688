"""Tiny random models for text and pictures, with every part, as a folder that transformers opens."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING

from sapwood.base.network.parts import is_wrapper, whole_class
from sapwood.base.tiny import tiny_model
from tests.base.tiny import VOCAB_SIZE, tiny_tokenizer

DEPTH = re.compile(r"^(num_hidden_layers|num_layers|depth|.*encoder_layers|num_.*layers|n_layers)$")
MOST = 60_000_000  # parameters of the parts beside text; with more, the folder has the text's alone


def tiny_wrapper(kind: str, folder: Path, text: Mapping[str, Any] | None = None, **changes: Any) -> Any:
    """`tiny_folder` of ``kind``; returns its config. ``text``: changes of the language model's config;
    ``changes``: of the whole's."""
    config: Any = CONFIG_MAPPING[kind](**changes, **({"text_config": dict(text)} if text else {}))
    tiny_folder(config, folder)
    return config


def tiny_folder(config: Any, folder: Path) -> Path:
    """Write the tiny model of ``config`` with a tokenizer to ``folder``.

    Raises whatever transformers raises if it can't be made.
    """
    for one in (config, config.get_text_config()):
        for key in ("bos_token_id", "pad_token_id", "eos_token_id"):
            setattr(one, key, {"eos_token_id": 2}.get(key, 0))
    made = tiny_model(config, folder, vocabulary=VOCAB_SIZE)
    if is_wrapper(made) and (whole := _whole(made, folder)) is not None:
        whole.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def _whole(made: Any, folder: Path) -> Any:
    """The text's weights of ``folder`` and random ones for the rest; None if the rest can't be small."""
    config = copy.deepcopy(made)
    for part in config.sub_configs:
        if (inner := getattr(config, part, None)) is not None and inner is not config.get_text_config():
            _flatten(inner)
    kind = whole_class(config)
    try:
        with torch.device("meta"):
            size = sum(p.numel() for p in kind(copy.deepcopy(config)).parameters())
        if size > MOST:
            return None
        torch.manual_seed(3)
        return kind.from_pretrained(folder, config=config, dtype=torch.float32)
    except Exception:  # each config class has its own
        return None


def _flatten(part: Any) -> None:
    """Two layers of each stack."""
    depth = getattr(part, "num_hidden_layers", None)
    for key, value in list(vars(part).items()):
        if DEPTH.match(key) and isinstance(value, int):
            setattr(part, key, min(value, 2))
        elif isinstance(value, list) and len(value) == depth and "type" in key:
            setattr(part, key, value[:2])
        elif isinstance(value, list) and value and "index" in key:
            setattr(part, key, [0])
