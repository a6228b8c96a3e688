"""The loop: events in order, figures that are true, and no step that would spoil the adapter."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sapwood.adapter.attach import attach_lora
from sapwood.adapter.model import LoraModel
from sapwood.compute.attention.seam import is_packed, packed_attention
from sapwood.compute.batch import to_batch
from sapwood.compute.dropout import keep_mask
from sapwood.compute.linear import reference
from sapwood.compute.recompute import recompute_layers
from sapwood.errors import NumericsError
from sapwood.machine.device import Device
from sapwood.native import ops
from sapwood.native.build import why_not
from sapwood.pack.build import build_pack
from sapwood.train.checkpoint import load_checkpoint, save_checkpoint
from sapwood.train.loop import evaluate, forward_loss, optimizer_step, pack_examples, train
from sapwood.train.optim import new_state
from sapwood.train.schedule import Cursor, learning_rate, order, plan_steps
from sapwood.types import Evaluated, Event, Example, Finished, Head, RowId, Sample, Stepped, TrainData
from tests.parity.cases import config, random_examples, tiny_base
from tests.train.runs import STEPS, adapter, data, same_bits, six_steps, start, timeless


def mean_loss(model: LoraModel, examples: list[Example]) -> float:
    """The slow truth: each example in a pack of its own, no dropout."""
    total = 0.0
    model.peft.eval()
    with torch.no_grad(), packed_attention(model.network, model.backend):
        for example in examples:
            total += float(forward_loss(model, to_batch(build_pack([example]))).total)
    return total / sum(example.num_targets for example in examples)


def test_a_step_is_divided_by_the_sum_of_its_weights() -> None:
    settings = six_steps()
    examples = [
        replace(example, weights=np.full(len(example), 0.25 + i, np.float32))
        for i, example in enumerate(random_examples(4, shared=10))
    ]
    model, state = start(settings)
    sums = sum(mean_loss(model, plain([one])) * one.weight for one in examples)
    found = evaluate(model, examples, settings, 0).loss
    assert found == pytest.approx(sums / sum(one.weight for one in examples), rel=1e-5)
    whole = [replace(one, weights=np.full(len(one), 3, np.float32)) for one in examples]
    assert evaluate(model, whole, settings, 0).loss == pytest.approx(mean_loss(model, plain(whole)))
    loss, _ = optimizer_step(model, pack_examples(examples, settings), state, 0.0, 0.0)
    assert loss == pytest.approx(found, rel=1e-5)


def plain(examples: list[Example]) -> list[Example]:
    """The same without weights."""
    return [replace(example, weights=None) for example in examples]


def shape(events: list[Event]) -> list[tuple[str, int]]:
    return [(type(event).__name__, event.step) for event in events]


def test_events_come_in_the_documented_order() -> None:
    settings = six_steps()
    model, state = start(settings)
    found = shape(list(train(model, data(), state, settings)))
    assert found == [
        ("Evaluated", 0),
        ("Stepped", 1),
        ("Stepped", 2),
        ("Evaluated", 2),
        ("Stepped", 3),
        ("Stepped", 4),
        ("Evaluated", 4),
        ("Stepped", 5),
        ("Stepped", 6),
        ("Evaluated", 6),
        ("Finished", 6),
    ]
    assert (state.step, state.cursor, state.evaluated) == (6, Cursor(2, 0), 6)
    assert shape(list(train(model, data(), state, settings))) == [("Finished", 6)]


def test_evaluation_is_once_an_epoch_unless_told_and_always_at_the_end() -> None:
    settings = six_steps(eval={}, train={"max_steps": 4})
    events = list(train(start(settings)[0], data(), start(settings)[1], settings))
    assert [event.step for event in events if isinstance(event, Evaluated)] == [0, 3, 4]


def test_without_held_out_rows_nothing_is_evaluated() -> None:
    settings = six_steps()
    model, state = start(settings)
    events = list(train(model, TrainData(data().train), state, settings))
    assert shape(events) == [*[("Stepped", n) for n in range(1, 7)], ("Finished", 6)]
    assert events[-1].reason == "done" and events[-1].seconds > 0  # type: ignore[union-attr]


def test_the_figures_of_a_step_are_those_of_its_examples() -> None:
    settings = six_steps(lora={"dropout": 0.0})
    model, state = start(settings)
    examples, schedule = list(data().train), plan_steps(10, settings.train)
    for event in train(model, TrainData(examples), state, settings):
        if isinstance(event, Finished):
            break
        assert isinstance(event, Stepped)
        epoch, at = divmod(event.step - 1, 3)
        chosen = [examples[i] for i in order(3, epoch, 10)[4 * at : 4 * at + 4]]
        assert event.num_examples == len(chosen)
        assert event.num_targets == sum(example.num_targets for example in chosen)
        assert event.num_tokens == sum(len(example) for example in chosen)
        assert event.lr == learning_rate(event.step - 1, schedule, settings.train)
        assert event.epoch == pytest.approx(epoch + min(1.0, 0.4 * (at + 1)))
        assert event.grad_norm > 0 and event.seconds > 0 and event.peak_bytes > 10_000_000
        assert state.step == event.step
    assert event.step == STEPS


def test_the_first_loss_is_that_of_the_base_over_the_steps_targets() -> None:
    settings = six_steps(lora={"dropout": 0.0})
    model, state = start(settings)
    examples = data().train
    expected = mean_loss(model, [examples[i] for i in order(3, 0, 10)[:4]])
    stepped = next(e for e in train(model, TrainData(examples), state, settings) if isinstance(e, Stepped))
    assert stepped.loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("pack", [{"length": 64, "share_prefixes": False}, {"length": 2048}], ids=str)
def test_packing_does_not_change_the_loss_curve(pack: dict[str, Any]) -> None:
    curves: list[list[float]] = []
    for settings in (six_steps(lora={"dropout": 0.0}), six_steps(lora={"dropout": 0.0})):
        if curves:
            settings = settings.model_copy(update={"pack": settings.pack.model_copy(update=pack)})
        model, state = start(settings)
        curves.append([e.loss for e in train(model, data(), state, settings) if not isinstance(e, Finished)])
    assert len(curves[0]) == 10
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


def test_training_keeps_no_cache() -> None:
    """Whatever the model's config says: keys and values of a training row are read once."""
    settings = six_steps(train={"max_steps": 1})
    model, state = start(settings)
    model.network.config.use_cache = True
    kept: list[Any] = []
    model.backbone.register_forward_hook(lambda _, x, out: kept.append(out.past_key_values))
    list(train(model, data(), state, settings))
    assert kept and kept == [None] * len(kept)


def test_it_learns() -> None:
    settings = six_steps(train={"epochs": 40, "batch_size": 2}, lora={"rank": 8, "dropout": 0.0})
    # an own head: the logits of one that is tied to small random embeddings are bounded
    model = attach_lora(tiny_base(tie_word_embeddings=False), settings.lora)
    state = new_state(model.parameters, settings.train)
    events = list(train(model, TrainData(data().train[:2]), state, settings))
    losses = [event.loss for event in events if isinstance(event, Stepped)]
    assert len(losses) == 40
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("limit", [0.0, 0.01, 1e6])
def test_gradients_are_scaled_down_to_the_limit_and_zero_never_clips(limit: float) -> None:
    settings = six_steps(train={"max_grad_norm": limit})
    model, state = start(settings)
    event = next(e for e in train(model, data(), state, settings) if isinstance(e, Stepped))
    grads = [p.grad for p in model.parameters.values() if p.grad is not None]
    after = math.sqrt(sum(float(g.double().square().sum()) for g in grads))
    assert event.grad_norm > 0.01
    assert after == pytest.approx(0.01 if limit == 0.01 else event.grad_norm, rel=1e-3)


@pytest.mark.parametrize("native", [False, True])
def test_every_step_pack_and_input_draws_a_mask_of_its_own(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if native and (reason := why_not()):
        pytest.skip(reason)
    monkeypatch.setattr(Device, "compiled", native)
    settings = six_steps()
    model, state = start(settings)
    seeds: list[int] = []

    def noting(rows: int, columns: int, drop: ops.Dropout, device: torch.device) -> torch.Tensor:
        seeds.append(drop.seed)
        return keep_mask(rows, columns, drop, device)

    def noted(self: ops.Dropout) -> Any:
        seeds.extend([self.seed] if self.rate else [])
        return struct(self)

    struct = ops.Dropout.struct
    monkeypatch.setattr(reference, "keep_mask", noting)
    monkeypatch.setattr(ops.Dropout, "struct", noted)
    for _ in train(model, data(), state, settings):
        pass
    packs = 0
    for epoch, at in itertools.product(range(2), (0, 4, 8)):
        chosen = [data().train[i] for i in order(3, epoch, 10)[at : at + 4]]
        packs += len(pack_examples(chosen, settings))
    inputs = 2 * 4  # two layers; q, k and v share one, and so do gate and up
    assert packs > STEPS
    assert len(set(seeds)) == packs * inputs
    assert len(seeds) == 2 * packs * inputs  # drawn again in the backward pass


def test_an_evaluation_measures_without_dropout_and_moves_nothing() -> None:
    settings = six_steps(lora={"dropout": 0.5})
    model, _ = start(settings)
    for name, parameter in model.parameters.items():
        if "lora_B" in name:
            parameter.data.fill_(0.02)
    held_out = list(data().eval)
    expected = mean_loss(model, held_out)
    model.peft.train()
    before, random = adapter(model), torch.random.get_rng_state()
    sample = Sample(RowId("rows", 0), "prompt", "answer", "reference", 3, True)
    modes: list[bool] = []

    def sampler() -> list[Sample]:
        modes.append(model.peft.training)
        return [sample]

    event = evaluate(model, held_out, settings, 7, sampler)
    assert event.loss == pytest.approx(expected, rel=1e-5)
    assert (event.step, event.samples) == (7, (sample,))
    assert event.num_targets == sum(example.num_targets for example in held_out)
    assert modes == [False]
    assert model.peft.training
    assert same_bits(adapter(model), before)
    assert torch.equal(torch.random.get_rng_state(), random)


# --- bad numbers ------------------------------------------------------------------------------------------


def poison_base(model: LoraModel) -> None:
    model.network.model.norm.weight.data[3] = torch.nan


def poison_adapter(model: LoraModel) -> None:
    next(iter(model.parameters.values())).data[0, 0] = torch.nan


def overflow(model: LoraModel) -> None:
    for parameter in model.parameters.values():
        parameter.data.fill_(1e30)


@pytest.mark.parametrize("spoil", [poison_base, poison_adapter, overflow])
def test_a_step_with_bad_numbers_is_refused_and_nothing_changes(spoil: Any) -> None:
    settings = six_steps()
    model, state = start(settings)
    events = train(model, TrainData(data().train), state, settings)
    next(events)
    spoil(model)
    before, moments = adapter(model), [dict(s) for s in state.optimizer.state.values()]
    kept = [{k: v.clone() for k, v in s.items()} for s in moments]
    with pytest.raises(NumericsError, match=r"loss (nan|inf), gradient norm .* at step 2 · rows ") as caught:
        next(events)
    for i in order(3, 0, 10)[4:8]:
        assert f"random row {i}" in caught.value.problems[0].where
    assert same_bits(adapter(model), before)
    assert all(torch.equal(a[k], b[k]) for a, b in zip(moments, kept, strict=True) for k in a)
    assert (state.step, state.cursor) == (1, Cursor(0, 4))
    assert not is_packed(model.network.config._attn_implementation)


def test_a_gradient_that_is_no_number_is_refused_although_the_loss_is_one() -> None:
    settings = six_steps()
    model, state = start(settings)
    before = adapter(model)
    parameter = next(iter(model.parameters.values()))
    parameter.register_hook(lambda grad: grad * math.inf)
    with pytest.raises(NumericsError, match=r"loss \d+\.\d+, gradient norm nan at step 1"):
        list(train(model, TrainData(data().train), state, settings))
    assert same_bits(adapter(model), before)


def test_a_loss_of_exactly_zero_is_refused() -> None:
    """No model is that sure: the targets or the head are broken."""
    settings = six_steps()
    model, state = start(settings)
    bias = torch.zeros(len(model.head.weight))
    bias[7] = 1e4
    model = replace(model, head=Head(torch.zeros_like(model.head.weight), bias))
    examples = [replace(e, ids=np.where(e.trained, 7, e.ids).astype(np.int32)) for e in data().train]
    with pytest.raises(NumericsError, match="loss is exactly zero at step 1"):
        list(train(model, TrainData(examples), state, settings))


# --- leaving and going on ---------------------------------------------------------------------------------


def test_leaving_the_loop_between_events_leaves_a_state_to_go_on_from() -> None:
    settings = six_steps()
    model, state = start(settings)
    whole = [timeless(event) for event in train(model, data(), state, settings)]
    expected = adapter(model)

    model, state = start(settings)
    parts: list[Event] = []
    while not parts or not isinstance(parts[-1], Finished):
        events = train(model, data(), state, settings)
        parts += [timeless(event) for event in itertools.islice(events, 2)]
        events.close()  # type: ignore[attr-defined]
        torch.manual_seed(len(parts))  # somebody else draws numbers in between
    assert parts == whole
    assert same_bits(adapter(model), expected)


def test_a_run_resumed_at_any_step_ends_in_the_same_bits(tmp_path: Path) -> None:
    settings = six_steps()
    assert settings.lora.dropout == 0.1
    model, state = start(settings)
    events: list[Event] = []
    saved: dict[int, int] = {}
    for event in train(model, data(), state, settings):
        events.append(timeless(event))
        if isinstance(event, Stepped):
            saved[event.step] = len(events)
            save_checkpoint(tmp_path, model, state, keep=100, events_length=len(events))
    expected = adapter(model)
    assert len(saved) == STEPS
    for step, length in saved.items():
        model, state = start(settings)
        assert load_checkpoint(tmp_path / "checkpoints" / f"step-{step:06d}", model, state) == length
        torch.manual_seed(step)
        again = [timeless(event) for event in train(model, data(), state, settings)]
        assert again == events[length:], step
        assert same_bits(adapter(model), expected), step


def test_gradient_checkpointing_recomputes_the_first_layers_and_changes_nothing() -> None:
    settings = six_steps()
    adapters: list[dict[str, torch.Tensor]] = []
    forwards: list[tuple[int, int]] = []
    for choice in (False, 1, True):
        model, state = start(settings)
        recompute_layers(model.network, choice)
        ran: list[int] = []
        for index in (0, 1):
            layer = model.backbone.get_submodule(f"layers.{index}.mlp")
            layer.register_forward_pre_hook(lambda *_, index=index, ran=ran: ran.append(index))
        list(train(model, data(held_out=0), state, settings))
        adapters.append(adapter(model))
        forwards.append((ran.count(0), ran.count(1)))
    once = forwards[0][0]
    assert forwards == [(once, once), (2 * once, once), (2 * once, 2 * once)]
    assert same_bits(adapters[0], adapters[1]) and same_bits(adapters[0], adapters[2])


@pytest.mark.parametrize("patience", [1, 2])
def test_patience_ends_a_run_that_no_longer_gets_better(patience: int) -> None:
    worse = {"lr": 0.3, "epochs": 4}
    whole = six_steps(eval={"every": 1}, train=worse)
    model, state = start(whole)
    losses = [e.loss for e in train(model, data(), state, whole) if isinstance(e, Evaluated)]
    short = six_steps(eval={"every": 1, "patience": patience}, train=worse)
    model, state = start(short)
    events = list(train(model, data(), state, short))
    best, stale, step = math.inf, 0, 0
    while stale < patience and step + 1 < len(losses):
        step += 1
        best, stale = (losses[step], 0) if losses[step] < best else (best, stale + 1)
    assert stale == patience, "the case must get worse"
    assert events[-1] == Finished(step, "stopped early", events[-1].seconds)  # type: ignore[union-attr]
    assert state.best == (losses.index(best), best)


def test_fp16_loses_no_gradient_to_underflow() -> None:
    """A step of many targets: each target's share of the mean would lie below fp16's smallest number."""
    examples = random_examples(40, shared=0, longest=30, seed=4)
    settings = config(train={"batch_size": 40, "lr": 1e-2}, lora={"dropout": 0.0}, pack={"length": 2048})
    found: list[torch.Tensor] = []
    for dtype in (torch.float32, torch.float16):
        base = tiny_base()
        base.model.to(dtype)
        faint = replace(base.head, weight=base.model.lm_head.weight, scale=2e-3)
        base = replace(base, head=faint)
        model = attach_lora(base, settings.lora, 0)
        state = new_state(model.parameters, settings.train)
        packs = pack_examples(examples, settings)
        before = adapter(model)
        optimizer_step(model, packs, state, 0.0, 0.0)
        assert same_bits(adapter(model), before)
        found.append(torch.cat([p.grad.flatten() for p in model.parameters.values() if p.grad is not None]))
    lost = (found[1] == 0) & (found[0] != 0)
    assert int(lost.sum()) < 0.001 * len(found[0])
    torch.testing.assert_close(found[1], found[0], rtol=0.05, atol=float(found[0].abs().max()) * 0.01)


def test_what_draws_from_torchs_generator_belongs_to_the_step_and_the_pack() -> None:
    """DoRA's dropout is PEFT's own, from torch's generator: what was drawn before changes nothing."""
    settings = six_steps(lora={"method": "dora", "dropout": 0.3}, train={"micro_batch": 2, "max_steps": 2})
    found: list[dict[str, torch.Tensor]] = []
    for seed in (0, 1):
        model, state = start(settings)
        torch.manual_seed(seed)
        for _ in train(model, data(held_out=0), state, settings):
            torch.rand(7)
        found.append(adapter(model))
    assert same_bits(*found)
