"""Packed and prefix-shared == one by one: loss and adapter gradients, for every attention shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sapwood.adapter.model import LoraModel
from sapwood.compute.attention.seam import packed_attention
from sapwood.compute.batch import to_batch
from sapwood.compute.loss import label_loss
from sapwood.pack.build import build_pack
from sapwood.train.loop import forward_loss
from sapwood.types import Example, Pack
from tests.base.tiny import ARCHITECTURES
from tests.parity.cases import lora_model, random_examples


def gradients(model: LoraModel) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.parameters.items() if p.grad is not None}
    for parameter in model.parameters.values():
        parameter.grad = None
    return found


def through_packs(model: LoraModel, packs: list[Pack]) -> tuple[float, dict[str, torch.Tensor]]:
    total = 0.0
    with packed_attention(model.network, model.backend):
        for pack in packs:
            loss = forward_loss(model, to_batch(pack, model.device))
            loss.total.backward()
            total += float(loss.total)
    return total, gradients(model)


def alone(model: LoraModel, examples: list[Example]) -> tuple[float, dict[str, torch.Tensor]]:
    """Each example by itself, through the model's own eager attention and PEFT's own LoRA forward."""
    total = 0.0
    groups = {}
    for module in model.peft.modules():
        if getattr(module, "group", None) is not None:
            groups[module], module.group = module.group, None
    model.network.set_attn_implementation("eager")
    for example in examples:
        ids = torch.from_numpy(example.ids).long()[None].to(model.device)
        logits = model.peft(input_ids=ids, use_cache=False).logits[0, :-1].float()
        at = torch.from_numpy(example.trained[1:]).to(model.device)
        losses = torch.nn.functional.cross_entropy(logits[at], ids[0, 1:][at], reduction="none")
        if example.weights is not None:
            losses = losses * torch.from_numpy(example.weights[1:]).to(model.device)[at]
        loss = losses.sum()
        loss.backward()
        total += float(loss.detach())
    for module, group in groups.items():
        module.group = group
    return total, gradients(model)


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    assert a.keys() == b.keys() and a
    scale = max(float(g.abs().max()) for g in b.values())
    for name in a:
        assert float((a[name] - b[name]).abs().max()) <= tolerance * scale, name


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("share", [True, False])
def test_one_pack_equals_examples_alone(arch: str, share: bool) -> None:
    model = lora_model(arch)
    examples = random_examples(6, shared=20)
    expected, expected_grads = alone(model, examples)
    found, found_grads = through_packs(model, [build_pack(examples, share_prefixes=share)])
    assert found == pytest.approx(expected, rel=1e-5)
    assert_same(found_grads, expected_grads)


@pytest.mark.parametrize("share", [True, False])
def test_a_pack_of_weighted_examples_equals_them_alone(share: bool) -> None:
    model = lora_model()
    rng = np.random.default_rng(4)
    examples = [
        replace(example, weights=rng.uniform(0.1, 3, len(example)).astype(np.float32) if i % 3 else None)
        for i, example in enumerate(random_examples(6, shared=20))
    ]
    expected, expected_grads = alone(model, examples)
    pack = build_pack(examples, share_prefixes=share)
    assert pack.weight == pytest.approx(sum(example.weight for example in examples))
    found, found_grads = through_packs(model, [pack])
    assert found == pytest.approx(expected, rel=1e-5)
    assert_same(found_grads, expected_grads)


def test_any_split_into_packs_gives_the_same_sums() -> None:
    model = lora_model()
    examples = random_examples(16, shared=12)
    one, one_grads = through_packs(model, [build_pack(examples)])
    many, many_grads = through_packs(model, [build_pack([example]) for example in examples])
    assert one == pytest.approx(many, rel=1e-5)
    assert_same(one_grads, many_grads)


def test_duplicates_and_an_example_inside_another_share_everything() -> None:
    model = lora_model()
    first, *_ = random_examples(1, longest=40, seed=3)
    inner = Example(first.row, first.ids[:30], first.trained[:30] | (first.ids[:30] < 0))
    inner.trained[-1] = True
    examples = [first, inner, first]
    pack = build_pack(examples)
    assert len(pack.ids) == len(first)
    found, found_grads = through_packs(model, [pack])
    expected, expected_grads = alone(model, examples)
    assert found == pytest.approx(expected, rel=1e-5)
    assert_same(found_grads, expected_grads)


def test_long_segments_are_computed_in_blocks() -> None:
    model = lora_model("gemma2")  # window 32, soft cap
    examples = random_examples(2, shared=300, longest=330, seed=2)
    expected, expected_grads = alone(model, examples)
    found, found_grads = through_packs(model, [build_pack(examples)])
    assert found == pytest.approx(expected, rel=1e-5)
    assert_same(found_grads, expected_grads)


def test_gradient_checkpointing_changes_nothing() -> None:
    model = lora_model(dropout=0.2)
    model.peft.train()
    pack = build_pack(random_examples(5, shared=10))
    plain, plain_grads = through_packs(model, [pack])
    model.network.activation_checkpointing_enable({"use_reentrant": False})
    again, again_grads = through_packs(model, [pack])
    assert plain == again
    assert_same(plain_grads, again_grads, 0.0)


def test_no_target_gives_no_loss() -> None:
    model = lora_model()
    hidden = torch.randn(1, 4, 64)
    empty = torch.empty(0, dtype=torch.int64)
    loss = label_loss(hidden, empty, empty, model.head, model.backend)
    assert (float(loss.total), loss.num_targets) == (0.0, 0)
