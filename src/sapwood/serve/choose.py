"""From logits to tokens: the likeliest, or one that is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from sapwood.errors import NumericsError
from sapwood.serve.settings import Settings


class Chooser:
    """From logits to tokens. Each prompt has a number, and draws and memory of its own."""

    def __init__(self, settings: Settings, prompts: Mapping[int, Sequence[int]]) -> None:
        self._settings = settings
        self._generators = {row: _generator(settings.seed, row) for row in prompts}
        # what occurred in each row, kept only if that matters
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
    """The generator of one prompt, from (seed, its number): no prompt's draws depend on another's."""
    mixed = np.random.SeedSequence([seed, row]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]))
