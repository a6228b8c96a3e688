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
from sapwood.template.label import label_encoded, span_weights
from sapwood.template.proof import ProofTally
from sapwood.template.prove import Labelled, Prover
from sapwood.template.render import Renderer, Rendering
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
        """False where it is too long, and not to be cut."""
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
    """What these conversations become. A row that can't be trusted is a problem; the others go on."""
    faults = _Faults()
    rendered = _render(conversations, renderer, rules, faults)
    encoded = _encode(rendered, renderer, faults)
    labelled = _label(rendered, encoded, renderer, rules, faults)
    prover = Prover(renderer, rules.vocab_rows, rules.template.accept)
    proven = _prove(labelled, prover, renderer, rules, faults)
    found = _measured(len(conversations), proven, renderer, rules)
    _keep(proven, found, prover, renderer, rules)
    found.tally, found.problems = prover.tally, faults.in_order(conversations)
    return found


# --- the steps ----------------------------------------------------------------------------------------------

Rendered = list[tuple[Conversation, Rendering]]


class _Faults:
    """Problems of the rows of a batch, as the steps find them."""

    def __init__(self) -> None:
        self._found: dict[RowId, list[Problem]] = {}

    def add(self, row: RowId, problems: Sequence[Problem]) -> None:
        if problems:
            self._found.setdefault(row, []).extend(problems)

    def in_order(self, conversations: Sequence[Conversation]) -> list[Problem]:
        """In the order of the rows."""
        rows = dict.fromkeys(conversation.row for conversation in conversations) if self._found else ()
        return [problem for row in rows for problem in self._found.get(row, ())]


def _render(
    conversations: Sequence[Conversation], renderer: Renderer, rules: Rules, faults: _Faults
) -> Rendered:
    rendered: Rendered = []
    for conversation in conversations:
        try:
            found = renderer.renderings(conversation, rules.template.train_on)
            rendered += [(conversation, one) for one in found]
        except DataError as error:
            faults.add(conversation.row, error.problems)
    return rendered


def _encode(rendered: Rendered, renderer: Renderer, faults: _Faults) -> list[Encoded | None]:
    """By their words where that can be. None for a row that can't be encoded."""
    try:
        return list(renderer.encode_many([one.rendered for _, one in rendered], quick=True))
    except DataError:  # find each of them
        out: list[Encoded | None] = []
        for conversation, one in rendered:
            try:
                out.append(renderer.encode(one.rendered))
            except DataError as error:
                faults.add(conversation.row, error.problems)
                out.append(None)
        return out


def _label(
    rendered: Rendered, encoded: Sequence[Encoded | None], renderer: Renderer, rules: Rules, faults: _Faults
) -> list[Labelled]:
    labelled: list[Labelled] = []
    for (conversation, one), ids in zip(rendered, encoded, strict=True):
        if ids is None:
            continue
        try:
            example = _labelled(conversation, one, ids)
            item = Labelled(conversation, one, example, ids.held_control)
            # An example that is too long is not proven, so it is encoded by the tokenizer itself.
            labelled.append(item if rules.fits(example) else _exactly(item.conversation, one, renderer))
        except DataError:
            try:
                labelled.append(_exactly(conversation, one, renderer))
            except DataError as error:
                faults.add(conversation.row, error.problems)
    return labelled


def _exactly(conversation: Conversation, one: Rendering, renderer: Renderer) -> Labelled:
    """An example whose ids and offsets are the tokenizer's own. Raises DataError."""
    encoded = renderer.encode(one.rendered)
    return Labelled(conversation, one, _labelled(conversation, one, encoded), encoded.held_control)


def _labelled(conversation: Conversation, one: Rendering, encoded: Encoded) -> Example:
    """Raises DataError."""
    return label_encoded(one.rendered, encoded, span_weights(conversation, one.turns, whole=one.whole))


def _prove(
    labelled: Sequence[Labelled], prover: Prover, renderer: Renderer, rules: Rules, faults: _Faults
) -> list[Labelled]:
    """Hold each example that fits against what the tokenizer itself gives for its conversation. One that was
    encoded by its words, and fails, is encoded exactly and held against it again."""
    checked = [item for item in labelled if rules.fits(item.example)]
    truths = iter(prover.truths([(item.conversation, item.rendering) for item in checked]))
    proven: list[Labelled] = []
    for item in labelled:
        row = item.conversation.row
        if rules.fits(item.example):
            truth = next(truths)
            prover.check_said(item)
            if wrong := prover.check(item, truth):
                try:
                    item = _exactly(item.conversation, item.rendering, renderer)
                except DataError as error:
                    faults.add(row, error.problems)
                    continue
                wrong = prover.check(item, truth)
            for fault in wrong:
                faults.add(row, prover.fault(row, fault))
        proven.append(item)
    prover.count([item for item in proven if rules.fits(item.example)])
    return proven


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

    Nothing is put at its end. A stop token stands there only where a whole answer fits, so that the model
    never learns to stop where the text was cut. Without any token to learn it means that none fitted.
    """
    learnt = np.flatnonzero(example.trained[:length])
    stop = int(learnt[-1]) + 1 if len(learnt) else length
    weights = None if example.weights is None else example.weights[:stop]
    return Example(example.row, example.ids[:stop], example.trained[:stop], weights)


def longest_of(measured: Sequence[tuple[RowId, int]]) -> list[tuple[RowId, int]]:
    """The longest examples, the first of equals first."""
    return sorted(measured, key=lambda one: -one[1])[:LONGEST]
