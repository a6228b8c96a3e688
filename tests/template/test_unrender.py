"""Rendered text is recognised, checked against the template, and trained like any conversation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.config.sections import TemplateConfig
from sapwood.errors import DataError
from sapwood.prepare.report import Preparation, prepare
from sapwood.template.unrender import unrender
from sapwood.types import Conversation, RowId
from tests.template.cases import FAMILY, MISBEHAVING, chat, real, tiny

WORDS = st.text(st.sampled_from("ab 问\n.🌳"), min_size=1).filter(str.strip)


def text_row(text: str, index: int = 0) -> Conversation:
    return Conversation(RowId("data.txt", index, index + 1), (), text=text)


def trained(renderer: Any, *texts: str, **template: Any) -> Preparation:
    config = TemplateConfig(**template)
    found = unrender([text_row(text, i) for i, text in enumerate(texts)], renderer, config.train_on)
    return prepare(found, renderer, config, max_length=4096, vocab_rows=300_000)


def learnt(prepared: Preparation, renderer: Any) -> list[str]:
    return [renderer.tokenizer.decode(e.ids[e.trained].tolist()) for e in prepared.examples]


def system_for(name: str, system: str | None) -> str | None:
    return None if name == "gemma2" else system


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("system", [None, "You are Zhen Huan."])
@pytest.mark.parametrize("turns", [("q", "a"), ("q1\nmore", "a1", "q2", "a2", "q3", "a3")])
def test_text_of_each_family_gives_the_example_of_its_messages(name, system, turns):
    renderer = real(name)
    whole = chat(*turns, system=system_for(name, system))
    text = renderer.text_of(whole.messages)
    expected = prepare([whole], renderer, TemplateConfig(), max_length=4096, vocab_rows=300_000)
    for given_text in (text, text.strip(), text.removeprefix(renderer.tokenizer.bos_token or "")):
        found = trained(renderer, given_text).examples
        assert [e.ids.tolist() for e in found] == [e.ids.tolist() for e in expected.examples]
        assert [e.trained.tolist() for e in found] == [e.trained.tolist() for e in expected.examples]


@given(turns=st.lists(WORDS, min_size=2, max_size=6).filter(lambda found: len(found) % 2 == 0))
@settings(max_examples=40, deadline=None)
def test_any_words_come_back(turns):
    for renderer in (tiny(), real("llama2")):
        text = renderer.text_of(chat(*turns).messages)
        (found,) = unrender([text_row(text)], renderer, "assistant")
        assert renderer.text_of(found.messages) == text


def test_a_guanaco_row_is_learnt_with_its_stop_token():
    renderer = real("llama2")
    row = "<s>[INST] Me gradué hace poco [/INST] Esto vale para todas las profesiones. </s>"
    assert learnt(trained(renderer, row), renderer) == ["Esto vale para todas las profesiones. </s>"]


def test_blanks_at_the_edges_of_messages_are_the_templates():
    renderer = real("llama2")
    odd = trained(renderer, "<s>[INST]q [/INST]a</s>")
    assert [e.ids.tolist() for e in odd.examples] == [
        e.ids.tolist() for e in trained(renderer, "<s>[INST] q [/INST] a </s>").examples
    ]


def test_a_second_begin_of_text_is_refused_or_recorded():
    renderer = real("llama2")
    text = "<s><s>[INST] q [/INST] a </s>"
    with pytest.raises(DataError, match=r"\[double-bos\].*data\.txt:1"):
        trained(renderer, text)
    prepared = trained(renderer, text, accept=["double-bos"])
    assert prepared.examples[0].ids.tolist().count(1) == 1, "one is trained all the same"
    assert prepared.proof.accepted == {"double-bos": {"rows": 1, "first": "data.txt:1"}}
    assert "double-bos" not in prepared.proof.codes


@pytest.mark.parametrize("name", ["gemma2", "qwen1_5", "llama2"])  # ChatGLM3's template writes no end
def test_a_missing_end_is_refused_or_recorded(name):
    renderer = real(name)
    text = renderer.text_of(chat("q", "a").messages).rstrip().removesuffix(renderer.stop_text)
    with pytest.raises(DataError, match=r"\[missing-end\].*data\.txt:2"):
        trained(renderer, renderer.render(chat("q", "a"))[0].text, text)
    prepared = trained(renderer, text, accept=["missing-end"])
    assert prepared.examples[0].ids[prepared.examples[0].trained][-1] in renderer.stop_ids
    assert prepared.proof.to_json()["accepted"]["missing-end"]["rows"] == 1


def test_an_accepted_code_that_nothing_fails_is_still_claimed():
    proof = trained(tiny(), tiny().text_of(chat("q", "a").messages), accept=["missing-end"]).proof
    assert "missing-end" in proof.codes
    assert proof.accepted == {"missing-end": {"rows": 0, "first": None}}


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("other", FAMILY)
@pytest.mark.parametrize("train_on", ["assistant", "all"])
def test_text_of_another_family_is_refused_by_name(name, other, train_on):
    if name == other:
        return
    text = real(other).text_of(chat("q", "a").messages)
    with pytest.raises(DataError, match=r"\[wrong-family\] the text is rendered for .*data\.txt:1"):
        trained(real(name), text, train_on=train_on)


@pytest.mark.parametrize(
    "text",
    [
        "<|im_start|>assistant\na<|im_end|>",
        "hello <|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>",
        "<|im_start|>user\nq<|im_end|>",
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n<|im_start|>user\nq2<|im_end|>",
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n<|im_start|>tool\nx<|im_end|>",
    ],
)
def test_text_that_the_template_would_not_write_is_refused(text):
    with pytest.raises(DataError, match=r"\[(template-text|early-stop|control|missing-end|no-target)\]"):
        trained(tiny(), text)


def test_turns_run_together_are_refused_and_not_learnt_as_one_answer():
    with pytest.raises(DataError, match=r"\[template-text\] \[INST\] stands inside .* the assistant's"):
        trained(real("llama2"), "<s>[INST] q [/INST] a [INST] q2 [/INST] a2 </s>")


def test_a_template_that_rewrites_or_drops_is_refused_for_text():
    renderer = tiny(MISBEHAVING["drops the system message"])
    with pytest.raises(DataError, match=r"template-text"):
        trained(renderer, tiny().text_of(chat("q", "a", system="persona").messages))


def test_a_document_is_learnt_only_where_all_is():
    renderer = real("llama2")
    with pytest.raises(DataError, match=r"\[document\].*data\.txt:1.*template\.train_on=all"):
        trained(renderer, "Once upon a time.")
    (example,) = trained(renderer, "Once </s> upon a time.", train_on="all").examples
    assert example.ids[0] == 1
    assert example.ids[-1] == 2
    assert example.ids.tolist().count(2) == 1, "the document's own </s> is plain text"
    assert example.trained.tolist() == [False] + [True] * (len(example) - 1)


def test_one_fault_of_many_texts_is_one_problem():
    documents = [text_row(f"Once upon a time {n}.", n) for n in range(30)]
    with pytest.raises(DataError) as caught:
        [*unrender(documents, tiny(), "assistant")]
    (problem,) = caught.value.problems
    assert problem.what == "[document] the text is no rendered conversation (30 times)"
    assert problem.where == "data.txt:1, data.txt:2, data.txt:3 and 27 more"


def test_all_of_a_conversation_is_learnt_up_to_its_last_stop_token():
    renderer = tiny()
    config = TemplateConfig(train_on="all")
    prepared = prepare([chat("q1", "a1", "q2", "a2")], renderer, config, max_length=99, vocab_rows=99_999)
    (example,) = prepared.examples
    stop = int(example.trained.nonzero()[0][-1])
    assert example.trained[1 : stop + 1].all() and not example.trained[0]
    assert example.ids[stop] == renderer.stop_id
    assert renderer.tokenizer.decode(example.ids[stop + 1 :].tolist()).strip() == ""
    assert prepared.proof.turns == 2


def test_a_turn_marked_as_untrained_contradicts_all():
    row = chat("q1", "a1", "q2", "a2", trained=False)
    with pytest.raises(DataError, match=r"message 4 is marked as not to be trained · data\.json:1"):
        prepare([row], tiny(), TemplateConfig(train_on="all"), max_length=99, vocab_rows=99_999)


def test_rows_of_messages_pass_unchanged():
    rows = [chat("q", "a"), replace(chat("q", "b"), tools=({"name": "f"},))]
    assert [*unrender(rows, tiny(), "assistant")] == rows
