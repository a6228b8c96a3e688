"""How an answer is chosen, and what it is. Nothing here imports torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sapwood.errors import ConfigError, Problem


@dataclass(frozen=True, slots=True)
class Settings:
    """How an answer is chosen.

    Attributes:
        max_new_tokens: where an answer is cut that doesn't stop by itself.
        temperature: 0 takes the likeliest token; above, tokens are drawn, and more evenly the higher it is.
        top_p: draw among the likeliest tokens that together have this probability.
        top_k: draw among this many likeliest tokens; 0 is all of them.
        repetition_penalty: above 1, tokens that occurred become less likely (CTRL, arXiv 1909.05858, 4.1).
        seed: of the draws. An answer depends on it and on the prompt's index, not on its neighbours.

    Raises ConfigError listing every value that is out of bounds.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        bounds: dict[str, tuple[type, Callable[[Any], bool], str]] = {
            "max_new_tokens": (int, lambda n: 1 <= n <= 1_048_576, "a whole number of 1 or more"),
            "temperature": (float, lambda t: 0 <= t <= 100, "a number from 0 to 100"),
            "top_p": (float, lambda p: 0 < p <= 1, "a number above 0, at most 1"),
            "top_k": (int, lambda k: k >= 0, "a whole number, 0 for all tokens"),
            "repetition_penalty": (float, lambda r: 0.1 <= r <= 10, "a number from 0.1 to 10"),
            "seed": (int, lambda s: 0 <= s < 2**64, "a whole number of 0 or more"),
        }
        problems = [
            Problem(f"{name} is not valid", name, f"found {value!r}", f"{name}: {meant}")
            for name, (kind, within, meant) in bounds.items()
            if not (_is_number(value := getattr(self, name), kind) and within(value))
        ]
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote.

    Attributes:
        text: without the stop token; num_tokens: how many tokens that is.
        stopped: True if the model ended by itself, False if it was cut.
        prompt_tokens: length of what it read.
        seconds: from the start (of its batch) to its last token.
        ids: the tokens of ``text``; a stream of llama.cpp leaves out those that ended no character.
    """

    text: str
    num_tokens: int
    stopped: bool
    prompt_tokens: int
    seconds: float
    ids: tuple[int, ...]


def room_of(prompt_tokens: int, context: int | None, settings: Settings) -> int:
    """How many tokens the answer may have. context: tokens that the model holds, if its config names a limit.
    Raises ConfigError if the prompt fills it."""
    if prompt_tokens == 0:
        raise ValueError("a prompt needs at least one token")
    if context is None:
        return settings.max_new_tokens
    if prompt_tokens >= context:
        raise ConfigError(
            f"the prompt has {prompt_tokens:,} tokens",
            "prompt",
            f"the model holds {context:,}, answer included",
            "shorten it",
        )
    return min(settings.max_new_tokens, context - prompt_tokens)


def _is_number(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) if kind is int else isinstance(value, int | float) and math.isfinite(value)
