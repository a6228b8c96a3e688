"""Content never becomes a control token, and benign text is encoded as the tokenizer does."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import AddedToken

from sapwood.errors import DataError
from sapwood.template.encode import Encoder
from sapwood.types import Rendered, RowId, Span
from tests.base.tiny import CHATML, tiny_tokenizer
from tests.template.cases import FAMILY, chat, real, tiny
from tests.template.real_tokenizers import real_tokenizer

BENIGN = (
    "Why?\n\n  Because. ",
    "你好，世界。 e\u0301 👩‍👩‍👧 \t x",
    "def f(x):\n    return x\n",
    "  \n",
    "ﬁn <b",
)


@pytest.mark.parametrize("name", FAMILY)
def test_the_slow_path_equals_one_call_on_benign_text(name):
    renderer = real(name)
    encoder = renderer.encoder
    for text in BENIGN:
        for rendered in renderer.render(chat(text, "Yes. " + text)):
            fast, slow = encoder.encode(rendered.text), encoder.encode_apart(rendered.text, rendered.content)
            assert slow.ids.tolist() == fast.ids.tolist()
            assert np.array_equal(slow.offsets, fast.offsets)
            own = renderer.tokenizer(rendered.text, add_special_tokens=False)["input_ids"]
            assert fast.ids.tolist() == own


@pytest.mark.parametrize("name", FAMILY)
def test_control_text_in_content_stays_text(name):
    renderer = real(name)
    stop = renderer.stop_text
    (rendered,) = renderer.render(chat(f"a{stop}b", f"c {stop}{stop} d"))
    (benign,) = renderer.render(chat("ab", "c d"))
    ours = renderer.encode(rendered)
    assert ours.held_control
    assert not renderer.encode(benign).held_control
    control = renderer.encoder.control_ids
    assert control(ours.ids).tolist() == control(renderer.encode(benign).ids).tolist()
    # the offsets still lead back to the text
    for (start, end), id in zip(ours.offsets, ours.ids, strict=True):
        if id == renderer.stop_id:
            assert rendered.text[start:end] == stop


def test_non_special_added_tokens_are_control_too():
    renderer = tiny(CHATML, ("<think>",))
    (rendered,) = renderer.render(chat("a <think> b", "c"))
    encoded = renderer.encode(rendered)
    assert encoded.held_control
    assert renderer.encoder.control["<think>"] not in encoded.ids


def test_a_control_token_joined_from_template_and_content_is_text():
    template = CHATML.replace("message['content']", "'<|im_' + message['content'] + '|>'")
    renderer = tiny(template)
    (rendered,) = renderer.render(chat("end", "x"))
    assert "<|im_end|><|im_end|>" in rendered.text
    assert renderer.encode(rendered).ids.tolist().count(2) == 2


def test_a_word_that_holds_a_control_token_is_a_word():
    renderer = real("chatglm3")  # sop is one of its tokens
    (rendered,) = renderer.render(chat("philosophy", "sop"))
    encoded = renderer.encode(rendered)
    assert encoded.ids.tolist().count(64792) == 1
    assert "philosophy" in renderer.tokenizer.decode(encoded.ids.tolist())


def test_blank_added_tokens_are_ordinary_text():
    renderer = real("gemma2")
    (rendered,) = renderer.render(chat("a\n\n\nb", "c   d"))
    encoded = renderer.encode(rendered)
    assert not encoded.held_control
    assert {"\n\n\n", "▁▁▁"} <= set(renderer.tokenizer.convert_ids_to_tokens(encoded.ids.tolist()))


def test_a_tokens_blank_appetite_is_kept_in_both_paths():
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("<|u|>", rstrip=True, special=True), AddedToken("<|v|>", lstrip=True)])
    encoder = Encoder(tokenizer)
    text = "<|u|>  hi  <|v|>"
    content = (Span(5, 11),)
    fast = encoder.encode(text, content)
    assert not fast.held_control, "blanks beside a control token aren't its spelling"
    assert encoder.encode_apart(text, content).ids.tolist() == fast.ids.tolist()
    assert len(fast.ids) == 2 + len(tokenizer("hi")["input_ids"])


def test_padding_and_truncation_set_on_the_tokenizer_change_nothing():
    tokenizer = tiny_tokenizer()
    before = Encoder(tokenizer).encode("<|im_start|>user")
    tokenizer(["a", "bb b b b"], padding=True, truncation=True, max_length=2)
    assert Encoder(tokenizer).encode("<|im_start|>user").ids.tolist() == before.ids.tolist()
    assert Encoder(tokenizer).digest == Encoder(tiny_tokenizer()).digest


def test_private_characters_beside_control_text_are_refused_by_row():
    rendered = Rendered(RowId("d.json", 3, 4), "a<|im_end|>\U00100001b", (Span(0, 1),), (Span(0, 13),))
    with pytest.raises(DataError, match=r"\[control\].*private-use.*d\.json:4"):
        tiny().encode(rendered)


def test_an_empty_text_has_no_ids():
    encoded = Encoder(tiny_tokenizer()).encode("")
    assert encoded.ids.shape == (0,)
    assert encoded.offsets.shape == (0, 2)


def test_the_real_tokenizers_have_the_families_tokens():
    assert real_tokenizer("gemma2").convert_tokens_to_ids(["<start_of_turn>", "<end_of_turn>"]) == [106, 107]
