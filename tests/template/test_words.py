"""Ids by words are the tokenizer's own; where they aren't, the proof sees it and the tokenizer is asked."""

from __future__ import annotations

import itertools
import json
import unicodedata
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from sapwood.config.sections import TemplateConfig
from sapwood.prepare.rows import Rules, prove_batch
from sapwood.template import words as module
from sapwood.template.render import Renderer
from sapwood.template.words import Words
from sapwood.types import Conversation, Message, RowId
from tests.base.tiny import CHATML
from tests.template.cases import CLOCK, real
from tests.template.real_tokenizers import real_tokenizer
from tests.template.test_any_conversation import BENIGN

PATTERN = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEXTS = st.lists(
    st.one_of(st.sampled_from(BENIGN), st.characters(exclude_categories=["Cs"])), min_size=1, max_size=12
)
RULES = Rules(TemplateConfig(), 4096, 1 << 20)


def fresh(name: str) -> Renderer:
    """A renderer whose words nobody else knows."""
    known = real(name)
    return Renderer(known.tokenizer, known._given, clock=CLOCK)


@pytest.fixture(scope="module", params=["qwen1_5", "smollm2"])
def renderer(request: pytest.FixtureRequest) -> Renderer:
    found = fresh(request.param)
    assert found.encoder._words is not None
    return found


def rows(texts: list[str]) -> list[Conversation]:
    answered = [(Message("user", text), Message("assistant", f"a {text} b")) for text in texts]
    return [Conversation(RowId("rows", i), turns) for i, turns in enumerate(answered)]


def differences(renderer: Renderer, texts: list[str]) -> list[int]:
    items = [(text, ()) for text in texts]
    encoder = renderer.encoder
    pairs = zip(encoder.encode_batch(items, quick=True), encoder.encode_batch(items), strict=True)
    return [i for i, (a, b) in enumerate(pairs) if a.ids.tolist() != b.ids.tolist()]


def test_ids_and_offsets_are_the_tokenizers(renderer: Renderer) -> None:
    texts = ["".join(parts) for parts in itertools.permutations(BENIGN[:24], 2)]
    texts = [text for text in texts if unicodedata.is_normalized("NFC", text)]
    texts = [f"<|im_start|>user\n{text}<|im_end|>\n" for text in texts]
    items = [(text, ()) for text in ["", *texts, "<|im_end|>"]]
    encoder = renderer.encoder
    for a, b in zip(encoder.encode_batch(items, quick=True), encoder.encode_batch(items), strict=True):
        assert a.ids.tolist() == b.ids.tolist()
        assert a.offsets.tolist() == b.offsets.tolist()


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(TEXTS, min_size=1, max_size=4))
def test_any_row_is_proven_with_the_tokenizers_ids(renderer: Renderer, parts: list[list[str]]) -> None:
    given = rows([text for text in map("".join, parts) if text.strip()])
    batch = prove_batch(given, renderer, RULES)
    assert not [problem for problem in batch.problems if "[boundary]" not in problem.what]
    for example in batch.examples:
        messages = [{"role": m.role, "content": m.content} for m in given[example.row.index].messages]
        control = any(one in m["content"] for m in messages for one in renderer.encoder.control)
        own = renderer.tokenizer.apply_chat_template(messages, return_dict=False)
        assert control or example.ids.tolist() == own


def test_rows_whose_words_are_not_the_tokenizers_get_the_tokenizers_ids() -> None:
    """Qwen's tokenizer composes accents before it cuts, the words here are cut before."""
    renderer = fresh("qwen1_5")
    texts = ["Cafe\u0301 de la Paix", "plain", "a\u0308 e\u0301 o\u0302"]
    assert differences(renderer, texts) == [0, 2]
    given = rows(texts)
    batch = prove_batch(given, renderer, RULES)
    assert not batch.problems
    exact = [renderer.encode(renderer.render(one)[0]).ids.tolist() for one in given]
    assert [example.ids.tolist() for example in batch.examples] == exact


def test_a_text_that_is_guessed_wrong_is_rendered_by_the_template() -> None:
    """The template looks at a content: a row of the same roles as one before gets another text around it."""
    leaves = "{{ '<|im_start|>tool\\nleaves<|im_end|>\\n' }}"
    template = "{% if 'tree' in messages[0].content %}" + leaves + "{% endif %}" + CHATML
    given = rows(["a shrub", "a tree", "a fern", "another tree"])
    batch = prove_batch(given, Renderer(real_tokenizer("qwen1_5"), template), RULES)
    assert not batch.problems
    exact = Renderer(real_tokenizer("qwen1_5"), template)
    expected = [exact.encode(exact.render(one)[0]).ids.tolist() for one in given]
    assert [example.ids.tolist() for example in batch.examples] == expected
    assert len({len(ids) for ids in expected[:2]}) == 2


def test_words_that_lie_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    honest, liar = fresh("qwen1_5"), fresh("qwen1_5")
    given = rows(["When do we plant?", "我们种树。", "a <|im_end|> b"])
    encode = Words.encode

    def lies(self: Words, texts: Any) -> Any:
        return [(ids[::-1], offsets) for ids, offsets in encode(self, texts)]

    expected = prove_batch(given, honest, RULES)
    monkeypatch.setattr(Words, "encode", lies)
    found = prove_batch(given, liar, RULES)
    assert not found.problems
    assert found.examples.digest() == expected.examples.digest()
    assert found.tally == expected.tally


def test_words_that_were_met_before_cost_the_tokenizer_nothing(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = renderer.encoder._words
    assert words is not None
    texts = ["When do we plant the tree?", "我们种树，好吗？"]
    first = words.encode(texts)
    monkeypatch.setattr(Words, "_learn", lambda self, fresh: [pytest.fail("asked") for _ in fresh])
    again = words.encode([texts[1], texts[0]])
    assert [ids.tolist() for ids, _ in again] == [ids.tolist() for ids, _ in first[::-1]]


def test_words_are_forgotten_when_there_are_too_many(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_KNOWN", 10)
    texts = [f"word{chr(97 + i)} {chr(97 + i)}x" for i in range(26)]
    for _ in range(3):
        assert not differences(renderer, texts)


@pytest.mark.parametrize("name", ["gemma2", "llama2", "chatglm3"])
def test_a_tokenizer_that_cuts_by_no_expression_is_asked_itself(name: str) -> None:
    assert real(name).encoder._words is None


def split(expression: str, behavior: str = "Isolated") -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": behavior, "invert": False}


@pytest.mark.parametrize(
    ("step", "known"),
    [(split(PATTERN), True), (split(PATTERN, "Removed"), False), (split(r"(?<x>a)(?P<x>"), False)],
)
def test_an_expression_that_can_not_be_read_is_no_reason_to_fail(step: Any, known: bool) -> None:
    parts = json.loads(real("smollm2").encoder._fast.to_str())
    tokenizer = Tokenizer.from_str(json.dumps({**parts, "pre_tokenizer": split(PATTERN)}))

    class Pretender:
        pre_tokenizer = type("Step", (), {"__getstate__": lambda self: json.dumps(step).encode()})()

        def encode_batch(self, texts: list[str], **options: Any) -> Any:
            return tokenizer.encode_batch(texts, **options)

    words = Words.of(Pretender(), [])  # type: ignore[arg-type]
    assert (words is not None) == known
    if words is not None:
        ((ids, _),) = words.encode(["12345 trees"])
        assert np.array_equal(ids, tokenizer.encode("12345 trees", add_special_tokens=False).ids)
