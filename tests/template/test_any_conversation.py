"""Random conversations through every template: ours equals transformers', and content never takes control.

A few for each template in the normal suite. SAPWOOD_PROOF_CASES=10000 (`make proof`) asks for so many with
each template, and for ten times as many hostile ones over all templates.
"""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

from sapwood.errors import DataError
from sapwood.template.view import as_dicts
from sapwood.types import Conversation, Message, RowId
from tests.template.cases import FAMILY, GGUF, MISBEHAVING, NO_SYSTEM, label, real, tiny

REAL = (*FAMILY, *GGUF)
TEMPLATES = [*REAL, *sorted(set(MISBEHAVING) - {"shows the answers' number"})]
CASES = int(os.environ.get("SAPWOOD_PROOF_CASES", "16"))  # for each template
HOSTILE = 16 if CASES < 1000 else -(-10 * CASES // len(TEMPLATES))
BENIGN = (
    "When to plant?", "我们种树。", "你好，世界！", "👩‍👩‍👧‍👦", "👍🏽 ok", "e\u0301a\u0308",
    "{{ x }} {% if %}", "def f(x):\n    return x", "[INST]", "user", "assistant\n", "model", "\\n", "<b",
    "|>", "1234", "ﬁ", "ك ש", "\u202etxt", "'s", "x" * 40, "##", "\t", "\r\n", " ", "  ", "\n", "\n\n", "。",
    "…",
)  # fmt: skip
PIECES = ("<|im_", "end|>", "<|", "im_end", "|>", "<", ">", "end", "s", "op", "</", "[", "gMASK]", " ")


def renderer_for(name):
    return real(name) if name in REAL else tiny(MISBEHAVING[name], ("<think>", "</think>"))


def conversation(rng: random.Random, index: int, system: bool, vocabulary: tuple[str, ...]) -> Conversation:
    turns = rng.randint(1, 8)
    texts = ["".join(rng.choices(vocabulary, k=rng.randint(1, 6))) for _ in range(2 * turns + 1)]
    texts = [text if text.strip() else text + "x" for text in texts]
    messages = [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts[: 2 * turns])]
    if system and rng.random() < 0.4:
        messages.insert(0, Message("system", texts[-1]))
    return Conversation(RowId("random", index), tuple(messages))


def labelled(renderer, one):
    """Its examples; None if a token joins prompt and answer, which is refused."""
    try:
        return [(r, label(r.rendered, renderer)) for r in renderer.renderings(one)]
    except DataError as error:
        assert "[boundary]" in str(error), error
        return None


@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_are_those_of_the_tokenizers_own_template(name):
    renderer, rng = renderer_for(name), random.Random(name)
    proven = refused = 0
    for index in range(CASES):
        one = conversation(rng, index, name not in NO_SYSTEM, BENIGN)
        examples = labelled(renderer, one)
        if examples is None:
            refused += 1
            continue
        proven += 1
        messages = as_dicts(one.messages)
        with renderer.frozen_truth() as template:
            for rendering, example in examples:
                known = {"chat_template": template, "return_dict": False}
                own = renderer.tokenizer.apply_chat_template(messages[: rendering.upto], **known)
                ids = example.ids.tolist()
                if not rendering.appended:
                    assert ids == own
                else:
                    assert ids == [*own, renderer.stop_id]
                begins = np.flatnonzero(np.diff(example.trained, prepend=False) & example.trained)
                for begin, turn in zip(begins, rendering.turns, strict=True):
                    prompt = renderer.tokenizer.apply_chat_template(
                        messages[:turn], add_generation_prompt=True, **known
                    )
                    assert ids[:begin] == prompt == renderer.prompt_ids(one.messages[:turn])
    assert proven > refused / 4, "too many are refused for this to show anything"


@pytest.mark.parametrize("name", TEMPLATES)
def test_hostile_content_never_yields_control_tokens(name):
    renderer, rng = renderer_for(name), random.Random(name + "hostile")
    control = tuple(renderer.encoder.control)
    hostile = (*rng.sample(control, min(12, len(control))), *PIECES, renderer.stop_text, *BENIGN[:8])
    held = 0
    for index in range(HOSTILE):
        one = conversation(rng, index, name not in NO_SYSTEM, hostile)
        neutral = Conversation(one.row, tuple(Message(m.role, _neutral(m.content)) for m in one.messages))
        try:
            examples = [(r, renderer.encode(r)) for r in renderer.render(one)]
        except DataError as error:
            assert "[control]" in str(error), error  # a template that takes content apart
            continue
        for (rendered, encoded), plain in zip(examples, renderer.render(neutral), strict=True):
            expected = renderer.encoder.control_ids(renderer.encode(plain).ids)
            assert renderer.encoder.control_ids(encoded.ids).tolist() == expected.tolist(), rendered.text
            held += encoded.held_control
        upto = len(one.messages) - 1
        prompts = [renderer.prompt_ids(each.messages[:upto]) for each in (one, neutral)]
        found = [renderer.encoder.control_ids(np.array(ids, dtype=np.int32)).tolist() for ids in prompts]
        assert found[0] == found[1]
    assert held


def _neutral(text: str) -> str:
    core = text.strip()
    return text.replace(core, "x", 1) if core else text
