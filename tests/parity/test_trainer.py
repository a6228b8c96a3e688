"""Our loss sequence == transformers' Trainer + PEFT on the same examples in the same order."""

from __future__ import annotations

import pytest

from sapwood.adapter.attach import attach_lora
from sapwood.train.loop import train
from sapwood.train.optim import new_state
from sapwood.types import Stepped, TrainData
from tests.base.tiny import tiny_model
from tests.parity.cases import config, random_examples, tiny_base
from tests.parity.trainer import in_training_order, trainer_losses

STEPS = 20


@pytest.mark.parametrize("arch", ["llama", "gemma2"])
def test_twenty_steps_are_those_of_trainer_and_peft(arch: str) -> None:
    """000-4: Gemma 2 is trained with its scores capped, as by eager attention, which sdpa leaves out."""
    settings = config(
        lora={"rank": 4, "alpha": 8, "dropout": 0},
        train={"batch_size": 4, "max_steps": STEPS, "lr": 1e-2, "warmup": 0},
        pack={"length": 64},
    )
    examples = random_examples(32, shared=10)
    model = attach_lora(tiny_base(arch), settings.lora, seed=3)
    ordered = in_training_order(examples, settings, STEPS)
    theirs = trainer_losses(tiny_model(arch, attn_implementation="eager"), model, ordered, settings, STEPS)
    state = new_state(model.parameters, settings.train)
    events = list(train(model, TrainData(examples), state, settings))
    ours = [event.loss for event in events if isinstance(event, Stepped)]
    assert len(ours) == len(theirs) == STEPS
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 1e-3
    assert ours[-1] < ours[0] - 0.1, "the adapter must have learnt something for this to mean anything"
