"""What the data are, in tokens."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapwood.types import RowId

LONGEST = 5  # examples that are named
SHOWN = 20  # rows of one kind that are named


@dataclass(frozen=True, slots=True)
class Report:
    """What the data are, in tokens.

    Attributes:
        rows: rows read; examples: what they became (a template that rewrites history makes one per turn).
        tokens, targets: of the examples; targets are the tokens to learn.
        max_length: tokens that an example may have.
        histogram: (upper bound in tokens, examples up to it and above the bound before), of the examples as
            they came, those that are dropped or cut included; ``max_length`` is one of the bounds then.
        longest: the longest examples, in tokens, with their rows.
        dropped: examples left out because they were too long; dropped_rows: the first of their rows.
        cut: examples cut to the length; cut_rows: the first of their rows; cut_answers: those of them that
            end inside an answer, and so without a stop token.
        control_rows: rows whose content was spelled like a control token, and was kept as plain text.
        unknown_tokens: characters that the tokenizer doesn't know.
        characters_per_token: of the rendered text.
    """

    rows: int
    examples: int
    tokens: int
    targets: int
    max_length: int
    histogram: tuple[tuple[int, int], ...]
    longest: tuple[tuple[int, RowId], ...]
    dropped: int
    dropped_rows: tuple[RowId, ...]
    cut: int
    cut_rows: tuple[RowId, ...]
    cut_answers: int
    control_rows: int
    unknown_tokens: int
    characters_per_token: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; rows are named as in messages."""
        facts = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        facts["histogram"] = [list(one) for one in self.histogram]
        facts["longest"] = [{"tokens": length, "row": str(row)} for length, row in self.longest]
        for key in ("dropped_rows", "cut_rows"):
            facts[key] = [str(row) for row in facts[key]]
        return facts


def histogram_of(lengths: NDArray[np.int64], cut: int) -> tuple[tuple[int, int], ...]:
    """Counts in bins whose bounds are powers of two, from the shortest to the longest; ``cut`` is a bound too
    where there is something beyond it."""
    ordered = np.sort(lengths)
    bounds = [16 << n for n in range(32)]
    bounds = sorted({*bounds, cut}) if ordered[-1] > cut else bounds
    upto = np.searchsorted(ordered, bounds, side="right").tolist()
    counts = [after - before for before, after in itertools.pairwise([0, *upto])]
    used = [i for i, count in enumerate(counts) if count]
    return tuple((bounds[i], counts[i]) for i in range(used[0], used[-1] + 1))
