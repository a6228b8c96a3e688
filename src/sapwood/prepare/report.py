"""What the data are, in tokens; and the sums over all batches that it is computed from."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapwood.config.sections import TemplateConfig
from sapwood.errors import DataError
from sapwood.prepare.examples import Examples, Growing
from sapwood.prepare.faults import Faults
from sapwood.prepare.rows import ProvenBatch, Rules, longest_of, prove_rows
from sapwood.template.proof import Proof, ProofTally
from sapwood.template.prove import proof_of
from sapwood.template.render import Renderer
from sapwood.types import Conversation, RowId

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
        cut: examples cut to the length; cut_rows: the first of their rows; cut_answers: the cut examples that
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
    if there is something beyond it."""
    ordered = np.sort(lengths)
    bounds = [16 << n for n in range(32)]
    bounds = sorted({*bounds, cut}) if ordered[-1] > cut else bounds
    upto = np.searchsorted(ordered, bounds, side="right").tolist()
    counts = [after - before for before, after in itertools.pairwise([0, *upto])]
    used = [i for i, count in enumerate(counts) if count]
    return tuple((bounds[i], counts[i]) for i in range(used[0], used[-1] + 1))


@dataclass(frozen=True, slots=True)
class Preparation:
    """Examples in the order of their rows, the proof that they are right, and the report about them."""

    examples: Examples
    proof: Proof
    report: Report


def prepare(
    conversations: Iterable[Conversation],
    renderer: Renderer,
    template: TemplateConfig,
    *,
    max_length: int,
    vocab_rows: int,
) -> Preparation:
    """Render, encode, label and prove every conversation, in this process.

    Args:
        conversations: read once, in batches.
        renderer: made for the base's tokenizer.
        template, max_length, vocab_rows: see `Rules`.

    Raises:
        DataError: with every problem of every row, among them rows that are too long. A fault that many rows
        share is one problem with a count.
    """
    rules = Rules(template, max_length, vocab_rows)
    total = Tally(rules)
    for batch in prove_rows(conversations, renderer, rules):
        total.add(batch)
        if total.hopeless:
            break
    return total.finish(renderer)


class Tally:
    """Sums up batches in the order of their rows: ``add`` each, then ``finish``."""

    def __init__(self, rules: Rules, faults: Faults | None = None) -> None:
        """``faults``: takes the problems, if others add problems too."""
        self._rules = rules
        self._examples = Growing()
        self._lengths: list[NDArray[np.int64]] = []
        self._longest: list[tuple[RowId, int]] = []
        self._dropped, self._cut = _Rows(), _Rows()
        self._rows = self._cut_answers = self._characters = self._unknown = 0
        self._proven = ProofTally()
        self._faults = faults if faults is not None else Faults(rules)

    @property
    def rows(self) -> int:
        """How many rows were seen."""
        return self._rows

    @property
    def hopeless(self) -> bool:
        """There are so many problems that one more row tells nobody anything."""
        return self._faults.hopeless

    def add(self, batch: ProvenBatch) -> None:
        """Count in a batch of later rows."""
        self._rows += batch.rows
        self._examples.add(batch.examples)
        self._lengths.append(batch.lengths)
        self._longest = longest_of([*self._longest, *batch.longest])
        self._dropped.add(batch.dropped)
        self._cut.add(batch.cut)
        self._cut_answers += batch.cut_answers
        self._characters += batch.characters
        self._unknown += batch.unknown
        self._proven.add(batch.tally)
        self._faults.add(batch)

    def finish(self, renderer: Renderer) -> Preparation:
        """What was proven. Raises DataError as `prepare` does."""
        if problems := self._faults.problems():
            raise DataError(problems)
        if not self._rows:
            raise DataError(
                "no rows to train on", "data.train", "its files hold none, or all were dropped", "add rows"
            )
        if not self._examples.count:
            raise DataError([self._faults.too_long()])
        proof = proof_of(self._proven, renderer)
        examples = self._examples.finish()
        return Preparation(examples, proof, self._report(proof, examples))

    def _report(self, proof: Proof, examples: Examples) -> Report:
        return Report(
            rows=self._rows,
            examples=len(examples),
            tokens=examples.num_tokens,
            targets=examples.num_targets,
            max_length=self._rules.max_length,
            histogram=histogram_of(np.concatenate(self._lengths), self._rules.max_length),
            longest=tuple((length, row) for row, length in self._longest),
            dropped=self._dropped.count,
            dropped_rows=tuple(self._dropped.first),
            cut=self._cut.count,
            cut_rows=tuple(self._cut.first),
            cut_answers=self._cut_answers,
            control_rows=proof.control_rows,
            unknown_tokens=self._unknown,
            characters_per_token=self._characters / max(1, examples.num_tokens),
        )


class _Rows:
    """A count of rows with a common fate, and the first of these rows."""

    def __init__(self) -> None:
        self.count, self.first = 0, list[RowId]()

    def add(self, rows: list[RowId]) -> None:
        self.count += len(rows)
        self.first += rows[: SHOWN - len(self.first)]
