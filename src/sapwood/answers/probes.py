"""The model's answers to probes, at any moment of its training."""

from __future__ import annotations

from collections.abc import Sequence

from sapwood.answers.speaker import Speaker
from sapwood.types import Probe, Sample


def ids_of(probes: Sequence[Probe]) -> list[list[int]]:
    return [list(probe.ids) for probe in probes]


def samples_of(
    speaker: Speaker, probes: Sequence[Probe], whose: str, *, base: bool = False
) -> tuple[Sample, ...]:
    """Its answers to its prompts, which are those of ``probes``. Draws no random numbers, so training is the
    same with and without it. Arguments and errors as `Speaker.answers`."""
    return tuple(
        Sample(probe.row, probe.prompt, answer.text, probe.reference, answer.num_tokens, answer.stopped)
        for probe, answer in zip(probes, speaker.answers(whose, base=base), strict=True)
    )
