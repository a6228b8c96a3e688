"""What is asked of an engine, and what it answers, piece by piece; and both as llama.cpp spells them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Ask:
    """One answer that is wanted.

    Attributes:
        ids: the prompt, as the renderer that trained makes it.
        max_tokens: where it is cut; ``stop_ids``: where it ends; ``stop``: texts at which it ends too.
        temperature: 0 takes the likeliest token. top_p, top_k (0: all), min_p: which tokens are drawn from.
        seed: of the draws; None draws anew each time.
        repetition_penalty: over prompt and answer; frequency_penalty, presence_penalty: likewise.
        logit_bias: what is added to the scores of tokens.
        top: of how many likeliest tokens the probabilities are told with each token; None tells none.
        grammar: what the answer must be, in llama.cpp's words.
        keep: control texts that the answer shows, because its reader looks for them.
    """

    ids: Sequence[int]
    max_tokens: int
    stop_ids: frozenset[int] = frozenset()
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    top: int | None = None
    grammar: str | None = None
    keep: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenProb:
    """A token and its log probability in nats, before sampling; ``top``: the likeliest in its place."""

    id: int
    data: bytes
    log_prob: float
    top: tuple[TokenProb, ...] = ()

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class End:
    """How an answer ended. ``word``: the stop text that ended it. ``cached``: tokens of the prompt that were
    not computed anew."""

    reason: Literal["stop", "length"]
    word: str | None
    prompt_tokens: int
    tokens: int
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an answer: whole characters, and the tokens that ended in it.

    ``count``: tokens so far, those of this piece included. ``end``: set on the last one.
    """

    text: str
    ids: tuple[int, ...] = ()
    probs: tuple[TokenProb, ...] = ()
    count: int = 0
    end: End | None = None


class Refused(Exception):
    """The engine doesn't take what was asked. ``status`` as HTTP has it: 400 the caller's fault, 429 too many
    wait already, 503 nothing is free in time or the engine is gone."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code


def body_of(ask: Ask, lora: Sequence[Mapping[str, float]], slot: int, *, clean: bool) -> dict[str, Any]:
    """llama.cpp's ``/completion``. Every setting is said, so that no default of its own comes in.

    ``clean``: nothing that lies in the slot may be used.
    """
    body: dict[str, Any] = {
        "prompt": list(ask.ids),
        "n_predict": ask.max_tokens,
        "stream": True,
        "lora": list(lora),
        "id_slot": slot,
        "cache_prompt": not clean,
        "temperature": ask.temperature,
        "top_p": ask.top_p,
        "top_k": ask.top_k,
        "min_p": ask.min_p,
        "repeat_penalty": ask.repetition_penalty,
        "frequency_penalty": ask.frequency_penalty,
        "presence_penalty": ask.presence_penalty,
        "repeat_last_n": len(ask.ids) + ask.max_tokens,  # penalties look back on all of it
        "samplers": ["penalties", "top_k", "top_p", "min_p", "temperature"],
        "stop": list(ask.stop),
        "logit_bias": [[id, bias] for id, bias in ask.logit_bias.items()],
    }
    if ask.seed is not None:
        body["seed"] = ask.seed % 2**32
    if ask.top is not None:
        body["n_probs"] = max(ask.top, 1)
    if ask.grammar is not None:
        body["grammar"] = ask.grammar
    if ask.keep:
        body["preserved_tokens"] = list(ask.keep)
    return body


def piece_of(told: Mapping[str, Any], ask: Ask) -> Piece:
    """One of llama.cpp's events."""
    probs = tuple(_prob(one, ask.top or 0) for one in told.get("completion_probabilities") or ())
    end = None
    if told.get("stop"):
        timings = told.get("timings") or {}
        end = End(
            reason="length" if told.get("stop_type") == "limit" else "stop",
            word=told.get("stopping_word") or None,
            prompt_tokens=len(ask.ids),
            tokens=int(told["tokens_predicted"]),
            cached=int(timings.get("cache_n", 0)),
        )
    count = int(told["tokens_predicted"])
    return Piece(told.get("content") or "", tuple(told.get("tokens") or ()), probs, count, end)


def _prob(told: Mapping[str, Any], top: int) -> TokenProb:
    others = (told.get("top_logprobs") or ())[:top]
    log_prob = told.get("logprob")
    value = float("nan") if log_prob is None else float(log_prob)
    return TokenProb(int(told["id"]), bytes(told["bytes"]), value, tuple(_prob(one, 0) for one in others))
