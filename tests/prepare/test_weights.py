"""data.weights: how often an epoch sees the rows of each entry."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from sapwood.config.file import parse_config
from sapwood.errors import ConfigError
from sapwood.prepare.weights import weighted
from sapwood.types import Example, RowId


def examples(*sources: str, number: int = 400) -> list[Example]:
    ids, trained = np.array([1, 2], np.int32), np.array([False, True])
    return [Example(RowId(source, i), ids, trained) for source in sources for i in range(number)]


def test_without_weights_each_row_is_seen_once() -> None:
    rows = examples("a", "b")
    assert weighted(rows, ["a", "b"], (), 0) == rows


def test_each_entry_is_seen_as_often_as_its_weight_says() -> None:
    rows = examples("a.jsonl", "data/x.json", "data/y.json", "hf:o/n/f.json")
    out = weighted(rows, ["a.jsonl", "data/", "hf:o/n/f.json"], (2, 0.25, 1.5), 0)
    count = Counter(example.row.source for example in out)
    assert count["a.jsonl"] == 800
    assert 150 < count["data/x.json"] + count["data/y.json"] < 250
    assert 550 < count["hf:o/n/f.json"] < 650


def test_the_choice_depends_on_row_and_seed_alone() -> None:
    rows = examples("a")
    half = [e.row for e in weighted(rows, ["a"], (0.5,), 0)]
    assert half == [e.row for e in weighted(rows, ["a"], (0.5,), 0)]
    assert half != [e.row for e in weighted(rows, ["a"], (0.5,), 1)]
    assert {*half} == {e.row for e in weighted(rows[::-1], ["a"], (0.5,), 0)}


def test_the_examples_of_one_row_go_together() -> None:
    twice = [example for example in examples("a") for _ in range(2)]
    count = Counter(example.row for example in weighted(twice, ["a"], (0.5,), 3))
    assert {*count.values()} == {2}


def test_a_file_named_beside_its_folder_has_its_own_weight() -> None:
    out = weighted(examples("data/x.json", number=1), ["data", "data/x.json"], (1, 3), 0)
    assert len(out) == 3


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [1, 0], [1, -1], [1, "x"]])
def test_weights_that_fit_no_file_are_refused(weights: list[object]) -> None:
    with pytest.raises(ConfigError, match=r"data\.weights"):
        parse_config({"data": {"train": ["a", "b"], "weights": weights}})
