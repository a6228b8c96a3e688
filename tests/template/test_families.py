"""Built-in templates, and the choice of one."""

from __future__ import annotations

import pytest

from sapwood.errors import DataError
from sapwood.template.families import FAMILIES, choose_template
from sapwood.template.render import Renderer
from tests.base.tiny import CHATML, tiny_tokenizer
from tests.template.cases import chat, real
from tests.template.real_tokenizers import real_tokenizer

TWO = chat("q1", "a1", " q2 ", " a2 ")
WITH_SYSTEM = chat("q", "a", system="s")


def test_gemma_2():
    (rendered,) = real("gemma2").render(TWO)
    assert rendered.text == (
        "<bos><start_of_turn>user\nq1<end_of_turn>\n<start_of_turn>model\na1<end_of_turn>\n"
        "<start_of_turn>user\nq2<end_of_turn>\n<start_of_turn>model\na2<end_of_turn>\n"
    )
    assert real("gemma2").stop_text == "<end_of_turn>"
    with pytest.raises(DataError, match="no system role"):
        real("gemma2").render(WITH_SYSTEM)


def test_llama_2_chat():
    text = "<s>[INST] q1 [/INST] a1 </s><s>[INST] q2 [/INST] a2 </s>"
    assert real("llama2").render(TWO)[0].text == text
    assert real("llama2").render(WITH_SYSTEM)[0].text == (
        "<s>[INST] <<SYS>>\ns\n<</SYS>>\n\nq [/INST] a </s>"
    )


def test_chatglm3_built_in_equals_the_one_that_it_ships():
    tokenizer = real_tokenizer("chatglm3")
    ours = Renderer(tokenizer, choose_template(tokenizer, "chatglm3"))
    for conversation in (TWO, WITH_SYSTEM):
        texts = [[one.text for one in renderer.render(conversation)] for renderer in (ours, real("chatglm3"))]
        assert texts[0] == texts[1]
    assert texts[0] == ["[gMASK]sop<|system|>\n s<|user|>\n q<|assistant|>\n a</s>"]


def test_chatml_is_the_usual_one():
    assert FAMILIES["chatml"].template != CHATML
    tokenizer = tiny_tokenizer()
    ours = Renderer(tokenizer, choose_template(tokenizer, "chatml"))
    assert ours.render(WITH_SYSTEM)[0].text == Renderer(tokenizer).render(WITH_SYSTEM)[0].text


@pytest.mark.parametrize("turns", [("user", "user"), ("user", "tool")])
def test_families_refuse_roles_that_they_do_not_know(turns):
    from dataclasses import replace

    messages = list(chat("q", "a", "r", "b").messages)
    messages[2] = replace(messages[2], role=turns[1])
    messages[1] = replace(messages[1], role=turns[0])
    broken = replace(TWO, messages=tuple(messages))
    for name in ("gemma2", "llama2"):
        with pytest.raises(DataError, match="takes turns"):
            real(name).render(broken)


def test_auto_takes_the_tokenizers_own():
    assert choose_template(tiny_tokenizer(), "auto") is None


def test_auto_detects_a_family_by_its_tokens():
    assert choose_template(real_tokenizer("gemma2"), "auto") == FAMILIES["gemma-2"].template
    assert choose_template(tiny_tokenizer(None), "auto") == FAMILIES["chatml"].template


def test_auto_never_guesses():
    with pytest.raises(DataError, match="gemma-2, llama-2-chat, chatglm3, chatml"):
        choose_template(real_tokenizer("llama2"), "auto")
    tokenizer = tiny_tokenizer(None)
    tokenizer.add_tokens(["<start_of_turn>", "<end_of_turn>"])
    with pytest.raises(DataError, match="gemma-2 and chatml"):
        choose_template(tokenizer, "auto")


def test_a_family_whose_tokens_are_missing_is_refused():
    with pytest.raises(DataError, match="doesn't have <start_of_turn>"):
        choose_template(tiny_tokenizer(), "gemma-2")


def test_a_file_and_its_faults(tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_text(CHATML, encoding="utf-8")
    assert choose_template(tiny_tokenizer(), str(file)) == CHATML
    with pytest.raises(DataError, match="not found"):
        choose_template(tiny_tokenizer(), str(tmp_path / "none.jinja"))
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match="can't be read"):
        choose_template(tiny_tokenizer(), str(file))
    file.write_bytes(b"x" * 1_000_001)
    with pytest.raises(DataError, match="too large"):
        choose_template(tiny_tokenizer(), str(file))


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(DataError, match="did you mean gemma-2"):
        choose_template(tiny_tokenizer(), "gemma2")
    with pytest.raises(DataError, match="choose auto, gemma-2"):
        choose_template(tiny_tokenizer(), "zzz")
