"""Held-out prompts that the model answers while it trains, so that a person sees it change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sapwood.serve.generate import Settings, answer_batch
from sapwood.template.render import Renderer
from sapwood.types import Conversation, RowId, Sample


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt as inference sends it, and the answer that the data gives. ``prompt`` is the last user
    turn."""

    row: RowId
    prompt: str
    ids: tuple[int, ...]
    reference: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Probe:
        return cls(RowId(**value["row"]), value["prompt"], tuple(value["ids"]), value["reference"])


def choose_probes(conversations: Sequence[Conversation], renderer: Renderer, number: int) -> list[Probe]:
    """``number`` prompts spread evenly over the conversations, each cut before its last answer."""
    count = min(number, len(conversations))
    chosen = [conversations[i * len(conversations) // count] for i in range(count)]
    return [_probe(conversation, renderer) for conversation in chosen]


def _probe(conversation: Conversation, renderer: Renderer) -> Probe:
    *before, last = conversation.messages
    question = next((m.text for m in reversed(before) if m.role == "user"), "")
    return Probe(
        conversation.row, question, tuple(renderer.prompt_ids(before, conversation.tools)), last.text
    )


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
