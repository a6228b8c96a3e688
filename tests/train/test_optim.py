"""The optimizer's state by parameter name."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from sapwood.config.kinds import Optimizer
from sapwood.config.sections import TrainConfig
from sapwood.errors import StorageError
from sapwood.train.optim import MOMENTS, TrainState, moment_bytes, moments, new_state, restore_moments
from sapwood.train.schedule import Cursor


def parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (3, 4), "b": (5,)}
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def large_parameters() -> dict[str, nn.Parameter]:
    """One that bitsandbytes keeps in blocks of 8 bits besides two that it doesn't."""
    generator = torch.Generator().manual_seed(1)
    return {"large": nn.Parameter(torch.randn(64, 96, generator=generator))} | parameters()


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


def test_every_optimizer_of_the_config_has_its_moments_named() -> None:
    assert set(get_args(Optimizer)) == set(MOMENTS)


@pytest.mark.parametrize("optimizer", MOMENTS)
def test_every_optimizer_learns_and_goes_on_bit_for_bit(optimizer: Optimizer) -> None:
    config = TrainConfig(lr=0.01, weight_decay=0.1, optimizer=optimizer)
    one = new_state(large_parameters(), config)
    for _ in range(3):
        step(one)
    assert not torch.equal(one.parameters["large"], large_parameters()["large"])
    saved = {name: tensor.clone() for name, tensor in moments(one).items()}
    kept = {
        key for own in one.optimizer.state.values() for key, value in own.items() if torch.is_tensor(value)
    }
    assert {name.partition(".")[0] for name in saved} == kept - {"step"}, "nothing else is to be kept"
    other = new_state({n: nn.Parameter(p.detach().clone()) for n, p in one.parameters.items()}, config)
    other.step = 3
    restore_moments(other, saved, Path("x"))
    for _ in range(2):
        step(one)
        step(other)
    assert all(torch.equal(one.parameters[name], other.parameters[name]) for name in one.parameters)


@pytest.mark.parametrize("optimizer", MOMENTS)
def test_the_room_for_moments_is_told_before_they_are_made(optimizer: Optimizer) -> None:
    config = TrainConfig(optimizer=optimizer)
    state = new_state(large_parameters(), config)
    step(state)
    found = sum(tensor.numel() * tensor.element_size() for tensor in moments(state).values())
    told = moment_bytes(state.parameters, config)
    assert found <= told <= found * 1.1 + 64


def test_8_bit_moments_are_8_bits_where_it_pays() -> None:
    state = new_state(large_parameters(), TrainConfig(optimizer="adamw-8bit"))
    step(state)
    assert {n: t.dtype for n, t in moments(state).items() if "state1" in n} == {
        "state1.large": torch.uint8,
        "state1.a": torch.float32,
        "state1.b": torch.float32,
    }


@pytest.mark.parametrize("optimizer", MOMENTS)
def test_weight_decay_shrinks_what_is_trained_by_rate_times_decay(optimizer: Optimizer) -> None:
    before = large_parameters()
    state = new_state(large_parameters(), TrainConfig(lr=0.5, weight_decay=0.1, optimizer=optimizer))
    for parameter in state.parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step()
    for name, parameter in state.parameters.items():
        torch.testing.assert_close(parameter, before[name] * (1 - 0.5 * 0.1))


def test_lora_plus_lets_b_learn_faster() -> None:
    names = ("x.lora_A.weight", "x.lora_B.weight")
    parameters = {name: nn.Parameter(torch.zeros(2, 2)) for name in names}
    state = new_state(parameters, TrainConfig(optimizer="sgd"), b_ratio=16.0)
    for parameter in parameters.values():
        parameter.grad = torch.ones(2, 2)
    state.set_rate(0.5)
    state.optimizer.step()
    assert [float(parameters[name][0, 0].detach()) for name in names] == [-0.5, -8.0]
