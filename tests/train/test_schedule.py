"""Order, steps and learning rate as pure functions."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    get_cosine_schedule_with_warmup,
    get_cosine_with_hard_restarts_schedule_with_warmup,
    get_inverse_sqrt_schedule,
    get_linear_schedule_with_warmup,
    get_polynomial_decay_schedule_with_warmup,
)

from sapwood.config.sections import TrainConfig
from sapwood.train.schedule import Cursor, learning_rate, members, order, plan_steps

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.integers(0, 10_000), st.integers(1, 300))
def test_an_epochs_order_is_a_permutation_and_a_function_of_seed_and_epoch(
    seed: int, epoch: int, number: int
) -> None:
    found = order(seed, epoch, number).tolist()
    assert sorted(found) == list(range(number))
    assert found == order(seed, epoch, number).tolist()


def test_another_seed_or_epoch_gives_another_order() -> None:
    orders = [tuple(order(seed, epoch, 50).tolist()) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == 16
    assert tuple(range(50)) not in orders


def test_the_order_is_the_same_on_every_machine_and_day() -> None:
    """A run resumed under a newer numpy would otherwise repeat some rows and miss others."""
    assert order(0, 0, 10).tolist() == [0, 7, 8, 6, 9, 5, 1, 3, 2, 4]
    assert order(2**32 - 1, 3, 6).tolist() == [2, 0, 1, 5, 4, 3]


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 60), st.integers(1, 70))
def test_an_epoch_takes_every_example_once(seed: int, number: int, batch_size: int) -> None:
    plan = plan_steps(number, TrainConfig(batch_size=batch_size, epochs=2))
    cursor = Cursor()
    for epoch in range(2):
        seen: list[int] = []
        for step in range(plan.steps_per_epoch):
            assert cursor == Cursor(epoch, step * batch_size)
            chosen, cursor = members(plan, seed, cursor)
            assert 1 <= len(chosen) <= batch_size
            seen += chosen
        assert seen == order(seed, epoch, number).tolist()
    assert cursor == Cursor(2, 0)
    assert plan.total_steps == 2 * plan.steps_per_epoch


@pytest.mark.parametrize(
    ("number", "settings", "expected"),
    [
        (10, {"batch_size": 4, "epochs": 1}, (3, 3)),
        (10, {"batch_size": 5, "epochs": 3}, (2, 6)),
        (10, {"batch_size": 100, "epochs": 2}, (1, 2)),
        (100, {"batch_size": 10, "epochs": 0.25}, (10, 3)),
        (100, {"batch_size": 10, "epochs": 0.1}, (10, 1)),
        (100, {"batch_size": 10, "epochs": 0.3}, (10, 3)),  # 3.0000000000000004 / 10 is not a fourth step
        (100, {"batch_size": 10, "epochs": 1e-6}, (10, 1)),
        (100, {"batch_size": 10, "max_steps": 7}, (10, 7)),
        (100, {"batch_size": 10, "max_steps": 25}, (10, 25)),
    ],
)
def test_steps(number: int, settings: dict[str, Any], expected: tuple[int, int]) -> None:
    plan = plan_steps(number, TrainConfig(**settings))
    assert (plan.steps_per_epoch, plan.total_steps) == expected


@pytest.mark.parametrize(
    ("warmup", "steps"), [(0, 0), (0.03, 3), (0.031, 4), (0.5, 50), (1, 1), (7, 7), (1000, 100)]
)
def test_warmup_is_a_share_below_one_and_a_number_from_one_on(warmup: float, steps: int) -> None:
    assert plan_steps(100, TrainConfig(batch_size=1, epochs=1, warmup=warmup)).warmup_steps == steps


def rates(**settings: Any) -> list[float]:
    config = TrainConfig(batch_size=1, epochs=1, lr=1.0, **settings)
    plan = plan_steps(20, config)
    return [learning_rate(step, plan, config) for step in range(plan.total_steps + 1)]


def test_linear_rises_and_falls_to_zero_just_after_the_last_step() -> None:
    found = rates(schedule="linear", warmup=4)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[4:] == pytest.approx([1 - n / 16 for n in range(17)])


def test_cosine_falls_in_half_a_wave() -> None:
    found = rates(schedule="cosine", warmup=4)
    assert found[12] == pytest.approx(0.5)
    assert found[4:] == pytest.approx([0.5 + 0.5 * math.cos(math.pi * n / 16) for n in range(17)])


def test_constant_stays() -> None:
    assert rates(schedule="constant", warmup=4) == pytest.approx([0.2, 0.4, 0.6, 0.8] + [1.0] * 17)


@pytest.mark.parametrize("schedule", get_args(TrainConfig.model_fields["schedule"].annotation))
def test_all_warmup_and_beyond_the_end(schedule: str) -> None:
    found = rates(schedule=schedule, warmup=100)
    assert found[:20] == pytest.approx([(n + 1) / 21 for n in range(20)])
    config = TrainConfig(batch_size=1, epochs=1, schedule=schedule)  # type: ignore[arg-type]
    steps = plan_steps(20, config)
    after = learning_rate(steps.warmup_steps + 1000, steps, config)
    if schedule == "inverse-sqrt":
        assert after == pytest.approx(config.lr * math.sqrt(steps.warmup_steps / (steps.warmup_steps + 1000)))
    else:
        assert after == (config.lr if schedule == "constant" else 0.0)


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        ({"schedule": "linear"}, lambda o: get_linear_schedule_with_warmup(o, 0, 20)),
        ({"schedule": "cosine"}, lambda o: get_cosine_schedule_with_warmup(o, 0, 20)),
        (
            {"schedule": "cosine-restarts", "cycles": 3},
            lambda o: get_cosine_with_hard_restarts_schedule_with_warmup(o, 0, 20, num_cycles=3),
        ),
        (
            {"schedule": "polynomial", "power": 2.0},
            lambda o: get_polynomial_decay_schedule_with_warmup(o, 0, 20, lr_end=0.0, power=2.0),
        ),
        ({"schedule": "inverse-sqrt"}, lambda o: get_inverse_sqrt_schedule(o, 0)),
    ],
    ids=lambda value: value["schedule"] if isinstance(value, dict) else "",
)
def test_without_warmup_the_rates_are_those_of_transformers(settings: dict[str, Any], theirs: Any) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = theirs(optimizer)
    expected: list[float] = []
    for _ in range(20):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates(warmup=0, **settings)[:20] == pytest.approx(expected)
