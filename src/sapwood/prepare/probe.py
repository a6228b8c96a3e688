"""Held-out prompts for the model to answer while it trains, so that a person sees it change."""

from __future__ import annotations

from collections.abc import Sequence

from sapwood.template.render import Renderer
from sapwood.types import Conversation, Probe


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
