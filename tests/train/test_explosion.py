"""A loss far above those before it is told once, with figures; ordinary noise isn't."""

from __future__ import annotations

from sapwood.train.explosion import QUIET, LossWatch
from tests.run.shared import stepped


def told(losses: list[float]) -> list[tuple[int, str]]:
    watch = LossWatch()
    found = [(step, watch.warning(stepped(step, loss))) for step, loss in enumerate(losses, 1)]
    return [(step, text) for step, text in found if text]


def test_an_explosion_is_told_with_the_window() -> None:
    ((step, text),) = told([2.0, 1.9, 2.1, 2.0, 1.8, 9.0])
    assert step == 6
    assert "loss 9 at step 6 is 4.5 times the median of the 5 steps before it (2; 1.8 to 2.1)" in text


def test_noise_and_a_first_few_steps_are_not() -> None:
    assert not told([2.0, 1.0, 2.9, 0.9, 2.8, 1.1, 2.7])
    assert not told([0.1, 5.0, 0.1, 5.0])


def test_it_is_told_once_and_again_only_later() -> None:
    losses = [1.0] * 20 + [50.0] * 5
    assert len(told(losses)) == 1
    assert [step for step, _ in told([*losses, *[1.0] * QUIET, 50.0])] == [21, 46]
