"""Trained models to export: a random adapter on a tiny base, as `open_target` would give it."""

from __future__ import annotations

from pathlib import Path

import torch

from sapwood.adapter.attach import attach_lora
from sapwood.base.inspect import inspect_base
from sapwood.base.load import load_base
from sapwood.config.sections import BaseConfig, LoraConfig
from sapwood.serve.load import Loaded
from sapwood.template.render import Renderer


def tuned_on(
    model: str | Path,
    lora: LoraConfig = LoraConfig(rank=4, alpha=8),  # noqa: B008 - frozen
    *,
    strength: float = 0.1,
    system: str | None = None,
    config: BaseConfig | None = None,
) -> Loaded:
    """An adapter that says other things than its base. ``strength``: of B's random numbers."""
    config = config or BaseConfig(model=str(model), storage="fp32")
    spec = inspect_base(config)
    base = load_base(spec, config)
    adapted = attach_lora(base, lora)
    fill(adapted.parameters, strength)
    renderer = Renderer(spec.tokenizer, None, spec.stop_ids)
    return Loaded(base, adapted, renderer, system, "tuned")


def fill(parameters: dict[str, torch.nn.Parameter], strength: float) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in parameters.items():
            random = torch.randn(parameter.shape, generator=generator) * strength
            if "lora_B" in name:
                parameter.copy_(random)
            elif "lora_A" not in name:  # DoRA's magnitudes and IA3's factors
                parameter.mul_(1 + random)
