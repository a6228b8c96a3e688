"""The tutorials' silent faults that concern templates and labels, each shown to be impossible here."""

from __future__ import annotations

import numpy as np
import pytest

from sapwood.config import TemplateConfig
from sapwood.errors import DataError
from sapwood.template.label import label
from sapwood.template.prepare import prepare
from sapwood.template.render import Renderer
from sapwood.template.view import as_dicts
from tests.template.cases import FAMILY, chat, real
from tests.template.real_tokenizers import real_tokenizer

QUESTION, ANSWER = "小姐，别的秀女都在求中选。", "嘘——都说许愿说破是不灵的。"


def learnt_ids(renderer, conversation):
    (rendered,) = renderer.render(conversation)
    example = label(rendered, renderer)
    return example, example.ids[example.trained].tolist()


@pytest.mark.parametrize("name", FAMILY)
def test_the_stop_token_of_the_template_is_always_a_target(name):
    """Gemma's <end_of_turn>, Qwen's <|im_end|> (not its padding), Llama's and ChatGLM3's </s>."""
    _, targets = learnt_ids(real(name), chat(QUESTION, ANSWER))
    expected = {"gemma2": 107, "qwen1_5": 151645, "chatglm3": 2, "llama2": 2}
    assert targets[-1] == expected[name]
    assert targets[-1] in real(name).stop_ids


def test_an_answer_that_holds_the_word_model_is_whole():
    """000-1: cutting generated text at its last "model" loses the answer; spans need no such surgery."""
    renderer = real("gemma2")
    answer = "I am a model <end_of_turn>\n<eos> of model\nbehaviour."
    _, targets = learnt_ids(renderer, chat("Who?", answer))
    assert renderer.tokenizer.decode(targets[:-1]) == answer


@pytest.mark.parametrize("name", FAMILY)
def test_training_and_inference_share_one_template(name):
    """000-2, 001-7, 002-6: a hand-written prompt drifts from the template's whitespace and end."""
    renderer, conversation = real(name), chat(f" {QUESTION}\n", ANSWER)
    example, _ = learnt_ids(renderer, conversation)
    prompt = renderer.tokenizer.apply_chat_template(
        as_dicts(conversation.messages[:1]),
        chat_template=renderer.template,
        add_generation_prompt=True,
        return_dict=False,
    )
    assert example.ids[: len(prompt)].tolist() == prompt
    assert not example.trained[: len(prompt)].any()
    assert example.trained[len(prompt)]


def test_a_system_prompt_for_gemma_2_is_refused_by_row_and_not_lost():
    """000-3."""
    with pytest.raises(DataError, match=r"data\.json:1.*no system role"):
        real("gemma2").render(chat("q", "a", system="You are Zhen Huan."))


def test_padding_that_is_the_stop_token_takes_no_label_away():
    """000-5, 002-1, 003-1: with pad = eos, labels masked by id lose every stop token."""
    tokenizer = real_tokenizer("llama2")
    tokenizer.pad_token = tokenizer.eos_token
    try:
        renderer = Renderer(tokenizer, real("llama2").template)
        prepared = prepare([chat("q", "a")], renderer, TemplateConfig(), max_length=64, vocab_rows=32000)
    finally:
        tokenizer.pad_token = None
    (example,) = prepared.examples
    assert example.ids[example.trained][-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("name", FAMILY)
def test_nothing_is_cut_to_fit(name):
    """000-6, 002-2, 002-3, 003-4, 004-4: a row that is too long stops the run, and says what it needs."""
    with pytest.raises(DataError, match=r"\[overlong\] 1 of 1 examples have more than 64 tokens"):
        prepare([chat("q", ANSWER * 20)], real(name), TemplateConfig(), max_length=64, vocab_rows=300_000)


@pytest.mark.parametrize("name", ["gemma2", "llama2"])
def test_one_begin_of_text(name):
    """001-5, 003-2: the template writes it, and the tokenizer adds no second one."""
    renderer = real(name)
    (rendered,) = renderer.render(chat("q", "a"))
    assert renderer.tokenizer(rendered.text)["input_ids"][:2] == [renderer.tokenizer.bos_token_id] * 2
    example, _ = learnt_ids(renderer, chat("q", "a"))
    assert example.ids.tolist().count(renderer.tokenizer.bos_token_id) == 1


def test_the_user_and_the_system_are_not_learnt():
    """003-3, 004-1: loss on everything trains the model to write its user."""
    renderer = real("llama2")
    (rendered,) = renderer.render(chat("q1 user", "a1", "q2 user", "a2", system="persona"))
    example = label(rendered, renderer)
    text = renderer.tokenizer.decode(example.ids[example.trained].tolist())
    assert "user" not in text
    assert "persona" not in text
    assert text.split() == ["a1", "</s>", "a2", "</s>"]


def test_chatglm3_begins_with_its_own_tokens_as_ids():
    """002-7: [gMASK] and sop are tokens of the template, in text and in ids."""
    example, _ = learnt_ids(real("chatglm3"), chat(QUESTION, ANSWER))
    assert example.ids[:3].tolist() == [64790, 64792, 64795]


def test_masks_go_by_place_and_not_by_id():
    """The answer's tokens are learnt even where the prompt has the same ones."""
    renderer = real("qwen1_5")
    example, targets = learnt_ids(renderer, chat("same words", "same words"))
    where = np.flatnonzero(example.ids == targets[-2])
    assert example.trained[where].tolist() == [False, True]
