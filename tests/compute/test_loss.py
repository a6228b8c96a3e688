"""The label-only loss == torch's cross-entropy over all logits: value and gradient."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sapwood.compute import loss as loss_module
from sapwood.compute.backend import REFERENCE, Backend
from sapwood.compute.loss import label_loss
from sapwood.types import Head
from tests.compute.slow import FASTEST, whole_loss

T, D, V = 50, 12, 37


def case(dtype: torch.dtype = torch.float32, n: int = 101) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """hidden, predict_at (with repeats: a shared prompt predicts several tokens), targets, weight, bias."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(1, T, D, generator=generator)
    predict_at = torch.randint(0, T, (n,), generator=generator)
    targets = torch.randint(0, V, (n,), generator=generator)
    weight = torch.randn(V, D, generator=generator)
    bias = torch.randn(V, generator=generator)
    return hidden.to(dtype), predict_at, targets, weight.to(dtype), bias.to(dtype)


def run(function: Any, hidden: Tensor, *rest: Any, factor: float = 1.0) -> tuple[float, Tensor]:
    hidden = hidden.clone().requires_grad_()
    loss = function(hidden, *rest)
    (loss.total * factor).backward()
    assert hidden.grad is not None
    return float(loss.total.detach()), hidden.grad


@pytest.fixture(params=[FASTEST, REFERENCE], ids=["compiled", "reference"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param is FASTEST and not FASTEST.native:
        pytest.skip("no kernels are compiled here")
    return request.param


HEADS: list[dict[str, Any]] = [
    {},
    {"bias": True},
    {"scale": 0.25},
    {"softcap": 3.0},
    {"bias": True, "scale": 1.7, "softcap": 2.0},
]


@pytest.mark.parametrize(("rows", "vocabulary"), [(16, 5), (40, 16), (1000, 36), (1000, 37), (1000, 1000)])
@pytest.mark.parametrize("options", HEADS, ids=str)
def test_value_and_gradient_equal_the_reference(
    backend: Backend, options: dict[str, Any], rows: int, vocabulary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "ROWS", rows)
    monkeypatch.setattr(loss_module, "VOCABULARY", vocabulary)
    hidden, predict_at, targets, weight, bias = case()
    head = Head(weight, **(options | {"bias": bias if "bias" in options else None}))
    value, grad = run(label_loss, hidden, predict_at, targets, head, backend, factor=0.3)
    expected, expected_grad = run(whole_loss, hidden, predict_at, targets, head, factor=0.3)
    assert value == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", HEADS, ids=str)
def test_targets_with_weights_equal_a_plain_weighted_loss(
    backend: Backend, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "ROWS", 40)  # three parts of the targets, the last one short
    monkeypatch.setattr(loss_module, "VOCABULARY", 16)
    hidden, predict_at, targets, weight, bias = case()
    weights = torch.rand(len(targets), generator=torch.Generator().manual_seed(5)) * 3
    head = Head(weight, **(options | {"bias": bias if "bias" in options else None}))
    value, grad = run(label_loss, hidden, predict_at, targets, head, backend, weights, factor=0.3)
    expected, wanted = run(whole_loss, hidden, predict_at, targets, head, backend, weights, factor=0.3)
    assert value == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(grad, wanted, rtol=1e-5, atol=1e-6)


def test_a_trained_head_learns_by_the_weights_too(backend: Backend) -> None:
    hidden, predict_at, targets, weight, bias = case()
    weights = torch.rand(len(targets), generator=torch.Generator().manual_seed(6)) * 3
    found: list[tuple[Tensor, ...]] = []
    for function in (label_loss, whole_loss):
        own = weight.clone().requires_grad_(), bias.clone().requires_grad_()
        rows = hidden.clone().requires_grad_()
        loss = function(rows, predict_at, targets, Head(*own, softcap=3.0), backend, weights)
        found.append(torch.autograd.grad(loss.total, own))
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)


def test_weights_of_one_change_no_bit(backend: Backend) -> None:
    hidden, predict_at, targets, weight, _ = case()
    ones = torch.ones(len(targets))
    value, grad = run(label_loss, hidden, predict_at, targets, Head(weight), backend, ones)
    plain, plain_grad = run(label_loss, hidden, predict_at, targets, Head(weight), backend)
    assert value == plain
    assert torch.equal(grad, plain_grad)


def test_bf16_follows_the_reference_loosely(backend: Backend) -> None:
    hidden, predict_at, targets, weight, _ = case(torch.bfloat16)
    value, grad = run(label_loss, hidden, predict_at, targets, Head(weight), backend)
    expected, expected_grad = run(whole_loss, hidden, predict_at, targets, Head(weight))
    assert grad.dtype == torch.bfloat16
    assert value == pytest.approx(expected, rel=1e-3)
    torch.testing.assert_close(grad, expected_grad, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("options", HEADS, ids=str)
def test_products_in_a_wider_format_are_those_of_the_wider_head(
    backend: Backend, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "VOCABULARY", 16)  # three slices of the vocabulary, the last one short
    hidden, predict_at, targets, weight, bias = case(torch.bfloat16)
    options = options | {"bias": bias if "bias" in options else None}
    stored = Head(weight, **options, matmul_dtype=torch.float32)
    wide = Head(weight.float(), **options)
    if wide.bias is not None:
        wide = replace(wide, bias=wide.bias.float())
    value, grad = run(label_loss, hidden, predict_at, targets, stored, backend)
    expected, expected_grad = run(whole_loss, hidden.float(), predict_at, targets, wide)
    assert value == pytest.approx(expected, rel=1e-6)
    assert grad.dtype == torch.bfloat16
    torch.testing.assert_close(grad.float(), expected_grad, rtol=0.01, atol=0.05)


def test_a_position_that_predicts_nothing_gets_no_gradient(backend: Backend) -> None:
    hidden, predict_at, targets, weight, _ = case(n=5)
    _, grad = run(label_loss, hidden, predict_at, targets, Head(weight), backend)
    touched = grad[0].abs().sum(-1) > 0
    assert sorted(touched.nonzero()[:, 0].tolist()) == sorted(set(predict_at.tolist()))


def test_without_grad_only_the_value_is_computed(backend: Backend) -> None:
    hidden, predict_at, targets, weight, _ = case()
    expected = whole_loss(hidden, predict_at, targets, Head(weight))
    loss = label_loss(hidden, predict_at, targets, Head(weight), backend)
    assert not loss.total.requires_grad
    torch.testing.assert_close(loss.total, expected.total)
    with torch.no_grad():
        again = label_loss(hidden.requires_grad_(), predict_at, targets, Head(weight), backend)
    assert float(again.total) == float(loss.total)


def test_equal_logits_cost_the_logarithm_of_the_vocabulary(backend: Backend) -> None:
    hidden, predict_at, targets, weight, _ = case(n=7)
    loss = label_loss(hidden, predict_at, targets, Head(torch.zeros_like(weight)), backend)
    assert float(loss.total) == pytest.approx(7 * math.log(V))
    assert loss.num_targets == 7


def test_huge_logits_stay_finite(backend: Backend) -> None:
    hidden, predict_at, targets, weight, _ = case(n=9)
    value, grad = run(label_loss, hidden, predict_at, targets, Head(weight * 1e4), backend)
    assert math.isfinite(value)
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_comes_out(backend: Backend, bad: float) -> None:
    hidden, predict_at, targets, weight, _ = case(n=9)
    hidden[0, predict_at[4], 3] = bad
    value, grad = run(label_loss, hidden, predict_at, targets, Head(weight), backend)
    assert not math.isfinite(value)
    assert not torch.isfinite(grad[0, predict_at[4]]).any()


def test_no_target_gives_zero_and_a_gradient_of_zero(backend: Backend) -> None:
    hidden, _, _, weight, _ = case()
    none = torch.empty(0, dtype=torch.int64)
    value, grad = run(label_loss, hidden, none, none, Head(weight), backend)
    assert value == 0.0
    assert not grad.any()


@pytest.mark.parametrize("options", HEADS, ids=str)
def test_a_head_that_learns_gets_the_gradient_of_the_whole_loss(
    options: dict[str, Any], backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "ROWS", 40)
    monkeypatch.setattr(loss_module, "VOCABULARY", 16)
    hidden, predict_at, targets, weight, bias = case()
    found: list[list[Tensor]] = []
    for function in (label_loss, whole_loss):
        own, shift = weight.clone().requires_grad_(), bias.clone().requires_grad_()
        head = Head(own, **(options | {"bias": shift if "bias" in options else None}))
        value, grad = run(function, hidden, predict_at, targets, head, backend, factor=0.3)
        grads = [x.grad for x in (own, shift) if x.grad is not None]
        found.append([torch.tensor(value), grad, *grads])
    assert len(found[0]) == len(found[1]) == (4 if "bias" in options else 3)
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
