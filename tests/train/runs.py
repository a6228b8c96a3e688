"""A run of six steps on a tiny model, for the tests of loop and checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from sapwood.adapter.attach import attach_lora
from sapwood.adapter.model import LoraModel, adapter_tensors
from sapwood.config.sections import RunConfig
from sapwood.train.optim import TrainState, new_state
from sapwood.types import Event, Stepped, TrainData
from tests.parity.cases import config, random_examples, tiny_base

STEPS = 6


def six_steps(**sections: Any) -> RunConfig:
    """Two epochs of 10 examples, 4 a step: the last step of an epoch has two."""
    train = {"batch_size": 4, "lr": 1e-2, "seed": 3} | sections.pop("train", {})
    if "max_steps" not in train:
        train = {"epochs": 2} | train
    lora = {"rank": 2, "alpha": 8, "dropout": 0.1} | sections.pop("lora", {})
    return config(train=train, lora=lora, pack={"length": 64}, **{"eval": {"every": 2}} | sections)


def data(*, held_out: int = 3) -> TrainData:
    return TrainData(random_examples(10, shared=9, seed=1), random_examples(held_out, shared=9, seed=2))


def start(settings: RunConfig) -> tuple[LoraModel, TrainState]:
    model = attach_lora(tiny_base(), settings.lora, settings.train.seed)
    return model, new_state(model.parameters, settings.train)


def adapter(model: LoraModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in adapter_tensors(model).items()}


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Equal to the last bit, NaN included."""
    return a.keys() == b.keys() and all(
        torch.equal(a[name].view(torch.int32), b[name].view(torch.int32)) for name in a
    )


def timeless(event: Event) -> Event:
    """The event without what differs from run to run by nature."""
    return replace(event, seconds=0.0, **({"peak_bytes": 0} if isinstance(event, Stepped) else {}))
