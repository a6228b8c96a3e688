"""The short way gives what the long way gives, or gives nothing."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from sapwood.config.sections import TemplateConfig
from sapwood.errors import DataError
from sapwood.prepare import rows as module
from sapwood.prepare.alike import Alike, Made
from sapwood.prepare.rows import prepare
from sapwood.template.label import label
from sapwood.template.render import TrainOn
from sapwood.types import Conversation, Example
from tests.template.cases import GGUF, chat, real
from tests.template.test_any_conversation import (
    BENIGN,
    CASES,
    NO_SYSTEM,
    PIECES,
    TEMPLATES,
    conversation,
    renderer_for,
)

SHORT = (
    "qwen1_5",
    "gemma2",
    *GGUF,
)  # real templates that only copy, of which each answer is a part of its own


def long_way(renderer, one: Conversation, train_on: TrainOn) -> list[Example]:
    return [label(rendered, renderer) for rendered in renderer.render(one, train_on)]


@pytest.mark.parametrize("train_on", ["assistant", "last"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_both_ways_give_the_same(name: str, train_on: TrainOn) -> None:
    renderer, rng = renderer_for(name), random.Random(name + train_on)
    anything = (*BENIGN, *PIECES, *rng.sample(tuple(renderer.encoder.control), 2))
    plain = tuple(word for word in BENIGN if word.strip() == word and not renderer.encoder.may_touch(word))
    words = [anything if i % 4 == 0 else plain for i in range(2 * CASES)]
    rows = [conversation(rng, i, name not in NO_SYSTEM, of) for i, of in enumerate(words)]
    found = Alike(renderer, train_on, 10**6).examples(rows)
    for at, i in enumerate(found.places):
        (alone,) = long_way(renderer, rows[i], train_on)
        assert found.equals(at, alone)
        assert found.characters[at] == len(renderer.render(rows[i], train_on)[0].text)
    if name in SHORT:
        assert len(found.places) > CASES / 8, "nothing was shown"


def test_what_a_template_looks_at_goes_the_long_way() -> None:
    renderer = renderer_for("rewrites history")
    assert not Alike(renderer, "assistant", 10**6).examples([chat("question", "answer")]).places


def test_ids_beyond_the_embedding_and_padding_go_the_long_way() -> None:
    renderer = real("qwen1_5")
    assert not Alike(renderer, "assistant", 1000).examples([chat("question", "answer")]).places
    assert Alike(renderer, "assistant", 151_936).examples([chat("question", "answer")]).places


def test_a_difference_stops_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(self: Alike, rows: list[Conversation]) -> Made:
        made = right(self, rows)
        return replace(made, ids=made.ids + np.int32(1))

    right = Alike.examples
    monkeypatch.setattr(Alike, "examples", spoilt)
    with pytest.raises(DataError, match=r"\[template-ids\].*rows like it get other ids than it alone"):
        prepare(
            [chat("question", "answer")], real("qwen1_5"), TemplateConfig(), max_length=64, vocab_rows=151_936
        )


def test_the_proof_says_how_many_were_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE", 10)
    rows = [chat(f"question {i}", "answer", index=i) for i in range(25)]
    found = prepare(rows, real("qwen1_5"), TemplateConfig(), max_length=64, vocab_rows=151_936)
    assert (found.proof.examples, found.proof.turns, found.proof.alike) == (25, 25, 22)
    assert [example.row.index for example in found.examples] == list(range(25))
    assert found.proof.tokens == found.report.tokens == sum(map(len, found.examples))
