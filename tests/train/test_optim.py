"""The optimizer's state by parameter name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sapwood.config import TrainConfig
from sapwood.errors import StorageError
from sapwood.train.optim import TrainState, moments, new_state, restore_moments
from sapwood.types import Cursor


def parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (3, 4), "b": (5,)}
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def step(state: TrainState) -> None:
    for parameter in state.parameters.values():
        parameter.grad = torch.sin(parameter.detach() * (state.step + 2))
    state.optimizer.step()
    state.step += 1


CONFIG = TrainConfig(lr=0.01, weight_decay=0.1)


def test_a_fresh_state_is_at_the_start_and_has_no_moments() -> None:
    state = new_state(parameters(), CONFIG)
    assert (state.step, state.cursor, state.evaluated) == (0, Cursor(0, 0), -1)
    assert moments(state) == {}
    (group,) = state.optimizer.param_groups
    assert (group["lr"], group["weight_decay"], group["betas"], group["eps"]) == (
        0.01,
        0.1,
        (0.9, 0.999),
        1e-8,
    )


def test_moments_are_named_after_their_parameters() -> None:
    state = new_state(parameters(), CONFIG)
    step(state)
    found = moments(state)
    assert {name: tuple(t.shape) for name, t in found.items()} == {
        "exp_avg.a": (3, 4),
        "exp_avg.b": (5,),
        "exp_avg_sq.a": (3, 4),
        "exp_avg_sq.b": (5,),
    }
    assert all(t.dtype == torch.float32 and t.device.type == "cpu" for t in found.values())
    grad = state.parameters["a"].grad
    assert grad is not None
    torch.testing.assert_close(found["exp_avg.a"], 0.1 * grad)


def test_a_restored_optimizer_goes_on_bit_for_bit_whatever_the_order_of_names() -> None:
    one = new_state(parameters(), CONFIG)
    for _ in range(3):
        step(one)
    copies = {name: nn.Parameter(p.detach().clone()) for name, p in reversed(one.parameters.items())}
    other = new_state(copies, CONFIG)
    other.step = 3
    saved = {name: tensor.clone() for name, tensor in moments(one).items()}
    restore_moments(other, saved, Path("x"))
    step(one)
    step(other)
    assert all(torch.equal(one.parameters[name], other.parameters[name]) for name in copies)
    assert not any(torch.equal(saved[name], moments(other)[name]) for name in saved)  # no alias


def test_before_the_first_step_there_is_nothing_to_restore() -> None:
    state = new_state(parameters(), CONFIG)
    restore_moments(state, {}, Path("x"))
    assert moments(state) == {}


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_moments_that_do_not_fit_are_refused(change: str) -> None:
    state = new_state(parameters(), CONFIG)
    step(state)
    saved = moments(state)
    if change == "missing":
        del saved["exp_avg.b"]
    else:
        saved["exp_avg.c"] = torch.zeros(1)
    other = new_state(parameters(), CONFIG)
    other.step = 1
    with pytest.raises(StorageError, match=r"doesn't fit: exp_avg\.[bc] · folder · 1 tensors differ"):
        restore_moments(other, saved, Path("folder"))
    assert moments(other) == {}
