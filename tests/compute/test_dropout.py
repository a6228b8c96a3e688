"""Masks from a counter: the right share, unbiased, repeatable, and no generator moved."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from sapwood.compute.dropout import DropoutClock, keep_mask
from sapwood.native import ops
from sapwood.native.build import why_not
from sapwood.native.ops import LEVELS, Dropout


def kept(rows: int, columns: int, rate: float, seed: int) -> torch.Tensor:
    return keep_mask(rows, columns, Dropout(rate, seed))


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 1 - 1e-9])
@pytest.mark.parametrize(("rows", "columns"), [(1, 16), (3, 48), (70, 128), (5, 576), (700, 1536), (2, 160)])
def test_the_reference_draws_the_bits_of_the_compiled_kernel(rows: int, columns: int, rate: float) -> None:
    """So a run may move between machines with and without a compiler, and keeps its masks."""
    for seed in (0, 1, 0x1234_5678_9ABC_DEF0 >> 1, 2**63 - 1):
        compiled = ops.keep_mask(rows, columns, Dropout(rate, seed))
        assert torch.equal(kept(rows, columns, rate, seed), compiled > 0)


def test_masks_are_the_same_on_every_machine() -> None:
    """Philox's own numbers, on whatever this runs: the beginning of a row."""
    mask = kept(3, 200, 0.5, 0x1234_5678_9ABC_DEF0 >> 1)
    assert "".join(str(int(bit)) for bit in mask[2, :24]) == "001011100111010011001001"


@pytest.mark.gpu
def test_a_gpu_draws_the_same_bits(device: str) -> None:
    drop = Dropout(0.3, 77)
    assert torch.equal(keep_mask(90, 200, drop, device).cpu(), keep_mask(90, 200, drop))


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 0.9])
def test_the_share_kept_is_within_three_standard_errors(rate: float) -> None:
    mask = kept(700, 576, rate, 11)
    error = math.sqrt(rate * (1 - rate) / mask.numel())
    assert abs(float(mask.double().mean()) - (1 - rate)) < 3 * error + 1 / LEVELS


def test_rate_zero_keeps_everything() -> None:
    assert kept(10, 100, 0, 1).all()


def test_a_rate_next_to_one_drops_nearly_everything() -> None:
    assert kept(10, 1000, 1 - 1e-9, 1).sum() < 5


@pytest.mark.parametrize("columns", [1, 2, 15, 16, 17, 127, 129])
def test_any_size(columns: int) -> None:
    mask = kept(3, columns, 0.5, 2)
    assert mask.shape == (3, columns) and mask.dtype == torch.bool
    assert torch.equal(mask, kept(3, 200, 0.5, 2)[:, :columns]), "an element's bits don't depend on the width"


def test_the_same_counter_gives_the_same_mask_and_any_other_another() -> None:
    counters = list(itertools.product((0, 1, 2**32 - 1), (0, 1), (0, 1), (0, 1)))
    masks = [kept(1, 256, 0.5, DropoutClock(*c[:3]).at(c[3])) for c in counters]
    again = [kept(1, 256, 0.5, DropoutClock(*c[:3]).at(c[3])) for c in counters]
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
    mask = kept(1, 100, 0.5, 1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(10)
    assert torch.equal(kept(1, 100, 0.5, 1), mask)
