"""From logits to tokens: the likeliest, or one that is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapwood.errors import ConfigError, NumericsError, Problem


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


class Chooser:
    """From logits to tokens, for prompts that are known by number."""

    def __init__(self, settings: Settings, prompts: Mapping[int, Sequence[int]]) -> None:
        self._settings = settings
        self._generators = {row: _generator(settings.seed, row) for row in prompts}
        # what occurred in each row, kept only where that matters
        punished = settings.repetition_penalty != 1
        self._seen = {row: set(prompt) for row, prompt in prompts.items()} if punished else None

    @torch.no_grad()
    def choose(self, logits: Tensor, rows: Sequence[int]) -> list[int]:
        """logits: [B, vocabulary] of the rows with these numbers -> a token for each."""
        if self._seen is not None:
            logits = self._without_repetition(logits.float(), rows, self._seen)
        best, index = logits.max(-1)
        if not bool(torch.isfinite(best).all()):
            raise NumericsError(
                "the model's output is not a number",
                "generation",
                "its weights are damaged, or too large for this storage",
                "try base.storage=fp32",
            )
        chosen: list[int] = index.tolist() if self._settings.temperature == 0 else self._draw(logits, rows)
        if self._seen is not None:
            for row, token in zip(rows, chosen, strict=True):
                self._seen[row].add(token)
        return chosen

    def _draw(self, logits: Tensor, rows: Sequence[int]) -> list[int]:
        scores = logits.float() / self._settings.temperature
        if 0 < self._settings.top_k < scores.shape[1]:
            lowest = scores.topk(self._settings.top_k).values[:, -1:]
            scores = scores.masked_fill(scores < lowest, -math.inf)
        probabilities = scores.softmax(-1).cpu()  # the same draws on every device
        if self._settings.top_p < 1:
            ordered, order = probabilities.sort(dim=-1, descending=True)
            before = ordered.cumsum(-1) - ordered  # the likeliest token always stays
            ordered[before >= self._settings.top_p] = 0
            probabilities = torch.zeros_like(probabilities).scatter_(1, order, ordered)
        return [
            int(torch.multinomial(p, 1, generator=self._generators[row]))
            for row, p in zip(rows, probabilities, strict=True)
        ]

    def _without_repetition(
        self, logits: Tensor, rows: Sequence[int], seen: Mapping[int, set[int]]
    ) -> Tensor:
        penalty = self._settings.repetition_penalty
        logits = logits.clone()
        for i, row in enumerate(rows):
            index = torch.tensor(sorted(seen[row]), device=logits.device)
            score = logits[i, index]
            logits[i, index] = torch.where(score < 0, score * penalty, score / penalty)
        return logits


def _generator(seed: int, row: int) -> torch.Generator:
    """Of one prompt, from (seed, its number): no prompt's draws depend on another's."""
    mixed = np.random.SeedSequence([seed, row]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]))


def _is_number(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) if kind is int else isinstance(value, int | float) and math.isfinite(value)
