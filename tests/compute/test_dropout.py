"""Masks from a counter: the right share, unbiased, repeatable, and no generator moved."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from sapwood.compute.dropout import LEVELS, DropoutClock, drop, keep_mask, masked


def kept(shape: tuple[int, ...] | torch.Size, rate: float, seed: int) -> torch.Tensor:
    """The mask as booleans."""
    mask = keep_mask(shape, rate, seed)
    assert mask.dtype == torch.int16 and set(mask.flatten().tolist()) <= {0, -1}
    return mask.bool()


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 0.9])
def test_the_share_kept_is_within_three_standard_errors(rate: float) -> None:
    size = 400_000
    share = float(kept((size,), rate, 11).double().mean())
    assert abs(share - (1 - rate)) < 3 * math.sqrt(rate * (1 - rate) / size) + 1 / LEVELS


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_scaling_is_unbiased(rate: float) -> None:
    size = 400_000
    y = drop(torch.ones(size, dtype=torch.float64), rate, 5)
    error = math.sqrt(rate / (1 - rate) / size)  # of the mean of 0 and 1 / (1 - rate)
    assert abs(float(y.mean()) - 1) < 3 * error + 1 / LEVELS
    assert sorted(set(y.tolist())) == [0.0, pytest.approx(1 / (1 - rate))]


def test_kept_elements_lie_where_the_mask_says() -> None:
    x = torch.arange(1.0, 22.0).view(3, 7)
    keep = kept(x.shape, 0.3, 9)
    torch.testing.assert_close(drop(x, 0.3, 9), x * keep / 0.7)
    assert keep.shape == x.shape


def test_rate_zero_is_the_tensor_itself() -> None:
    x = torch.ones(4)
    assert drop(x, 0, 1) is x
    assert kept((1000,), 0, 1).all()


def test_a_rate_next_to_one_drops_nearly_everything() -> None:
    assert kept((10_000,), 1 - 1e-9, 1).sum() < 5


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 9])
def test_any_size(size: int) -> None:
    assert kept((size,), 0.5, 2).shape == (size,)


def test_neighbours_are_independent() -> None:
    """Four elements of a mask come from one random word."""
    keep = kept((400_000,), 0.5, 3).double() * 2 - 1
    for distance in (1, 2, 3, 4):
        assert abs(float((keep[:-distance] * keep[distance:]).mean())) < 4 / math.sqrt(400_000)


def test_the_same_counter_gives_the_same_mask_and_any_other_another() -> None:
    counters = list(itertools.product((0, 1, 2**32 - 1), (0, 1), (0, 1), (0, 1)))
    masks = [kept((256,), 0.5, DropoutClock(*c[:3]).at(c[3])) for c in counters]
    again = [kept((256,), 0.5, DropoutClock(*c[:3]).at(c[3])) for c in counters]
    assert all(torch.equal(a, b) for a, b in zip(masks, again, strict=True))
    for a, b in itertools.combinations(masks, 2):
        assert 60 < int((a != b).sum()) < 196  # 128 for independent masks, 8 deviations either way


def test_a_clock_that_moves_on_gives_another_seed() -> None:
    clock = DropoutClock(seed=3)
    first = clock.at(0)
    clock.step += 1
    assert clock.at(0) != first
    clock.step -= 1
    assert clock.at(0) == first
    assert 0 <= first < 2**63


def test_torchs_own_generator_stays_where_it_is() -> None:
    before = torch.random.get_rng_state()
    mask = kept((100,), 0.5, 1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(10)
    assert torch.equal(kept((100,), 0.5, 1), mask)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_masking_is_exact_in_every_format(dtype: torch.dtype) -> None:
    x = torch.randn(50, 7).to(dtype)
    mask = keep_mask(x.shape, 0.4, 3)
    assert torch.equal(masked(x, mask), x * mask.bool())
