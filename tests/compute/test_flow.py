"""A base held in one format and multiplied in a wider one: activations stay wide, what is kept doesn't."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sapwood.adapter.attach import attach_lora
from sapwood.adapter.inputs import hidden_states
from sapwood.adapter.model import LoraModel
from sapwood.compute.attention.seam import packed_attention
from sapwood.compute.batch import to_batch
from sapwood.compute.linear import reference
from sapwood.config.sections import LoraConfig
from sapwood.pack.build import build_pack
from tests.base.tiny import ARCHITECTURES
from tests.parity.cases import random_examples, tiny_base
from tests.parity.test_packed_equals_alone import through_packs

PACK = build_pack(random_examples(6, shared=20))


def held(arch: str, products: torch.dtype | None, targets: str | tuple[str, ...] = "all-linear") -> LoraModel:
    """A tiny model in bf16 with an adapter that does something."""
    base = tiny_base(arch)
    base = replace(base, model=base.model.bfloat16(), matmul_dtype=products)
    model = attach_lora(base, LoraConfig(dropout=0, targets=targets), seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.parameters.items():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    return model


def exact(arch: str) -> LoraModel:
    """The same weights in fp32."""
    narrow, base = held(arch, None), tiny_base(arch)
    own = {name: weight.float() for name, weight in tiny_base(arch).model.bfloat16().state_dict().items()}
    base.model.load_state_dict(own)
    model = attach_lora(base, LoraConfig(dropout=0), seed=1)
    for name, parameter in narrow.parameters.items():
        model.parameters[name].data = parameter.data.clone()
    return model


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_wide_activations_are_nearer_to_the_truth(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "MIN_ROWS", 8)
    loss, grads = through_packs(exact(arch), [PACK])
    apart: list[float] = []
    for products in (torch.float32, None):
        model = held(arch, products)
        assert (model.flow is None) == (products is None)
        found, own = through_packs(model, [PACK])
        assert found == pytest.approx(loss, rel=0.01)
        apart.append(max(float((own[name] - grad).norm() / grad.norm()) for name, grad in grads.items()))
    assert apart[0] < apart[1]
    assert apart[0] < 0.02, "what is kept is rounded"


def test_what_is_kept_is_in_the_formats_of_the_base() -> None:
    model = held("llama", torch.float32)
    kept: list[torch.Tensor] = []
    network = packed_attention(model.network, model.backend)
    with network, torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        hidden = hidden_states(model, to_batch(PACK))
    assert hidden.dtype == torch.float32
    large = [t for t in kept if t.is_floating_point() and t.numel() >= 64 * len(PACK.ids) and t.dim() != 4]
    assert large and sum(t.dtype == torch.bfloat16 for t in large) >= 0.9 * len(large)


def test_a_switched_off_adapter_and_layers_without_one_travel_in_the_bases_format() -> None:
    model = held("llama", torch.float32)
    with torch.no_grad(), packed_attention(model.network, model.backend), model.switched_off():
        assert hidden_states(model, to_batch(PACK)).dtype == torch.bfloat16
    with torch.no_grad(), packed_attention(model.network, model.backend):
        assert hidden_states(model, to_batch(PACK)).dtype == torch.float32
    assert held("llama", torch.float32, ("q_proj", "v_proj")).flow is None
