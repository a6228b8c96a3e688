"""Inputs of layers that are computed twice wait in RAM: the same bits, and none stays where it was."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch

from sapwood.compute import recompute
from sapwood.compute.attention.seam import packed_attention
from sapwood.compute.batch import to_batch
from sapwood.compute.recompute import OFFLOAD, Layers, recompute_layers
from sapwood.pack.build import build_pack
from sapwood.train.loop import forward_loss
from tests.parity.cases import lora_model, random_examples
from tests.parity.test_packed_equals_alone import gradients


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """What lies on the CPU counts as a device's. Gives the shapes of what went to RAM."""
    went: list[tuple[int, ...]] = []

    def elsewhere(tensor: torch.Tensor) -> bool:
        went.append(tuple(tensor.shape))
        return False

    monkeypatch.setattr(recompute, "_in_ram", elsewhere)
    return went


def passed(arch: str, choice: Layers) -> tuple[float, dict[str, torch.Tensor], list[bool]]:
    """Loss and gradients of a pack; and for each layer behind the first: is its input still there between
    the forward and the backward pass?"""
    model = lora_model(arch)
    pack = build_pack(random_examples(5, shared=9))
    recompute_layers(model.network, choice)
    model.learn()
    inputs: list[Any] = []
    for layer in recompute.decoder_layers(model.network)[1:]:
        layer.register_forward_pre_hook(lambda _, given: inputs.append(weakref.ref(given[0])))
    with packed_attention(model.network, model.backend):
        loss = forward_loss(model, to_batch(pack, model.device))
        there = [one() is not None for one in inputs]
        loss.total.backward()
    return float(loss.total.detach()), gradients(model), there


@pytest.mark.parametrize("arch", ["llama", "gemma2"])
def test_inputs_in_ram_change_no_bit_and_leave_the_device(arch: str, device: list[tuple[int, ...]]) -> None:
    expected, expected_grads, there = passed(arch, True)
    assert device == [] and there and all(there)
    found, found_grads, there = passed(arch, OFFLOAD)
    assert not any(there)
    assert len(device) == len(there) + 1, "one input a layer, and nothing else"
    assert found == expected
    assert all(torch.equal(found_grads[name], grad) for name, grad in expected_grads.items())


def test_on_a_cpu_they_are_in_ram_already() -> None:
    tensor = torch.zeros(3)
    assert recompute.to_ram(tensor)[1] is tensor


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpus_copies_come_back_as_they_went() -> None:
    tensor = torch.randn(1, 700, 512, device="cuda").transpose(1, 2)
    device, kept = recompute.to_ram(tensor)
    again = recompute.from_ram((device, kept))
    assert kept.is_pinned() and kept.device.type == "cpu"
    assert torch.equal(again, tensor)
