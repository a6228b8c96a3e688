"""The base that llama.cpp loads is the one that was trained on, number by number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sapwood.answers.files import base_key, write_base
from sapwood.base.inspect import inspect_base
from sapwood.base.storage import storages
from sapwood.config.sections import BaseConfig
from sapwood.endpoint.build import as_held
from sapwood.errors import ModelError
from sapwood.machine.measure import machine_facts
from sapwood.serve.load import find_target, load_found, open_adapter
from sapwood.types import BaseSpec
from tests.base.tiny import tiny_llama
from tests.endpoint.serving import make_adapter


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


def test_the_server_rounds_the_base_as_training_did_and_leaves_the_adapter(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path)
    loaded = open_adapter(make_adapter(base, tmp_path / "adapter", 1), "adapter", exact=True)
    assert loaded.model is not None
    before = {name: one.detach().clone() for name, one in loaded.base.model.named_parameters()}
    adapter = {id(one) for one in loaded.model.parameters.values()}
    as_held(loaded, BaseConfig(model=str(base), storage="bf16"))
    changed = {True: 0, False: 0}  # by: is it the adapter's?
    for name, now in loaded.base.model.named_parameters():
        own, was = id(now) in adapter, before[name]
        assert now.dtype == torch.float32
        assert torch.equal(now, was if own else was.bfloat16().float()), name
        changed[own] += not torch.equal(now, was)
    assert changed[True] == 0 < changed[False]
    assert adapter and all(one.dtype == torch.float32 for one in loaded.model.parameters.values())


def test_a_base_alone_is_written_as_its_files_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processor's own format is bf16. An adapter that was trained in fp32 asks for the same file."""

    def facts(device: Any) -> dict[str, Any]:
        return {**machine_facts(device), "dtype": "bf16"}

    monkeypatch.setattr(storages, "machine_facts", facts)
    found = find_target(str(tiny_llama(tmp_path)), tmp_path)
    assert load_found(found, exact=True).base.storage == "fp32"
    talked_to = load_found(found)
    assert talked_to.base.storage == "bf16"
    with pytest.raises(ModelError, match="held in bf16, which rounds its weights"):
        write_base(talked_to, None, tmp_path / "base.gguf")
    assert not (tmp_path / "base.gguf").exists()
    held = BaseConfig(model=talked_to.base.spec.source, storage="bf16")
    write_base(talked_to, held, tmp_path / "base.gguf")
    assert (tmp_path / "base.gguf").is_file()
