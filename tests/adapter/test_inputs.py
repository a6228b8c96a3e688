"""Noise on the embeddings: as strong as the paper says, drawn from a counter, and only while training."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from sapwood.adapter.inputs import hidden_states, noisy
from sapwood.compute.attention.seam import packed_attention
from sapwood.compute.batch import to_batch
from sapwood.pack.build import build_pack
from sapwood.train.loop import pack_examples
from sapwood.types import Segment
from tests.parity.cases import config, lora_model, random_examples

ALPHA = 5.0


def test_the_noise_is_uniform_and_as_strong_as_each_row_is_long() -> None:
    segments = (Segment(0, 100, 0), Segment(100, 500, 0))
    noise = noisy(torch.zeros(1, 500, 64), segments, ALPHA, seed=3)[0]
    for segment in segments:
        bound = ALPHA / math.sqrt(len(segment) * 64)
        own = noise[segment.start : segment.stop]
        assert float(own.abs().max()) <= bound
        # each row's noise has a norm near alpha / sqrt(3), whatever its length
        assert float(own.norm()) == pytest.approx(ALPHA / math.sqrt(3), rel=0.05)
    assert torch.equal(noise, noisy(torch.zeros(1, 500, 64), segments, ALPHA, seed=3)[0])
    assert not torch.equal(noise, noisy(torch.zeros(1, 500, 64), segments, ALPHA, seed=4)[0])


def test_it_is_there_while_training_moves_with_the_step_and_touches_no_generator() -> None:
    model = lora_model()
    batch = to_batch(build_pack(random_examples(3), share_prefixes=False))

    def found(neftune: float, step: int = 0, training: bool = True) -> torch.Tensor:
        model.clock.step = step
        model.peft.train(training)
        with torch.no_grad(), packed_attention(model.network, model.backend):
            return hidden_states(replace(model, neftune=neftune), batch)

    generator = torch.random.get_rng_state()
    plain = found(0.0)
    assert torch.equal(found(ALPHA, training=False), plain)
    assert torch.equal(found(ALPHA), found(ALPHA))
    assert not torch.equal(found(ALPHA), plain)
    assert not torch.equal(found(ALPHA), found(ALPHA, step=1))
    assert torch.equal(torch.random.get_rng_state(), generator)


def test_rows_with_noise_share_no_beginning() -> None:
    examples = random_examples(3, shared=30)
    (shared,) = pack_examples(examples, config())
    (own,) = pack_examples(examples, config(train={"neftune": ALPHA}))
    assert len(own.ids) == sum(len(example) for example in examples) > len(shared.ids)
    assert len(own.segments) == 3 and all(segment.parent is None for segment in own.segments)
