"""How many callers are answered at once, and how long a prompt and its answer may be: what memory holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sapwood.errors import ConfigError
from sapwood.machine.memory import available_memory

SLOTS, CONTEXT = 8, 4096  # where nobody asks for more
LEAST = 512  # tokens of context, below which fewer are answered at once
SHARE = 0.25  # of the memory that is free, for keys and values
HALF = 2  # bytes of a number in the cache


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a language model. vocabulary: rows of its embedding; longest: tokens that it holds; width: of a head
    of keys or values, of which each of its layers has ``heads``."""

    vocabulary: int
    longest: int
    layers: int
    heads: int
    width: int


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


def room_for(sizes: Sizes, context: int | None, slots: int | None) -> tuple[int, int]:
    """(tokens of one prompt and its answer, answers at once).

    Raises ConfigError for a context that the model hasn't.
    """
    longest = sizes.longest
    if context is not None and context > longest:
        raise ConfigError(f"the model holds {longest:,} tokens", "--context", f"asked for {context:,}")
    token = sizes.layers * sizes.heads * sizes.width * 2 * HALF
    fit = int(SHARE * available_memory() / token)
    wide = min(context or CONTEXT, longest)
    count = slots or SLOTS
    while slots is None and count > 1 and count * min(wide, LEAST if context is None else wide) > fit:
        count //= 2
    if context is None:
        wide = max(min(wide, fit // count), min(LEAST, longest))
    return wide, count
