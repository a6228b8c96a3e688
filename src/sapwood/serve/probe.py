"""The model's answers to probes, at any moment of its training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sapwood.serve.generate import Settings, answer_batch
from sapwood.types import Probe, Sample


def answer_probes(
    network: Any, tokenizer: Any, probes: Sequence[Probe], stop_ids: Sequence[int], max_new_tokens: int
) -> tuple[Sample, ...]:
    """Greedy answers, in batches. Draws no random numbers, so training is the same with and without it."""
    settings = Settings(max_new_tokens=max_new_tokens)
    answers = answer_batch(network, tokenizer, [list(p.ids) for p in probes], stop_ids, settings)
    return tuple(
        Sample(probe.row, probe.prompt, answer.text, probe.reference, len(answer.ids), answer.stopped)
        for probe, answer in zip(probes, answers, strict=True)
    )
