"""A frozen linear while nothing learns: the products of a handful of rows, and of many."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sapwood.base.storage.frozen import DenseWeight
from sapwood.base.storage.quick_linear import QuickLinear, quicken
from sapwood.native import ops
from sapwood.native.build import why_not
from tests.native.test_kernels import BF16, FP32, numbers, threads

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
__all__ = ["threads"]  # a fixture: with one thread and with two


def linear(out: int, width: int, dtype: torch.dtype, *, bias: bool = False) -> nn.Linear:
    made = nn.Linear(width, out, bias=bias, dtype=dtype).requires_grad_(False)
    made.weight.copy_(numbers(out, width, seed=1, dtype=dtype))
    if bias:
        made.bias.copy_(numbers(out, seed=2, dtype=dtype))
    return made


@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 6, 7, 40, 64])
@pytest.mark.parametrize(("out", "width"), [(1, 16), (61, 48), (64, 576), (133, 1536), (9, 8192)])
def test_a_few_rows_have_the_product(rows: int, out: int, width: int, dtype: torch.dtype) -> None:
    x, weight = numbers(rows, width, seed=0), numbers(out, width, seed=1, dtype=dtype)
    exact = x.double() @ weight.double().T
    found = ops.few_rows(x, weight)
    assert found.dtype == FP32
    scale = x.double().abs() @ weight.double().abs().T
    assert float(((found - exact).abs() / scale).max()) < 1e-6


def test_a_row_does_not_depend_on_the_others() -> None:
    x, weight = numbers(40, 576, seed=0), numbers(100, 576, seed=1, dtype=BF16)
    together = ops.few_rows(x, weight)
    for count in (1, 2, 3, 7):
        assert torch.equal(ops.few_rows(x[4 : 4 + count], weight), together[4 : 4 + count])


def test_what_is_no_number_comes_out() -> None:
    x, weight = numbers(5, 64, seed=0), numbers(24, 64, seed=1)
    x[3, 17] = torch.nan
    found = ops.few_rows(x, weight)
    assert found[3].isnan().all() and not found[[0, 1, 2, 4]].isnan().any()


@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize("rows", [3, 100])
def test_a_linear_is_the_same_for_few_rows_and_for_many(rows: int, dtype: torch.dtype) -> None:
    module = linear(24, 64, dtype, bias=True)
    x = numbers(2, rows, 64, seed=3, dtype=dtype)
    wanted = x.float() @ module.weight.float().T + module.bias.float()
    quicken(module, FP32)
    with torch.no_grad():
        found = module(x)
    assert found.dtype == dtype and found.shape == (2, rows, 24)
    torch.testing.assert_close(found.float(), wanted, rtol=1e-5 if dtype == FP32 else 1e-2, atol=1e-4)


def test_gradients_go_the_usual_way_and_a_width_that_the_kernel_lacks_too() -> None:
    module = linear(24, 64, FP32)
    quicken(module, None)
    x = numbers(3, 64, seed=0).requires_grad_()
    module(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, module.weight.sum(0).expand(3, -1))
    odd = linear(24, 50, FP32)
    quicken(odd, None)
    with torch.no_grad():
        torch.testing.assert_close(odd(numbers(3, 50, seed=0)), numbers(3, 50, seed=0) @ odd.weight.T)


def test_an_adapted_layer_finds_the_quick_form_of_its_base() -> None:
    module = linear(32, 64, BF16)
    weight, x = DenseWeight(module), numbers(4, 64, seed=0)
    slow = weight.forward(x)
    assert weight.quick is None
    quicken(module, FP32)
    assert isinstance(weight.quick, QuickLinear)
    torch.testing.assert_close(weight.forward(x), slow, rtol=1e-5, atol=1e-5)
