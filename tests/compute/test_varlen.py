"""torch's attention by lengths == the dense mask, where segments stand alone; and nothing else goes that way.

There is no such kernel for a CPU. What it is called with is checked by torch's own function on the meta
device; what it computes, by the definition of its documentation."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sapwood.compute.attention import seam, varlen
from sapwood.compute.attention.segments import AttentionPlan, Rule
from sapwood.compute.backend import REFERENCE, Backend
from sapwood.machine.device import CPU, Device
from sapwood.types import Segment
from tests.compute.slow import attention_by_lengths, dense_attention
from tests.machine.pretended import Card, plug_in

FORMS: tuple[Any, Any] = (varlen.varlen_attention, dense_attention)
CARD = replace(REFERENCE, varlen=True)


@pytest.fixture
def defined(monkeypatch: pytest.MonkeyPatch) -> Generator[list[int]]:
    """The definition in the place of the kernel. Gives the calls: how many tokens each."""
    calls: list[int] = []

    def kernel(query: Tensor, *given: Any, **named: Any) -> Tensor:
        calls.append(len(query))
        return attention_by_lengths(query, *given, **named)

    monkeypatch.setattr(varlen, "_kernel", lambda: kernel)
    varlen.why_not.cache_clear()
    yield calls
    varlen.why_not.cache_clear()


def rows(lengths: Sequence[int]) -> tuple[Segment, ...]:
    stops = [sum(lengths[: index + 1]) for index in range(len(lengths))]
    return tuple(Segment(stop - size, stop, 0) for size, stop in zip(lengths, stops, strict=True))


def drawn(tokens: int, dtype: torch.dtype, heads: int = 4, device: str = "cpu") -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((heads, tokens, 16), (2, tokens, 16), (2, tokens, 16))
    return [torch.randn(s, generator=generator).to(device, dtype).requires_grad_() for s in shapes]


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    window=st.sampled_from([None, 1, 7, 64]),
    heads=st.sampled_from([2, 6]),
)
def test_values_and_gradients_are_the_dense_masks(lengths: list[int], window: int | None, heads: int) -> None:
    plan, rule = AttentionPlan(rows(lengths)), Rule(0.3, window)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(varlen, "_kernel", lambda: attention_by_lengths)
        found, expected = (
            [out := form(*inputs, plan, rule), *torch.autograd.grad(out.square().sum(), inputs)]
            for form in FORMS
            for inputs in [drawn(sum(lengths), torch.float32, heads)]
        )
    for mine, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("window", [None, 7])
def test_torchs_own_function_takes_what_it_is_given(heads: int, window: int | None) -> None:
    inputs = drawn(72, torch.bfloat16, heads, device="meta")
    out = FORMS[0](*inputs, AttentionPlan(rows((40, 32))), Rule(0.3, window))
    assert out.shape == inputs[0].shape and out.dtype == torch.bfloat16
    grads = torch.autograd.grad(out.sum(), inputs)
    assert [grad.shape for grad in grads] == [one.shape for one in inputs]


SHARED = (Segment(0, 40, 0), Segment(40, 60, 40, 0))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"segments": SHARED}, "continues another"),
        ({"rule": Rule(0.3, softcap=2.0)}, "soft cap"),
        ({"sizes": (16, 8)}, "16 for queries and 8 for values"),
        ({"sizes": (12, 12)}, "heads of 12"),
        ({"sizes": (256, 256)}, "heads of 256"),
        ({"dtype": torch.float32}, "torch.float32"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name_and_computed_otherwise(
    change: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, dtype = change.get("sizes", (16, 16)), change.get("dtype", torch.bfloat16)
    plan, rule = AttentionPlan(change.get("segments", rows((40, 20)))), change.get("rule", Rule(0.3))
    query, key, value = (torch.randn(2, 60, size, dtype=dtype) for size in (sizes[0], *sizes))
    assert named in (varlen.refusal(query, value, plan, rule) or "")
    monkeypatch.setattr(varlen, "varlen_attention", lambda *_: pytest.fail("taken"))
    assert seam.attend(query, key, value, plan, rule, CARD).shape == (2, 60, sizes[1])


# --- which of the two a card uses ---------------------------------------------------------------------------


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card whose tensors lie on the CPU."""
    plug_in(monkeypatch, Card())
    monkeypatch.setattr(Device, "__str__", lambda _: "cpu")


def test_a_card_whose_kernel_is_right_uses_it(defined: list[int], plugged: None) -> None:
    assert varlen.why_not(Device("cuda")) is None
    assert defined == [sum(varlen.TRIED)] * len(varlen.TRIED_RULES)
    assert Backend.of(Device("cuda")).varlen and not Backend.of(CPU).varlen


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"window_size": (-1, -1)}, r"bfloat16: [\d.]+ apart"),  # it looks ahead
        ({"window_size": (-1, 0)}, r"bfloat16: [\d.]+ apart"),  # it knows no window
        ({"scale": float("nan")}, "bfloat16: nan apart"),
    ],
)
def test_a_kernel_that_differs_is_left_out_with_its_reason(
    fault: dict[str, Any], said: str, defined: list[int], plugged: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        varlen, "_kernel", lambda: lambda *given, **named: attention_by_lengths(*given, **named | fault)
    )
    why = varlen.why_not(Device("cuda"))
    assert re.fullmatch(said, why or ""), why
    assert not Backend.of(Device("cuda")).varlen


def test_a_card_that_is_too_old_or_a_torch_without_it_says_so(
    defined: list[int], plugged: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Tensor:
        raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.\nmore")

    monkeypatch.setattr(varlen, "_kernel", lambda: fail)
    assert varlen.why_not(Device("cuda")) == "FlashAttention only supports Ampere GPUs or newer."


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("size", [64, 80, 96, 128])
@pytest.mark.parametrize("window", [None, 16])
def test_values_and_gradients_on_a_gpu(window: int | None, size: int) -> None:
    plan, rule = AttentionPlan(rows((300, 1, 77))), Rule(size**-0.5, window)
    results: list[list[Tensor]] = []
    for form, dtype in zip(FORMS, (torch.bfloat16, torch.float32), strict=True):
        generator = torch.Generator().manual_seed(0)
        inputs = [torch.randn(heads, 378, size, generator=generator).bfloat16() for heads in (4, 2, 2)]
        inputs = [one.to("cuda", dtype).requires_grad_() for one in inputs]
        out = form(*inputs, plan, rule)
        results.append([out, *torch.autograd.grad(out.float().square().sum(), inputs)])
    for mine, truth in zip(*results, strict=True):
        assert float((mine.float() - truth).norm() / truth.norm()) < 3e-2
