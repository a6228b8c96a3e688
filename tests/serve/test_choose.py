"""Settings are checked, and draws follow the probabilities that they describe."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from sapwood.errors import ConfigError
from sapwood.serve.choose import Chooser, Settings

LOGITS = torch.log(torch.tensor([0.1, 0.4, 0.3, 0.2]))


def drawn(number: int = 2000, prompt: tuple[int, ...] = (0,), **changes: Any) -> Counter[int]:
    """How often each token comes, each row with a generator of its own."""
    settings = Settings(**({"temperature": 1.0} | changes))
    chooser = Chooser(settings, dict.fromkeys(range(number), prompt))
    return Counter(chooser.choose(LOGITS.repeat(number, 1), range(number)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", 1.5),
        ("max_new_tokens", True),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_k", -1),
        ("repetition_penalty", 0.0),
        ("seed", -1),
        ("seed", "0"),
    ],
)
def test_values_out_of_bounds_are_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key) as caught:
        Settings(**{key: value})
    assert repr(value) in str(caught.value)


def test_all_bad_values_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(max_new_tokens=0, top_p=2.0, seed=-1)
    assert [problem.where for problem in caught.value.problems] == ["max_new_tokens", "top_p", "seed"]


def test_greedy_takes_the_likeliest() -> None:
    assert drawn(5, temperature=0.0) == {1: 5}


def test_draws_follow_the_probabilities() -> None:
    counts = drawn()
    for token, probability in enumerate((0.1, 0.4, 0.3, 0.2)):
        assert counts[token] / 2000 == pytest.approx(probability, abs=0.04)


def test_a_low_temperature_sharpens() -> None:
    assert drawn(temperature=0.05)[1] > 1950


def test_top_k_keeps_that_many_tokens() -> None:
    assert set(drawn(top_k=2)) == {1, 2}
    assert drawn(100, top_k=1) == {1: 100}
    assert set(drawn(top_k=50)) == {0, 1, 2, 3}


def test_top_p_keeps_the_likeliest_that_reach_it() -> None:
    assert set(drawn(top_p=0.65)) == {1, 2}
    assert set(drawn(top_p=0.75)) == {1, 2, 3}
    assert set(drawn(top_p=0.01)) == {1}


def test_a_repetition_penalty_turns_to_what_has_not_occurred() -> None:
    chooser = Chooser(Settings(repetition_penalty=2.0), {7: (3,)})
    scores = torch.tensor([[1.0, 4.0, 3.0, -1.0]])
    assert chooser.choose(scores, [7]) == [1]
    assert chooser.choose(scores, [7]) == [2]  # 4 / 2 < 3
    assert chooser.choose(scores, [7]) == [1]  # 4 / 2 > 3 / 2
    assert scores.tolist() == [[1.0, 4.0, 3.0, -1.0]]
    low = torch.tensor([[-9.0, -9.0, -1.5, -1.0]])  # a negative score is multiplied
    assert Chooser(Settings(repetition_penalty=2.0), {0: (3,)}).choose(low, [0]) == [2]


def test_the_same_seed_draws_the_same() -> None:
    assert drawn(50, seed=3) == drawn(50, seed=3)
    assert drawn(50, seed=3) != drawn(50, seed=4)
