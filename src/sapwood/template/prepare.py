"""Conversations -> proven examples and a report; the last step before anything is packed or trained."""

from __future__ import annotations

import bisect
import dataclasses
import heapq
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sapwood.config import TemplateConfig
from sapwood.errors import DataError, Problem
from sapwood.template.alike import SAMPLE, Alike, Known
from sapwood.template.encode import Encoded
from sapwood.template.label import label_encoded
from sapwood.template.prove import MAX_PROBLEMS, Labelled, Proof, Prover
from sapwood.template.render import Renderer, Rendering
from sapwood.types import Conversation, Example, RowId

SHOWN = 20  # rows of one kind that a report names
BATCH = 256  # conversations that are rendered, encoded and proven together


@dataclass(frozen=True, slots=True)
class Report:
    """What the data is, in tokens.

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


@dataclass(frozen=True, slots=True)
class Prepared:
    """Examples in the order of their rows, the proof that they are right, and the report about them."""

    examples: list[Example]
    proof: Proof
    report: Report


def prepare(
    conversations: Iterable[Conversation],
    renderer: Renderer,
    template: TemplateConfig,
    *,
    max_length: int,
    vocab_rows: int,
) -> Prepared:
    """Render, encode, label and prove every conversation.

    Args:
        conversations: read once, in batches.
        renderer: made for the base's tokenizer.
        template: says which turns are learnt, and what happens to rows that are too long.
        max_length: tokens that an example may have.
        vocab_rows: rows of the model's embedding.

    Raises:
        DataError: with every problem of every row (1,000 at most), among them rows that are too long.
    """
    prover = Prover(renderer, vocab_rows, template.accept)
    alike = Alike(renderer, template.train_on, vocab_rows)
    work = _Work(renderer, template, max_length, prover, alike)
    for batch in _batches(conversations):
        work.take(batch)
        if len(work.problems) + len(work.prover.problems) >= MAX_PROBLEMS:
            break
    return work.finish()


def cut_to(example: Example, length: int) -> Example:
    """The beginning of an example: ``length`` tokens at most, the last of them one that is learnt.

    Nothing is put at its end. A stop token stands there only where a whole answer fits, so that the model
    never learns to stop where the text was cut. Without any token to learn it means that none fitted.
    """
    learnt = np.flatnonzero(example.trained[:length])
    stop = int(learnt[-1]) + 1 if len(learnt) else length
    return Example(example.row, example.ids[:stop], example.trained[:stop])


@dataclass(slots=True)
class _Rows:
    """How many rows something happened to, and the first of them."""

    count: int = 0
    first: list[RowId] = field(default_factory=list[RowId])

    def add(self, row: RowId) -> None:
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(row)


@dataclass(slots=True)
class _Work:
    """What is known so far."""

    renderer: Renderer
    template: TemplateConfig
    max_length: int
    prover: Prover
    alike: Alike
    problems: list[Problem] = field(default_factory=list[Problem])
    examples: list[Example] = field(default_factory=list[Example])
    lengths: list[int] = field(default_factory=list[int])
    longest: list[tuple[int, int, RowId]] = field(default_factory=list[tuple[int, int, RowId]])
    dropped: _Rows = field(default_factory=_Rows)
    cut: _Rows = field(default_factory=_Rows)
    cut_answers: int = 0
    rows: int = 0
    characters: int = 0
    unknown: int = 0

    def take(self, conversations: Sequence[Conversation]) -> None:
        """Prepare a batch: what `alike` knows by the short way, a sample of it and the rest by the long."""
        known = self.alike.examples(conversations)
        long = [i for i in range(len(conversations)) if i not in known or self._samples(i, known[i])]
        expected = {i: known.pop(i).example for i in long if i in known}
        self.rows += len(conversations)
        done: list[tuple[int, Example, int]] = []
        number = {conversations[i].row: i for i in long}
        for item in self._labelled([conversations[i] for i in long]):
            i = number[item.conversation.row]
            done.append((i, item.example, len(item.rendering.rendered.text)))
            if i in expected and not _same(expected[i], item.example):
                self.prover.fault(
                    item.example.row, "template-ids", "rows like it get other ids than it alone"
                )
        for i, one in known.items():
            if self._takes(one.example):
                self.prover.count_alike(one.example, one.turns)
                done.append((i, one.example, one.characters))
        for _, example, characters in sorted(done, key=lambda one: one[0]):
            self._keep(example, characters)

    def _samples(self, i: int, one: Known) -> bool:
        return one.first or (self.rows + i) % SAMPLE == 0

    def _labelled(self, conversations: Sequence[Conversation]) -> list[Labelled]:
        """Render, encode, label and prove; without those that are too long to keep."""
        rendered: list[tuple[Conversation, Rendering]] = []
        for conversation in conversations:
            try:
                found = self.renderer.renderings(conversation, self.template.train_on)
                rendered += [(conversation, one) for one in found]
            except DataError as error:
                self.problems += error.problems
        labelled: list[Labelled] = []
        for (conversation, one), encoded in zip(rendered, self._encode(rendered), strict=True):
            if encoded is None:
                continue
            try:
                example = label_encoded(one.rendered, encoded)
            except DataError as error:
                self.problems += error.problems
                continue
            if self._takes(example):
                labelled.append(Labelled(conversation, one, example, encoded.held_control))
        self.prover.check(labelled)
        return labelled

    def _takes(self, example: Example) -> bool:
        """Measure an example; False where it is too long, and not to be cut."""
        self._measure(example)
        if len(example) > self.max_length and self.template.overlong != "cut":
            self.dropped.add(example.row)
            return False
        return True

    def _keep(self, example: Example, characters: int) -> None:
        """Take a proven example, cut to the length if it must be."""
        whole = len(example)
        if whole > self.max_length:
            example = cut_to(example, self.max_length)
            if not example.num_targets:
                self.dropped.add(example.row)
                return
            inside = int(example.ids[-1]) not in self.renderer.stop_ids
            self.cut.add(example.row)
            self.cut_answers += inside
            self.prover.note_cut(example.row, inside_answer=inside)
        self.examples.append(example)
        self.characters += characters * len(example) // whole

    def _encode(self, rendered: Sequence[tuple[Conversation, Rendering]]) -> list[Encoded | None]:
        try:
            return list(self.renderer.encode_many([one.rendered for _, one in rendered]))
        except DataError:  # some row can't be encoded: find each of them
            out: list[Encoded | None] = []
            for _, one in rendered:
                try:
                    out.append(self.renderer.encode(one.rendered))
                except DataError as error:
                    self.problems += error.problems
                    out.append(None)
            return out

    def _measure(self, example: Example) -> None:
        self.lengths.append(len(example))
        heapq.heappush(self.longest, (len(example), -example.row.index, example.row))
        if len(self.longest) > 5:
            heapq.heappop(self.longest)
        unknown = self.renderer.tokenizer.unk_token_id
        if unknown is not None:
            self.unknown += int((example.ids == unknown).sum())

    def finish(self) -> Prepared:
        problems = [*self.problems, *self.prover.problems]
        if self.dropped.count and self.template.overlong == "error":
            problems = [self._too_long(), *problems]
        if problems:
            raise DataError(problems)
        if not self.rows:
            raise DataError("there are no rows", mend="look at data.train")
        if not self.examples:
            raise DataError([self._too_long()])
        proof = self.prover.finish()
        return Prepared(self.examples, proof, self._report(proof))

    def _too_long(self) -> Problem:
        longest = sorted(self.longest, key=lambda one: (-one[0], -one[1]))
        needed = longest[0][0]
        shown = ", ".join(
            f"{row} ({length:,} tokens)" for length, _, row in longest if length > self.max_length
        )
        total = len(self.examples) + self.dropped.count
        fitting = -(-needed // 64) * 64
        return Problem(
            f"[overlong] {self.dropped.count:,} of {total:,} examples "
            f"have more than {self.max_length:,} tokens",
            shown,
            "cutting them would take the end of the answer and its stop token",
            f"set pack.length={fitting} (the longest needs {needed:,}), or template.overlong=drop, or =cut",
        )

    def _report(self, proof: Proof) -> Report:
        longest = sorted(self.longest, key=lambda one: (-one[0], -one[1]))
        return Report(
            rows=self.rows,
            examples=len(self.examples),
            tokens=(tokens := sum(map(len, self.examples))),
            targets=sum(example.num_targets for example in self.examples),
            max_length=self.max_length,
            histogram=_histogram(self.lengths, self.max_length),
            longest=tuple((length, row) for length, _, row in longest),
            dropped=self.dropped.count,
            dropped_rows=tuple(self.dropped.first),
            cut=self.cut.count,
            cut_rows=tuple(self.cut.first),
            cut_answers=self.cut_answers,
            control_rows=proof.control_rows,
            unknown_tokens=self.unknown,
            characters_per_token=self.characters / max(1, tokens),
        )


def _same(one: Example, other: Example) -> bool:
    return np.array_equal(one.ids, other.ids) and np.array_equal(one.trained, other.trained)


def _histogram(lengths: Sequence[int], cut: int) -> tuple[tuple[int, int], ...]:
    """Counts in bins whose bounds are powers of two, from the shortest to the longest; ``cut`` is a bound too
    where there is something beyond it."""
    ordered = sorted(lengths)
    bounds = [16 << n for n in range(32)]
    bounds = sorted({*bounds, cut}) if ordered[-1] > cut else bounds
    upto = [bisect.bisect_right(ordered, bound) for bound in bounds]
    counts = [after - before for before, after in itertools.pairwise([0, *upto])]
    used = [i for i, count in enumerate(counts) if count]
    return tuple((bounds[i], counts[i]) for i in range(used[0], used[-1] + 1))


def _batches(conversations: Iterable[Conversation]) -> Iterable[list[Conversation]]:
    stream = iter(conversations)
    while batch := list(itertools.islice(stream, BATCH)):
        yield batch
