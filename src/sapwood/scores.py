"""Scores of answers, and how sure one can be of a difference between two models on the same rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sapwood.types import Sample

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the range that holds it with 95 % confidence, over the choice of rows."""

    value: float
    low: float
    high: float


def perplexity(loss: float) -> float:
    """exp(loss); infinite if that is too large for a number."""
    return math.exp(loss) if loss < 709 else math.inf


def chrf(answer: str, reference: str) -> float:
    """chrF2 of one answer, 0 to 100: overlap of character 6-grams (Popović 2015, as sacrebleu computes it).
    It needs no words, so Chinese is measured as well as English."""
    from sacrebleu.metrics.chrf import CHRF

    return CHRF().sentence_score(answer, [reference]).score


def exact_match(answer: str, reference: str) -> float:
    """100 if the answer is the reference, white space at the ends and runs of it aside; else 0."""
    return 100.0 * (answer.split() == reference.split())


def score_answers(samples: Sequence[Sample]) -> dict[str, float]:
    """Mean chrF and exact match over the answers that have a reference; empty if none has."""
    measured = [sample for sample in samples if sample.reference.strip()]
    if not measured:
        return {}
    return {
        name: float(np.mean([score(sample.answer, sample.reference) for sample in measured]))
        for name, score in (("chrf", chrf), ("exact_match", exact_match))
    }


def paired_bootstrap(
    base: NDArray[np.float64], tuned: NDArray[np.float64], weights: NDArray[np.float64], seed: int
) -> Interval:
    """The difference of two weighted means, and its interval by the paired bootstrap (Koehn 2004).

    base, tuned: sums by row, float[R], of the same rows; weights: what each sum is over (targets, or ones).
    Rows are drawn with replacement, the same for both models, `RESAMPLES` times; equal seeds give equal
    intervals.
    """
    rows = len(weights)
    difference = tuned - base
    drawn = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES)
    means = (drawn @ difference) / (drawn @ weights)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(difference.sum() / weights.sum()), float(low), float(high))
