"""Ids by words are the tokenizer's own, for any text, or the text goes to the tokenizer as a whole."""

from __future__ import annotations

import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from sapwood.template import words as module
from sapwood.template.words import Words, encode_whole
from tests.template.cases import real
from tests.template.test_any_conversation import BENIGN

EDGES = (
    *BENIGN, "'S", "'ſ", "ll'll", "K", "２½", "\x1c", "\x85", "\u3000", "\u00a0", " \n x", "  \r\n\r\n", "é",
    "\u0301", "\u0558", "a b", "中文", "!!\n", "_",
)  # fmt: skip
TEXTS = st.lists(st.one_of(st.sampled_from(EDGES), st.characters(exclude_categories=["Cs"])), max_size=12)


def tokenizer(name: str) -> Tokenizer:
    return real(name).encoder._fast


@pytest.fixture(scope="module", params=["qwen1_5", "smollm2"])
def both(request: pytest.FixtureRequest) -> tuple[Words, Tokenizer]:
    whole = tokenizer(request.param)
    words = Words.of(whole)
    assert words is not None
    return words, whole


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(TEXTS, max_size=4))
def test_ids_are_the_tokenizers(both: tuple[Words, Tokenizer], parts: list[list[str]]) -> None:
    words, whole = both
    controls = [token.content for token in whole.get_added_tokens_decoder().values()]
    texts = [text for text in map("".join, parts) if not any(one in text for one in controls)]
    assert words.encode(texts) == encode_whole(whole, texts)


def test_words_that_were_met_before_cost_the_tokenizer_nothing(
    both: tuple[Words, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    words, whole = both
    texts = ["When do we plant the tree?", "我们种树，好吗？"]
    first = words.encode(texts)
    monkeypatch.setattr(module, "encode_whole", lambda _, asked: [pytest.fail("asked") for _ in asked])
    assert words.encode([texts[1], texts[0]]) == first[::-1]
    assert [np.frombuffer(ids, np.int32).tolist() for ids in first] == [
        encoding.ids for encoding in whole.encode_batch(texts, add_special_tokens=False)
    ]


def test_a_character_on_which_the_engines_differ_is_left_to_the_tokenizer(
    both: tuple[Words, Tokenizer],
) -> None:
    words, whole = both
    newer = [chr(code) for code in range(0x1000, 0x1F000) if unicodedata.category(chr(code)) != "Cs"]
    words.encode(["".join(newer)])
    doubtful = np.flatnonzero(words._met == 2)
    assert len(doubtful), "the two know the same Unicode: nothing was shown"
    texts = [f"a{chr(code)}b {chr(code)}" for code in doubtful[:200]]
    assert words.encode(texts) == encode_whole(whole, texts)


def test_words_are_forgotten_when_there_are_too_many(
    both: tuple[Words, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    words, whole = both
    monkeypatch.setattr(module, "MAX_KNOWN", 10)
    texts = [f"word{chr(97 + i)} {chr(97 + i)}x" for i in range(26)]
    for _ in range(3):
        assert words.encode(texts) == encode_whole(whole, texts)


@pytest.mark.parametrize(
    "pattern",
    [
        module.GPT2,
        r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ],
)
def test_the_expressions_of_known_models_are_understood(pattern: str) -> None:
    assert module._by_expression(pattern) is not None


@pytest.mark.parametrize("name", ["gemma2", "llama2", "chatglm3"])
def test_a_tokenizer_that_cuts_in_no_known_way_is_asked_itself(name: str) -> None:
    assert Words.of(tokenizer(name)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"(a)\1"}, "behavior": "Isolated"}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"\w+"}, "behavior": "Removed"}},
        {
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": r"\p{N}{1,3}+|\P{N}"},
                "behavior": "Isolated",
            }
        },
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"^\s+|\S+|\s"}, "behavior": "Isolated"}},
    ],
)
def test_what_would_need_a_guess_is_not_of_the_kind(change: dict[str, object]) -> None:
    parts = json.loads(tokenizer("smollm2").to_str())
    for step in change.values():
        if isinstance(step, dict) and step["type"] == "Split":
            step["invert"] = False
        if isinstance(step, dict) and step["type"] == "ByteLevel":
            step["trim_offsets"] = True
    assert Words.of(Tokenizer.from_str(json.dumps({**parts, **change}))) is None
