"""Products of 8-bit integers: exact against the slow truth, and a storage like any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sapwood.adapter.attach import attach_lora
from sapwood.base.inspect import inspect_base
from sapwood.base.load import load_base
from sapwood.base.storage import int8_linear
from sapwood.base.storage.frozen import freeze
from sapwood.base.storage.int8_linear import (
    Int8Linear,
    Int8Weight,
    int8_product,
    outliers_of,
    quantised,
)
from sapwood.config.sections import BaseConfig, LoraConfig
from sapwood.errors import ConfigError
from sapwood.pack.build import build_pack
from tests.base.tiny import tiny_llama
from tests.compute.slow import rounded_product
from tests.parity.cases import random_examples
from tests.parity.test_packed_equals_alone import through_packs


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", [1, 5, 64])
def test_the_product_is_that_of_the_reference(rows: int) -> None:
    codes, scale = quantised(numbers(48, 96, seed=1))
    x = numbers(rows, 96)
    found = int8_product(x, codes.T, outliers_of(96, 48)).mul_(scale.T)
    torch.testing.assert_close(found, rounded_product(x, codes, scale), rtol=1e-4, atol=1e-4)


def test_rounding_is_to_the_nearest_of_255_levels() -> None:
    x = numbers(7, 50)
    codes, scale = quantised(x)
    assert codes.dtype == torch.int8 and int(codes.abs().max()) == 127
    assert float(((codes * scale - x).abs() / scale).max()) <= 0.5 + 1e-5
    zeros, _ = quantised(torch.zeros(2, 4))
    assert not zeros.any()


def test_forward_and_gradient_are_those_of_the_rounded_weight() -> None:
    linear = nn.Linear(96, 48).requires_grad_(False)
    held = Int8Linear(linear)
    weight = freeze(held)
    assert isinstance(weight, Int8Weight)
    assert isinstance(held, nn.Linear)
    x, g = numbers(10, 96).requires_grad_(), numbers(10, 48, seed=3)
    y = held(x)
    assert float((y - linear(x)).norm() / linear(x).norm()) < 0.02
    assert torch.equal(y, weight.forward(x))
    y.backward(g)
    exact = g @ weight.dense()
    assert x.grad is not None and 0 < float((x.grad - exact).norm() / exact.norm()) < 0.02  # g is rounded too
    assert weight.input_grad(g.bfloat16()).dtype == torch.bfloat16


def test_columns_of_large_numbers_are_multiplied_as_they_are() -> None:
    x = numbers(40, 160)
    x[:, 7] *= 1000.0  # in one scale with it, the others would all round to zero
    codes, scale = quantised(numbers(48, 160, seed=1))
    exact = x @ (codes.float() * scale).T
    found = int8_product(x, codes.T, outliers_of(160, 48)).mul_(scale.T)
    rest, other = x.clone(), codes.clone()
    rest[:, 7] = 0
    other[:, 7] = 0
    assert float((found - exact).norm() / (rest @ (other.float() * scale).T).norm()) < 0.02
    torch.testing.assert_close(found, rounded_product(x, codes, scale), rtol=1e-3, atol=0.02)


def test_a_base_held_so_trains_near_the_exact_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_linear, "int8_pays", lambda device: True)
    folder = str(tiny_llama(tmp_path))
    losses: list[float] = []
    for storage in ("fp32", "int8-compute"):
        config = BaseConfig(model=folder, storage=storage, compute_dtype="fp32", products="stored")  # type: ignore[arg-type]
        base = load_base(inspect_base(config), config)
        assert base.storage == storage
        model = attach_lora(base, LoraConfig(rank=4, dropout=0), seed=1)
        held = [m for m in base.model.modules() if isinstance(m, Int8Linear)]
        assert len(held) == (14 if storage == "int8-compute" else 0), "all linears but the head"
        loss, grads = through_packs(model, [build_pack(random_examples(4, shared=20))])
        assert any(float(grad.abs().max()) > 0 for grad in grads.values())
        losses.append(loss)
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_it_is_not_offered_where_it_loses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_linear, "int8_pays", lambda device: False)
    config = BaseConfig(model=str(tiny_llama(tmp_path)), storage="int8-compute")
    with pytest.raises(ConfigError, match="would be slower on this machine"):
        load_base(inspect_base(config), config)
