"""The ids of a prompt, taken from those of the text that it begins: always the tokenizer's own."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sapwood.template.beginnings import Beginnings
from sapwood.template.encode import Encoder
from tests.template.real_tokenizers import gguf_tokenizer, real_tokenizer

TEXTS = 3000
PLAIN = (
    "<|im_",
    "start|>",
    "<",
    "|>",
    "assistant\n",
    " ",
    "  ",
    "\n",
    "你好",
    "Ab",
    "[INST]",
    "é",
    "▁",
    "s>",
)
BEHIND = ("", "assistant\n", "model\n", " ", "<", "\n\n")


def tokenizer_of(name: str) -> Any:
    return gguf_tokenizer(name) if name in ("smollm2", "gemma3-270m") else real_tokenizer(name)


@pytest.mark.parametrize("name", ["qwen1_5", "gemma2", "llama2", "chatglm3", "smollm2", "gemma3-270m"])
def test_they_are_the_tokenizers_own(name: str) -> None:
    """Whatever stands beside the control tokens: parts of their spelling, blanks, others of their kind."""
    tokenizer = tokenizer_of(name)
    encoder, asked = Encoder(tokenizer), list[str]()

    def own(texts: list[str]) -> list[list[int]]:
        return tokenizer(texts, add_special_tokens=False)["input_ids"]

    def counted(texts: list[str]) -> list[list[int]]:
        asked.extend(texts)
        return own(texts)

    rng = random.Random(0)
    control = rng.sample(sorted(encoder.control), min(6, len(encoder.control)))
    pieces = [*PLAIN, *control * 2]
    prompts, texts = list[str](), list[str]()
    for _ in range(TEXTS):
        head = "".join(rng.choices(pieces, k=rng.randint(0, 9)))
        prompts.append(head + rng.choice(control) + rng.choice(BEHIND))
        texts.append(prompts[-1] + "".join(rng.choices(pieces, k=rng.randint(0, 5))))
    found = Beginnings(tokenizer, encoder, counted).ids(prompts, texts, own(texts))
    assert found == own(prompts)
    whole = len(set(asked) & set(prompts))
    assert whole < TEXTS / 2, "most are found without encoding them"


def test_a_text_that_goes_another_way_is_encoded() -> None:
    tokenizer = real_tokenizer("qwen1_5")

    def own(texts: list[str]) -> list[list[int]]:
        return tokenizer(texts, add_special_tokens=False)["input_ids"]

    prompt, other = (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\nNo<|im_end|>",
    )
    (found,) = Beginnings(tokenizer, Encoder(tokenizer), own).ids([prompt], [other], own([other]))
    assert [found] == own([prompt])
