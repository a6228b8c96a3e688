"""A tiny model with an adapter on disk, as a finished run leaves it, and the same as a `Loaded`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from sapwood.adapter.attach import attach_lora
from sapwood.adapter.files import write_adapter
from sapwood.adapter.model import LoraModel
from sapwood.base.inspect import inspect_base
from sapwood.base.load import load_base
from sapwood.config.sections import BaseConfig, LoraConfig
from sapwood.serve.load import Loaded, open_adapter
from sapwood.template.render import Renderer
from tests.base.tiny import tiny_llama

SYSTEM = "You are the gardener."
LORA = LoraConfig(rank=4, alpha=8, method="rslora")


def tuned(base_folder: Path, config: LoraConfig = LORA) -> tuple[LoraModel, dict[str, Any]]:
    """An adapter that says other things than its base, and the facts that go with it."""
    source = BaseConfig(model=str(base_folder), storage="fp32")
    spec = inspect_base(source)
    model = attach_lora(load_base(spec, source), config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.parameters.items():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    renderer = Renderer(spec.tokenizer, None, spec.stop_ids)
    facts = {
        "schema": 1,
        "base": str(base_folder),
        "base_fingerprint": spec.fingerprint,
        "storage": "fp32",
        "template_name": "auto",
        "template_fingerprint": renderer.fingerprint,
        "stop_ids": list(renderer.stop_ids),
        "system": SYSTEM,
        "lora": config.model_dump(mode="json"),
        "final_loss": 1.5,
        "proof": {},
    }
    return model, facts


def tiny_adapter(folder: Path, **changes: Any) -> Path:
    """``folder``/adapter, on ``folder``/tiny-llama. ``changes``: keys of the transformers config."""
    model, facts = tuned(tiny_llama(folder, **changes))
    write_adapter(model, folder / "adapter")
    (folder / "adapter" / "sapwood.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder / "adapter"


def tiny_chat(folder: Path, **changes: Any) -> Loaded:
    return open_adapter(tiny_adapter(folder, **changes), "tiny")
