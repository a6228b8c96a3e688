"""The fixed prompts, and what the trained model says to them: the truth that an export is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sapwood.machine.doing import counted
from sapwood.serve.generate import Settings, answer_batch, generation_attention
from sapwood.serve.load import Loaded
from sapwood.types import Message

PROMPTS = (
    "What is the capital of France?",
    "Why do leaves turn yellow in autumn? Answer in one sentence.",
    "写一首关于雨的短诗。",
    "def area(width, height):\n    return width * height\n\nWhat does this function do?",
    "List three things that you need to plant a tree.",
    "Who are you, and what do you do all day?",
    "Translate into French: “The garden is quiet today.” 🌳",
    "12 × 34 = ?",
)
ANSWER_TOKENS = 16
TOP = 20  # likeliest tokens that are compared at each position


@dataclass(frozen=True, slots=True)
class Trace:
    """A prompt, and the trained model's own answer to it.

    Attributes:
        text: the prompt as the template renders it; ``ids`` as tokens.
        answer: greedy, at most `ANSWER_TOKENS`, without the stop token; ``stopped``: it ended by itself.
        trained: log p after ``ids + answer[:k]`` for k = 0 … n: float32[n + 1, vocabulary].
    """

    messages: tuple[Message, ...]
    text: str
    ids: list[int]
    answer: list[int]
    stopped: bool
    trained: Tensor

    def beginnings(self) -> list[list[int]]:
        """What the rows of ``trained`` follow."""
        return [self.ids + self.answer[:k] for k in range(len(self.answer) + 1)]


def trace_prompts(trained: Loaded) -> list[Trace]:
    """Answer the fixed prompts, with the run's system prompt if it has one."""
    renderer, network = trained.renderer, trained.network
    asked = [_messages(prompt, trained.system) for prompt in PROMPTS]
    prompts = [renderer.prompt_ids(messages) for messages in asked]
    settings = Settings(max_new_tokens=ANSWER_TOKENS)
    answers = answer_batch(network, trained.tokenizer, prompts, renderer.stop_ids, settings)
    traces: list[Trace] = []
    whole = counted("asking the trained model", list(zip(asked, prompts, answers, strict=True)))
    for messages, ids, answer in whole:
        said = list(answer.ids)
        told = log_probs(network, ids + said, len(ids))
        text = renderer.prompt_text(messages)
        traces.append(Trace(messages, text, ids, said, answer.stopped, told))
    return traces


def said_by(network: Any, traces: Sequence[Trace]) -> list[Trace]:
    """The same prompts and answers, with what another model says after them."""
    pairs = zip(traces, rows_of(network, traces), strict=True)
    return [replace(trace, trained=rows) for trace, rows in pairs]


def rows_of(network: Any, traces: Sequence[Trace]) -> list[Tensor]:
    """What a model says after the traces, as `Trace.trained`."""
    told = counted("asking the trained model again, with rounded weights", traces)
    return [log_probs(network, trace.ids + trace.answer, len(trace.ids)) for trace in told]


def far_from(traces: Sequence[Trace], told: Sequence[Tensor]) -> float:
    """Mean |difference of log p| between the trained model and ``told``, over the `TOP` tokens that ``told``
    finds likeliest at each position."""
    found: list[Tensor] = []
    for trace, rows in zip(traces, told, strict=True):
        top = rows.topk(TOP, -1)
        found.append((trace.trained.gather(-1, top.indices) - top.values).abs())
    return float(torch.cat(found).mean())


@torch.no_grad()
def log_probs(network: Any, ids: Sequence[int], start: int) -> Tensor:
    """Log p of each token after ``ids[:k]`` for k = start … len(ids): float32[len(ids) - start + 1, V]."""
    with generation_attention(network):
        kept = torch.arange(start - 1, len(ids))
        logits = network(torch.tensor([list(ids)]), use_cache=False, logits_to_keep=kept).logits[0]
    return torch.log_softmax(logits.float(), -1)


def _messages(prompt: str, system: str | None) -> tuple[Message, ...]:
    first = (Message("system", system),) if system else ()
    return (*first, Message("user", prompt))
