"""Tiny bases and random examples that the parity tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sapwood.adapter.attach import attach_lora
from sapwood.adapter.model import LoraModel
from sapwood.config.file import parse_config
from sapwood.config.sections import LoraConfig, RunConfig
from sapwood.machine.device import CPU, Device
from sapwood.types import Base, BaseSpec, Example, Head, RowId
from tests.base.tiny import VOCAB_SIZE, tiny_model, tiny_tokenizer


def tiny_base(arch: str = "llama", seed: int = 0, device: Device = CPU, **changes: Any) -> Base:
    """A random two-layer model as a `Base`, without going through a folder."""
    model = tiny_model(arch, seed, **changes).requires_grad_(False)
    spec = BaseSpec("tiny", Path("tiny"), "0" * 64, tiny_tokenizer(), model.config, (2,))
    softcap = getattr(model.config, "final_logit_softcapping", None)
    return Base(spec, model, model.model, Head(model.lm_head.weight, None, 1.0, softcap), "fp32", device)


def lora_model(arch: str = "llama", *, rank: int = 4, dropout: float = 0.0, **changes: Any) -> LoraModel:
    """A tiny base with an adapter whose B is not zero, so that every gradient is alive."""
    import torch

    model = attach_lora(tiny_base(arch, **changes), LoraConfig(rank=rank, alpha=8, dropout=dropout), seed=1)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.parameters.items():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    return model


def random_examples(number: int, *, shared: int = 0, longest: int = 40, seed: int = 0) -> list[Example]:
    """``number`` examples of 2 to ``longest`` own tokens after ``shared`` common ones; the tail is
    trained."""
    rng = np.random.default_rng(seed)
    prefix = rng.integers(3, VOCAB_SIZE, shared)
    out: list[Example] = []
    for index in range(number):
        own = rng.integers(3, VOCAB_SIZE, rng.integers(2, longest + 1))
        ids = np.concatenate([prefix, own]).astype(np.int32)
        trained = np.zeros(len(ids), np.bool_)
        trained[-int(rng.integers(1, len(own))) :] = True
        out.append(Example(RowId("random", index), ids, trained))
    return out


def config(**sections: Any) -> RunConfig:
    """A valid config with a few sections changed: ``config(train={"lr": 1e-3})``."""
    return parse_config({"data": {"train": "rows.jsonl"}} | sections)
