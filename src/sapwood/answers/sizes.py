"""What a language model's answers take: its vocabulary, its longest text, its keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CONTEXT = 4096  # of a model that names no longest text
BYTES = 2  # of a number in llama.cpp's cache


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a language model. vocabulary: rows of its embedding; longest: tokens that it holds; width: of a head
    of keys or values, of which each of its layers has ``heads``."""

    vocabulary: int
    longest: int
    layers: int
    heads: int
    width: int

    @property
    def token_bytes(self) -> int:
        """Of the keys and values of one token."""
        return self.layers * self.heads * self.width * 2 * BYTES


def sizes_of(config: Any) -> Sizes:
    """config: as transformers has it."""
    text = config.get_text_config(decoder=True)

    def told(name: str) -> int:
        return int(getattr(text, name, None) or 0)

    heads = told("num_attention_heads") or 1
    return Sizes(
        vocabulary=told("vocab_size"),
        longest=told("max_position_embeddings") or CONTEXT,
        layers=told("num_hidden_layers") or 1,
        heads=told("num_key_value_heads") or heads,
        width=told("head_dim") or told("hidden_size") // heads or 1,
    )
