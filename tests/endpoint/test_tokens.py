"""A tokenizer that a later start reads, beside the one that it was made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from sapwood.endpoint.tokens import Tokens
from sapwood.template.families import choose_template
from sapwood.template.render import Renderer
from sapwood.types import Message
from tests.template.real_tokenizers import gguf_tokenizer, real_tokenizer


@pytest.mark.parametrize("name", ["gemma2", "qwen1_5", "llama2", "smollm2"])
def test_a_kept_tokenizer_is_the_one_that_it_was_made_of(name: str, tmp_path: Path) -> None:
    whole = gguf_tokenizer(name) if name == "smollm2" else real_tokenizer(name)
    Tokens.write(whole, tmp_path)
    again = Tokens.read(tmp_path)
    template = choose_template(whole, "llama-2-chat" if name == "llama2" else "auto")
    both = [Renderer(one, template) for one in (whole, again)]
    assert both[0].fingerprint == both[1].fingerprint and both[0].stop_ids == both[1].stop_ids
    turns = [Message("user", "Héllo  <|im_end|> 你好 👩‍🌾\n\n  def f(x):\treturn x")]
    ids = both[0].prompt_ids(turns)
    assert both[1].prompt_ids(turns) == ids
    for skip in (False, True):
        told = [
            one.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            for one in (whole, again)
        ]
        assert told[0] == told[1]
    assert whole.convert_ids_to_tokens(ids) == again.convert_ids_to_tokens(ids)
    assert whole.encode("a b", add_special_tokens=True) == again.encode("a b", add_special_tokens=True)
    assert whole.get_vocab() == again.get_vocab() and whole.get_added_vocab() == again.get_added_vocab()
