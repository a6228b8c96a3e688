"""Scores by hand-made cases, and the bootstrap against a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sapwood import scores
from sapwood.types import RowId, Sample


def sample(answer: str, reference: str) -> Sample:
    return Sample(RowId("x", 0), "?", answer, reference, 3, True)


def test_chrf_is_sacrebleus_corpus_score_of_one_row() -> None:
    import sacrebleu

    pairs = [("家父是大理寺少卿。", "家父是大理寺少卿甄远道。"), ("Water it.", "Water it well.")]
    for answer, reference in pairs:
        expected = sacrebleu.corpus_chrf([answer], [[reference]]).score
        assert scores.chrf(answer, reference) == pytest.approx(expected)
    assert scores.chrf("same", "same") == pytest.approx(100)
    assert scores.chrf("", "same") == 0


def test_exact_match_overlooks_white_space_only() -> None:
    assert scores.exact_match(" two \n words ", "two words") == 100
    assert scores.exact_match("two words", "Two words") == 0


def test_only_answers_with_a_reference_are_scored() -> None:
    found = scores.score_answers([sample("a b", "a b"), sample("c", ""), sample("d", "e")])
    assert found["exact_match"] == 50
    assert found["chrf"] == pytest.approx(50)
    assert scores.score_answers([sample("c", " ")]) == {}


def test_perplexity_of_a_hopeless_loss_is_infinite() -> None:
    assert scores.perplexity(math.log(8)) == pytest.approx(8)
    assert scores.perplexity(1e4) == math.inf


def test_the_interval_holds_a_difference_that_is_there_and_zero_where_there_is_none() -> None:
    drawn = np.random.default_rng(1)
    weights = drawn.integers(1, 20, 60).astype(float)
    base = drawn.normal(3, 1, 60) * weights
    better = base - 0.2 * weights + drawn.normal(0, 0.3, 60)
    sure = scores.paired_bootstrap(base, better, weights, seed=0)
    assert sure.low < -0.2 < sure.high < 0
    same = scores.paired_bootstrap(base, base + drawn.normal(0, 1, 60), weights, seed=0)
    assert same.low < 0 < same.high
    assert scores.paired_bootstrap(base, better, weights, seed=0) == sure
    assert scores.paired_bootstrap(base, better, weights, seed=1) != sure


def test_the_interval_is_that_of_a_plain_loop() -> None:
    drawn = np.random.default_rng(2)
    weights, base, tuned = drawn.uniform(1, 9, 12), drawn.normal(9, 3, 12), drawn.normal(8, 3, 12)
    means: list[float] = []
    for _ in range(4000):
        rows = drawn.integers(0, 12, 12)
        means.append((tuned[rows] - base[rows]).sum() / weights[rows].sum())
    found = scores.paired_bootstrap(base, tuned, weights, seed=0)
    spread = np.quantile(means, 0.975) - np.quantile(means, 0.025)
    assert found.value == pytest.approx((tuned - base).sum() / weights.sum())
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=0.1 * spread)
    assert found.high == pytest.approx(np.quantile(means, 0.975), abs=0.1 * spread)
