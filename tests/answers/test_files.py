"""The base that llama.cpp loads is the one that was trained on, number by number."""

from __future__ import annotations

from pathlib import Path

import torch

from sapwood.answers.files import base_key
from sapwood.base.inspect import inspect_base
from sapwood.config.sections import BaseConfig
from sapwood.types import BaseSpec
from tests.base.tiny import tiny_llama


def spec_of(folder: Path) -> BaseSpec:
    return inspect_base(BaseConfig(model=str(tiny_llama(folder))))


def key(spec: BaseSpec, storage: str) -> str:
    return base_key(spec, BaseConfig.model_validate({"model": spec.source, "storage": storage}))


def test_a_base_that_was_rounded_has_a_file_of_its_own(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    own = spec.hf_config.get_text_config()
    own.dtype = torch.float32
    assert key(spec, "fp32") == base_key(spec, None)
    assert len({key(spec, storage) for storage in ("fp32", "bf16", "fp16", "nf4")}) == 4
    own.dtype = torch.bfloat16  # its weights in bf16 are all that its file holds
    assert key(spec, "fp32") == key(spec, "bf16") == base_key(spec, None) != key(spec, "fp16")
