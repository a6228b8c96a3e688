from __future__ import annotations

import numpy as np
import pytest

from sapwood.errors import DataError
from tests.template.cases import FAMILY, chat, label, real, tiny


@pytest.mark.parametrize("name", FAMILY)
def test_exactly_the_answer_and_its_stop_token_are_learnt(name):
    renderer = real(name)
    (rendered,) = renderer.render(chat("Wer bist du?", "Ich bin 园丁 👩‍🌾."))
    example = label(rendered, renderer)
    text = renderer.tokenizer.decode(example.ids[example.trained].tolist())
    assert text.strip().removesuffix(renderer.stop_text).strip() == "Ich bin 园丁 👩‍🌾."
    assert example.ids.dtype == np.int32
    assert example.trained.dtype == np.bool_
    assert example.ids[example.trained][-1] == renderer.stop_id
    assert not example.trained[: len(renderer.prompt_ids(chat("Wer bist du?").messages))].any()


def test_a_token_that_joins_prompt_and_answer_is_refused_by_row():
    renderer = real("qwen1_5")
    (rendered,) = renderer.render(chat("Why?", "\nBecause.", index=6))
    with pytest.raises(DataError, match=r"\[boundary\].*data\.json:7"):
        label(rendered, renderer)


def test_a_leading_space_is_no_such_case():
    renderer = tiny()
    (rendered,) = renderer.render(chat("Why?", " Because."))
    example = label(rendered, renderer)
    assert renderer.tokenizer.decode(example.ids[example.trained].tolist()) == " Because.<|im_end|>"
