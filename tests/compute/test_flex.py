"""FlexAttention by the plan of segments == the dense mask; on a GPU, and the mask's logic anywhere."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

from sapwood.compute.attention import flex
from sapwood.compute.attention import seam as attention
from sapwood.compute.attention.segments import (
    AttentionPlan,
    Rule,
    segment_attention,
)
from sapwood.compute.backend import Backend
from sapwood.machine.device import CPU
from sapwood.pack.build import build_pack
from sapwood.types import Segment
from tests.compute.slow import dense_attention, dense_mask
from tests.pack.forests import Ids, as_examples, forests

TREE = (Segment(0, 40, 0), Segment(40, 60, 40, 0), Segment(60, 70, 60, 1), Segment(70, 90, 40, 0))


@settings(max_examples=40, deadline=None)
@given(forests())
def test_the_mask_is_the_dense_one(sequences: list[Ids]) -> None:
    segments = build_pack(as_examples(sequences)).segments
    total = max(segment.stop for segment in segments)
    q, k = torch.arange(total)[:, None], torch.arange(total)[None]
    none = torch.zeros((), dtype=torch.int64)
    for window in (None, 7):
        found = flex.visible(segments, window)(none, none, q, k)
        assert torch.equal(found, dense_mask(segments, window))


def case(device: str, heads: int = 4, size: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((heads, 90, size), (2, 90, size), (2, 90, size))
    return [torch.randn(s, generator=generator).to(device) for s in shapes]


@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_the_plain_form_gives_the_references_numbers(window: int | None, softcap: float | None) -> None:
    plan = AttentionPlan(TREE)
    query, key, value = case("cpu")
    with torch.no_grad():
        found = flex.flex_attention(query, key, value, plan, Rule(scale=0.3, window=window, softcap=softcap))
    expected = dense_attention(query, key, value, plan, Rule(scale=0.3, window=window, softcap=softcap))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert list(plan.made) == [window], "layers share the mask"


@pytest.mark.parametrize("size", [6, 12, 512])
def test_heads_that_the_kernel_cannot_do_go_by_the_reference(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = AttentionPlan(TREE)
    query, key, value = case("cpu", size=size)
    assert flex.refusal(query, value)
    monkeypatch.setattr(attention, "flex_attention", lambda *_, **__: pytest.fail("taken"))
    found = attention.attend(query, key, value, plan, Rule(scale=0.2), Backend(CPU, flex=True))
    expected = segment_attention(query, key, value, plan, Rule(scale=0.2))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_other_sizes_of_values_and_other_numbers_are_refused() -> None:
    query, _, value = case("cpu")
    assert flex.refusal(query, value) is None
    assert "8 for values" in (flex.refusal(query, value[..., :8]) or "")
    assert "float64" in (flex.refusal(query.double(), value.double()) or "")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_values_and_gradients_on_a_gpu(window: int | None, softcap: float | None) -> None:
    plan = AttentionPlan(TREE)
    rule = Rule(scale=0.3, window=window, softcap=softcap)
    grads: list[list[torch.Tensor]] = []
    for attend in (flex.flex_attention, dense_attention):
        inputs = [x.requires_grad_() for x in case("cuda")]
        out = attend(*inputs, plan, rule)
        grads.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    for found, expected in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
