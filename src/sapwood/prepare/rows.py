"""Conversations -> proven examples and a report; the last step before anything is packed or trained."""

from __future__ import annotations

import bisect
import dataclasses
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapwood.config.sections import TemplateConfig
from sapwood.errors import DataError, Problem
from sapwood.prepare.alike import SAMPLE, Alike, Made
from sapwood.prepare.examples import Examples, Growing
from sapwood.prepare.report import LONGEST, SHOWN, Report, histogram_of
from sapwood.template.encode import Encoded
from sapwood.template.label import label_encoded
from sapwood.template.prove import MAX_PROBLEMS, Labelled, Proof, Prover
from sapwood.template.render import Renderer, Rendering
from sapwood.types import Conversation, Example, RowId

COUNTED = ("cut_answers", "rows", "characters", "unknown")
BATCH = 1024  # conversations that are rendered, encoded and proven together


@dataclass(frozen=True, slots=True)
class Prepared:
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
    work = Preparation(renderer, template, max_length=max_length, vocab_rows=vocab_rows)
    for conversation in conversations:
        work.add(conversation)
        if work.hopeless:
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

    def absorb(self, fields: dict[str, Any], sources: Sequence[str]) -> None:
        """Count in those of another process, in the order of the rows."""
        self.count += fields["count"]
        both = [*self.first, *(RowId(**row) for row in fields["first"])]
        self.first = sorted(both, key=lambda row: (sources.index(row.source), row.index))[:SHOWN]

    def add(self, row: RowId) -> None:
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(row)


class Preparation:
    """`prepare` for conversations that come one by one: ``add`` each, then ``finish``."""

    def __init__(
        self, renderer: Renderer, template: TemplateConfig, *, max_length: int, vocab_rows: int
    ) -> None:
        self._renderer = renderer
        self._template = template
        self._max_length = max_length
        self._prover = Prover(renderer, vocab_rows, template.accept)
        self._alike = Alike(renderer, template.train_on, vocab_rows)
        self._waiting: list[Conversation] = []
        self._problems: list[Problem] = []
        self._examples = Growing()
        self._others: list[Examples] = []
        self._sources: Sequence[str] = ()
        self._lengths: list[NDArray[np.int64]] = []
        self._longest: list[tuple[int, int, str, RowId]] = []  # length, -index, source, row: two rows differ
        self._dropped, self._cut = _Rows(), _Rows()
        self._cut_answers = self._rows = self._characters = self._unknown = 0

    def add(self, conversation: Conversation) -> None:
        """Take one more; it is prepared with those that follow."""
        self._waiting.append(conversation)
        if len(self._waiting) == BATCH:
            self._take(self._waiting)
            self._waiting = []

    @property
    def hopeless(self) -> bool:
        """There are so many problems that one more row tells nobody anything."""
        return len(self._problems) + len(self._prover.problems) >= MAX_PROBLEMS

    def _take(self, conversations: Sequence[Conversation]) -> None:
        """Prepare a batch: what `alike` knows by the short way, a sample of it and the rest by the long."""
        made = self._alike.examples(conversations)
        sampled = made.first | ((self._rows + np.array(made.places, np.int64)) % SAMPLE == 0)
        expected = {made.places[at]: at for at in np.flatnonzero(sampled).tolist()}
        short = {*made.places} - expected.keys()
        self._rows += len(conversations)
        apart: dict[int, list[tuple[Example, int]]] = {}  # place -> its examples, and the characters of each
        long = [place for place in range(len(conversations)) if place not in short]
        number = {conversations[place].row: place for place in long}
        for item in self._labelled([conversations[place] for place in long]):
            place = number[item.conversation.row]
            apart.setdefault(place, []).append((item.example, len(item.rendering.rendered.text)))
            if place in expected and not made.equals(expected[place], item.example):
                self._prover.fault(
                    item.example.row, "template-ids", "rows like it get other ids than it alone"
                )
        made = made.only(~sampled)
        self._measure(made.ids, made.lengths, [conversations[place].row for place in made.places])
        too_long = made.lengths > self._max_length
        for at in np.flatnonzero(too_long).tolist():
            place = made.places[at]
            example = made.example(at, conversations[place].row)
            apart[place] = [(example, int(made.characters[at]))]
            if self._fits(example):
                self._prover.count_alike(1, int(made.turns[at]), len(example), example.num_targets)
        self._keep_all(conversations, made.only(~too_long), apart)

    def _keep_all(
        self,
        conversations: Sequence[Conversation],
        made: Made,
        apart: dict[int, list[tuple[Example, int]]],
    ) -> None:
        """Take the examples of a batch, in the order of its rows."""
        targets = int(np.count_nonzero(made.trained))
        self._prover.count_alike(len(made.places), int(made.turns.sum()), len(made.ids), targets)
        self._characters += int(made.characters.sum())
        bounds = np.concatenate([[0], np.cumsum(made.lengths)])
        start = 0
        for place in [*sorted(apart), len(conversations)]:
            stop = bisect.bisect_left(made.places, place, start)
            span = slice(bounds[start], bounds[stop])
            rows = [conversations[i].row for i in made.places[start:stop]]
            self._examples.add(made.ids[span], made.trained[span], made.lengths[start:stop], rows)
            for example, characters in apart.get(place, ()):
                self._keep(example, characters)
            start = stop

    def _labelled(self, conversations: Sequence[Conversation]) -> list[Labelled]:
        """Render, encode and label; prove those that aren't too long to keep."""
        rendered: list[tuple[Conversation, Rendering]] = []
        for conversation in conversations:
            try:
                found = self._renderer.renderings(conversation, self._template.train_on)
                rendered += [(conversation, one) for one in found]
            except DataError as error:
                self._problems += error.problems
        labelled: list[Labelled] = []
        for (conversation, one), encoded in zip(rendered, self._encode(rendered), strict=True):
            if encoded is None:
                continue
            try:
                example = label_encoded(one.rendered, encoded)
            except DataError as error:
                self._problems += error.problems
                continue
            self._measure(example.ids, np.array([len(example)]), [example.row])
            labelled.append(Labelled(conversation, one, example, encoded.held_control))
        self._prover.check([item for item in labelled if self._fits(item.example)])
        return labelled

    def _fits(self, example: Example) -> bool:
        """False where it is too long, and not to be cut."""
        return len(example) <= self._max_length or self._template.overlong == "cut"

    def _keep(self, example: Example, characters: int) -> None:
        """Take a proven example, cut to the length if it must be; or drop one that is too long."""
        whole = len(example)
        if not self._fits(example):
            self._dropped.add(example.row)
            return
        if whole > self._max_length:
            example = cut_to(example, self._max_length)
            if not example.num_targets:
                self._dropped.add(example.row)
                return
            inside = int(example.ids[-1]) not in self._renderer.stop_ids
            self._cut.add(example.row)
            self._cut_answers += inside
            self._prover.note_cut(example.row, inside_answer=inside)
        self._examples.add(example.ids, example.trained, np.array([len(example)]), [example.row])
        self._characters += characters * len(example) // whole

    def _encode(self, rendered: Sequence[tuple[Conversation, Rendering]]) -> list[Encoded | None]:
        try:
            return list(self._renderer.encode_many([one.rendered for _, one in rendered]))
        except DataError:  # some row can't be encoded: find each of them
            out: list[Encoded | None] = []
            for _, one in rendered:
                try:
                    out.append(self._renderer.encode(one.rendered))
                except DataError as error:
                    self._problems += error.problems
                    out.append(None)
            return out

    def _measure(self, ids: NDArray[np.int32], lengths: NDArray[np.int64], rows: Sequence[RowId]) -> None:
        """Count examples as they come, those that will be dropped or cut included."""
        self._lengths.append(lengths)
        for at in np.argsort(-lengths, kind="stable")[:LONGEST].tolist():
            row = rows[at]
            heapq.heappush(self._longest, (int(lengths[at]), -row.index, row.source, row))
        while len(self._longest) > LONGEST:
            heapq.heappop(self._longest)
        unknown = self._renderer.tokenizer.unk_token_id
        if unknown is not None:
            self._unknown += int(np.count_nonzero(ids == unknown))

    def state(self) -> tuple[dict[str, Any], Examples, NDArray[np.int64]]:
        """All so far, for a Preparation of another process to `absorb`: JSON data, the examples, and the
        lengths of all that came. Raises DataError for problems that the other would have to tell."""
        self._flush()
        if problems := [*self._problems, *self._prover.problems]:
            raise DataError(problems)
        told = {name: getattr(self, f"_{name}") for name in COUNTED}
        rows = {name: dataclasses.asdict(getattr(self, f"_{name}")) for name in ("dropped", "cut")}
        longest = [(length, dataclasses.asdict(row)) for length, *_, row in self._longest]
        facts = {"count": told, **rows, "longest": longest, "proof": self._prover.state()}
        return facts, self._examples.finish(), np.concatenate([np.empty(0, np.int64), *self._lengths])

    def absorb(
        self, facts: dict[str, Any], examples: Examples, lengths: NDArray[np.int64], sources: Sequence[str]
    ) -> None:
        """Take in the `state` of another process, which prepared other rows of the files ``sources``."""
        self._flush()
        self._sources = sources
        for name, count in facts["count"].items():
            setattr(self, f"_{name}", getattr(self, f"_{name}") + count)
        for own, name in ((self._dropped, "dropped"), (self._cut, "cut")):
            own.absorb(facts[name], sources)
        for length, row in facts["longest"]:
            heapq.heappush(self._longest, (length, -row["index"], row["source"], RowId(**row)))
        while len(self._longest) > LONGEST:
            heapq.heappop(self._longest)
        self._lengths.append(lengths)
        self._others.append(examples)
        self._prover.absorb(facts["proof"])

    def _flush(self) -> None:
        if self._waiting:
            self._take(self._waiting)
            self._waiting = []

    def finish(self) -> Prepared:
        """What was proven. Raises DataError as `prepare` does."""
        self._flush()
        problems = [*self._problems, *self._prover.problems]
        if self._dropped.count and self._template.overlong == "error":
            problems = [self._too_long(), *problems]
        if problems:
            raise DataError(problems)
        if not self._rows:
            raise DataError("there are no rows", mend="look at data.train")
        if not self._num_examples:
            raise DataError([self._too_long()])
        proof = self._prover.finish()
        examples = self._examples.finish()
        if self._others:
            examples = Examples.merged([examples, *self._others], self._sources)
        return Prepared(examples, proof, self._report(proof, examples))

    @property
    def _num_examples(self) -> int:
        return self._examples.count + sum(map(len, self._others))

    def _too_long(self) -> Problem:
        longest = sorted(self._longest, key=lambda one: (-one[0], -one[1]))
        needed = longest[0][0]
        shown = ", ".join(
            f"{row} ({length:,} tokens)" for length, *_, row in longest if length > self._max_length
        )
        total = self._num_examples + self._dropped.count
        fitting = -(-needed // 64) * 64
        return Problem(
            f"[overlong] {self._dropped.count:,} of {total:,} examples "
            f"have more than {self._max_length:,} tokens",
            shown,
            "cutting them would take the end of the answer and its stop token",
            f"set pack.length={fitting} (the longest needs {needed:,}), or template.overlong=drop, or =cut",
        )

    def _report(self, proof: Proof, examples: Examples) -> Report:
        longest = sorted(self._longest, key=lambda one: (-one[0], -one[1]))
        return Report(
            rows=self._rows,
            examples=len(examples),
            tokens=examples.num_tokens,
            targets=examples.num_targets,
            max_length=self._max_length,
            histogram=histogram_of(np.concatenate(self._lengths), self._max_length),
            longest=tuple((length, row) for length, *_, row in longest),
            dropped=self._dropped.count,
            dropped_rows=tuple(self._dropped.first),
            cut=self._cut.count,
            cut_rows=tuple(self._cut.first),
            cut_answers=self._cut_answers,
            control_rows=proof.control_rows,
            unknown_tokens=self._unknown,
            characters_per_token=self._characters / max(1, examples.num_tokens),
        )
