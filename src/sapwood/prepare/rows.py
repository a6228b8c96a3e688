"""Conversations -> proven examples, a batch at a time; the last step before anything is packed or trained."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sapwood.config.sections import TemplateConfig
from sapwood.errors import DataError, Problem
from sapwood.prepare.examples import Examples
from sapwood.template.encode import Encoded
from sapwood.template.learnt.label import label_encoded, span_weights
from sapwood.template.proof import ProofTally
from sapwood.template.prove import Fault, Labelled, Prover
from sapwood.template.render import Renderer, Rendering
from sapwood.template.truth import Truths
from sapwood.types import Conversation, Example, RowId

BATCH = 1024  # conversations that are rendered, encoded and proven together
LONGEST = 5  # examples that are named


@dataclass(frozen=True, slots=True)
class Rules:
    """How rows become examples.

    Attributes:
        template: says which turns are learnt, and what happens to rows that are too long.
        max_length: tokens that an example may have.
        vocab_rows: rows of the model's embedding.
    """

    template: TemplateConfig
    max_length: int
    vocab_rows: int

    def fits(self, example: Example) -> bool:
        """False if an example is too long, and not to be cut."""
        return len(example) <= self.max_length or self.template.overlong == "cut"


@dataclass(slots=True)
class ProvenBatch:
    """What a batch of conversations became.

    Attributes:
        rows: how many conversations there were.
        examples: proven, in the order of their rows.
        lengths: int64, tokens of each example as it came, those that were dropped or cut included; longest:
            the longest of them with their rows.
        dropped, cut: rows whose examples were too long; cut_answers: of the cut ones those that end inside an
            answer.
        characters: of the text of ``examples``; unknown: characters that the tokenizer doesn't know.
        tally: what was proven.
        problems: of all rows, in their order.
    """

    rows: int
    examples: Examples = field(default_factory=lambda: Examples.of([]))
    lengths: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    longest: list[tuple[RowId, int]] = field(default_factory=list[tuple[RowId, int]])
    dropped: list[RowId] = field(default_factory=list[RowId])
    cut: list[RowId] = field(default_factory=list[RowId])
    cut_answers: int = 0
    characters: int = 0
    unknown: int = 0
    tally: ProofTally = field(default_factory=ProofTally)
    problems: list[Problem] = field(default_factory=list[Problem])


def prove_rows(
    conversations: Iterable[Conversation], renderer: Renderer, rules: Rules
) -> Generator[ProvenBatch]:
    """Render, encode, label and prove every conversation; read once, `BATCH` at a time."""
    remaining = iter(conversations)
    while batch := list(itertools.islice(remaining, BATCH)):
        yield prove_batch(batch, renderer, rules)


def prove_batch(conversations: Sequence[Conversation], renderer: Renderer, rules: Rules) -> ProvenBatch:
    """What these conversations become. A row that can't be trusted is a problem; the others go on.

    Texts and ids are guessed first, which is faster. A row whose guess fails in any way is done again, by the
    template and the tokenizer themselves, and what they give is what counts.
    """
    prover = Prover(renderer, rules.vocab_rows, rules.template.accept)
    work = _Work(renderer, rules, prover, Truths(renderer))
    outcomes = work.done(conversations, quick=True)
    again = [i for i, outcome in enumerate(outcomes) if not outcome.is_right]
    slow = work.done([conversations[i] for i in again], quick=False)
    for i, outcome in zip(again, slow, strict=True):
        outcomes[i] = outcome
    proven = [item for outcome in outcomes for item in outcome.items]
    fitting = [item for item in proven if rules.fits(item.example)]
    for item in fitting:
        prover.check_said(item)
    prover.count(fitting)
    found = _measured(len(conversations), proven, renderer, rules)
    _keep(proven, found, prover, renderer, rules)
    found.tally = prover.tally
    for conversation, outcome in zip(conversations, outcomes, strict=True):
        found.problems += outcome.problems
        for fault in outcome.faults:
            found.problems += prover.fault(conversation.row, fault)
    return found


# --- the steps ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Outcome:
    """What became of a conversation: its examples, the checks that these fail, or why there are none.

    whole: no example is too long; such ones aren't proven.
    """

    items: list[Labelled] = field(default_factory=list[Labelled])
    faults: list[Fault] = field(default_factory=list[Fault])
    problems: list[Problem] = field(default_factory=list[Problem])
    whole: bool = True

    @property
    def is_right(self) -> bool:
        return self.whole and not self.faults and not self.problems


@dataclass(frozen=True, slots=True)
class _Work:
    """Render, encode, label, and hold against the truth."""

    renderer: Renderer
    rules: Rules
    prover: Prover
    truths: Truths

    def done(self, conversations: Sequence[Conversation], *, quick: bool) -> list[_Outcome]:
        """One for each. ``quick``: by guesses if these can be made; faults then mean little."""
        outcomes = [_Outcome() for _ in conversations]
        rendered: list[tuple[int, Rendering]] = []
        for i, conversation in enumerate(conversations):
            try:
                found = self.renderer.renderings(conversation, self.rules.template.train_on, quick=quick)
                rendered += [(i, one) for one in found]
            except DataError as error:
                outcomes[i].problems += error.problems
        for (i, one), ids in zip(rendered, self._encoded(rendered, outcomes, quick=quick), strict=True):
            if ids is not None:
                self._label(outcomes[i], conversations[i], one, ids)
        self._compare(outcomes)
        return outcomes

    def _encoded(
        self, rendered: Sequence[tuple[int, Rendering]], outcomes: Sequence[_Outcome], *, quick: bool
    ) -> list[Encoded | None]:
        """None for a text that can't be encoded."""
        try:
            return [*self.renderer.encode_many([one.rendered for _, one in rendered], quick=quick)]
        except DataError:  # find each of them
            found: list[Encoded | None] = []
            for i, one in rendered:
                try:
                    found.append(self.renderer.encode(one.rendered))
                except DataError as error:
                    outcomes[i].problems += error.problems
                    found.append(None)
            return found

    def _label(self, outcome: _Outcome, conversation: Conversation, one: Rendering, ids: Encoded) -> None:
        try:
            weights = span_weights(conversation, one.turns, whole=one.whole)
            example = label_encoded(one.rendered, ids, weights)
        except DataError as error:
            outcome.problems += error.problems
            return
        outcome.items.append(Labelled(conversation, one, example, ids.held_control))
        outcome.whole &= self.rules.fits(example)

    def _compare(self, outcomes: Sequence[_Outcome]) -> None:
        """Hold each example that fits against what the tokenizer itself gives for its conversation."""
        pairs = [
            (outcome, item) for outcome in outcomes for item in outcome.items if self.rules.fits(item.example)
        ]
        truths = self.truths.about([(item.conversation, item.rendering) for _, item in pairs])
        for (outcome, item), truth in zip(pairs, truths, strict=True):
            outcome.faults += self.prover.check(item, truth)


def _measured(rows: int, proven: Sequence[Labelled], renderer: Renderer, rules: Rules) -> ProvenBatch:
    found = ProvenBatch(rows)
    measured = [(item.example.row, len(item.example)) for item in proven]
    found.lengths = np.array([length for _, length in measured], np.int64)
    found.longest = longest_of(measured)
    found.dropped = [item.example.row for item in proven if not rules.fits(item.example)]
    unknown = renderer.tokenizer.unk_token_id
    if unknown is not None:
        found.unknown = sum(int(np.count_nonzero(item.example.ids == unknown)) for item in proven)
    return found


def _keep(
    proven: Sequence[Labelled], found: ProvenBatch, prover: Prover, renderer: Renderer, rules: Rules
) -> None:
    """Take proven examples, each cut to the length if it must be."""
    kept: list[Example] = []
    for item in proven:
        example, characters = item.example, len(item.rendering.rendered.text)
        whole = len(example)
        if not rules.fits(example):
            continue
        if whole > rules.max_length:
            example = cut_to(example, rules.max_length)
            if not example.num_targets:
                found.dropped.append(example.row)
                continue
            inside = int(example.ids[-1]) not in renderer.stop_ids
            found.cut.append(example.row)
            found.cut_answers += inside
            prover.note_cut(example.row, inside_answer=inside)
        kept.append(example)
        found.characters += characters * len(example) // whole
    found.examples = Examples.of(kept)


def cut_to(example: Example, length: int) -> Example:
    """The beginning of an example: ``length`` tokens at most, the last of them one that is learnt.

    Nothing is put at its end. A stop token stands there only if a whole answer fits, so that the model
    never learns to stop where the text was cut. If there is no token to learn, no answer fitted.
    """
    learnt = np.flatnonzero(example.trained[:length])
    stop = int(learnt[-1]) + 1 if len(learnt) else length
    weights = None if example.weights is None else example.weights[:stop]
    return Example(example.row, example.ids[:stop], example.trained[:stop], weights)


def longest_of(measured: Sequence[tuple[RowId, int]]) -> list[tuple[RowId, int]]:
    """The longest examples, the first of equals first."""
    return sorted(measured, key=lambda one: -one[1])[:LONGEST]
