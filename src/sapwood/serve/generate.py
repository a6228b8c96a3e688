"""Answers, one token at a time: greedy or sampled, one prompt as a stream or many as a batch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sapwood.adapter.soft_prompt import lead_length
from sapwood.base.network.parts import decoder_of
from sapwood.compute.attention.seam import is_packed
from sapwood.serve.choose import Chooser
from sapwood.serve.rows import Rows, joins, unwrapped
from sapwood.serve.settings import Answer, Settings, room_of
from sapwood.serve.text import TextStream

AT_ONCE = 64  # rows of a batch at most: so many the products take as they are (`native.ops.few_rows`)
TOGETHER = 16_384  # tokens of a batch at most, answers included: their keys and values lie in memory

Watch = Callable[[Tensor, Sequence[int]], object]
"""Sees the scores, [rows, vocabulary], and the token that was chosen for each row."""

__all__ = ["Answer", "Settings", "answer_batch", "context_length", "generation_attention", "stream"]


def stream(
    model: Any,
    tokenizer: Any,
    prompt_ids: Sequence[int],
    stop_ids: Collection[int],
    settings: Settings,
    watch: Watch | None = None,
) -> Generator[str, None, Answer]:
    """Yield the answer piece by piece, each as soon as its characters are whole; return the `Answer`.

    The pieces joined are the answer's text. A consumer that leaves early closes the generator, which gives
    the model back as it was.

    Args:
        model: a causal language model or a PeftModel.
        stop_ids: the answer ends before the first of these.
        watch: sees the scores that each token was chosen from, before the token is yielded.

    Raises:
        ConfigError: the prompt fills the model's context.
        NumericsError: the model's output is not a number.
    """
    writer = TextStream(tokenizer)
    with generation_attention(model):
        for token in _decode(model, {0: prompt_ids}, stop_ids, settings, _pad_id(tokenizer), watch):
            if token.id is not None and (piece := writer.push(token.id)):
                yield piece
            if token.last:
                if piece := writer.flush(cut=token.id is not None):
                    yield piece
                return _answer(writer, prompt_ids, token)
    raise AssertionError("decoding ended without a last token")


@dataclass(frozen=True, slots=True)
class Written:
    """A token of an answer (None: the stop token), and the ``piece`` of text that is certain with it.

    log_prob: in nats, before sampling; ``top``: the likeliest tokens in its place. ``last``: nothing follows.
    """

    id: int | None
    piece: str
    last: bool
    log_prob: float
    top: tuple[tuple[int, float], ...]


def written(
    model: Any,
    tokenizer: Any,
    prompt_ids: Sequence[int],
    stop_ids: Collection[int],
    settings: Settings,
    top: int,
) -> Generator[Written]:
    """`stream` token by token, each with its probability and the ``top`` likeliest ones."""
    writer = TextStream(tokenizer)
    log_prob, best = math.nan, tuple[tuple[int, float], ...]()

    def watch(logits: Tensor, chosen: Sequence[int]) -> None:
        nonlocal log_prob, best
        log_prob, best = likely(logits[0], chosen[0], top)

    with generation_attention(model):
        for token in _decode(model, {0: prompt_ids}, stop_ids, settings, _pad_id(tokenizer), watch):
            piece = writer.push(token.id) if token.id is not None else ""
            if token.last:
                piece += writer.flush(cut=token.id is not None)
            yield Written(token.id, piece, token.last, log_prob, best)


def answer_batch(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    stop_ids: Collection[int],
    settings: Settings,
    batch_size: int = AT_ONCE,
    far: Callable[[int], object] = lambda done: None,
) -> list[Answer]:
    """Answer many prompts, at most ``batch_size`` at a time and fewer if they are long. Returns the answers
    in the prompts' order. ``far``: is told how many are done.

    Prompts of similar length share a batch. In fp32 greedy answers equal those of `stream`; in narrower types
    a near tie may fall the other way, because matrix products of other shapes round differently.

    Raises as `stream`, before anything is computed if a prompt is too long.
    """
    for prompt in prompts:
        room_of(len(prompt), context_of(model), settings)
    by_length = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))  # the largest batch comes first
    answers: dict[int, Answer] = {}
    with generation_attention(model):
        batch_size = batch_size if prompts and joins(unwrapped(model)) else 1
        while by_length:
            longest = len(prompts[by_length[0]]) + settings.max_new_tokens
            count = max(1, min(batch_size, TOGETHER // longest))
            rows = {i: prompts[i] for i in by_length[:count]}
            by_length = by_length[count:]
            writers = {i: TextStream(tokenizer) for i in rows}
            for token in _decode(model, rows, stop_ids, settings, _pad_id(tokenizer)):
                if token.id is not None:
                    writers[token.row].push(token.id)
                if token.last:
                    answers[token.row] = _answer(writers[token.row], rows[token.row], token)
                    far(len(answers))
    return [answers[i] for i in range(len(prompts))]


@contextmanager
def generation_attention(model: Any) -> Generator[None]:
    """Give ``model`` an attention that knows caches and padding, and eval mode; then put back what was there.

    The training kernel follows the plan of a pack, and an answer in progress has no pack. PyTorch's sdpa is
    taken if the model accepts it; if not (for example because of soft-capped scores), the model's own eager
    form. Any other implementation stays.
    """
    network: Any = decoder_of(unwrapped(model))
    modes = [(module, module.training) for module in model.modules()]
    before: str = network.config._attn_implementation
    try:
        model.eval()
        if is_packed(before):
            network.set_attn_implementation(_cached_attention(network))
        yield
    finally:
        if is_packed(before):
            network.set_attn_implementation(before)
        for module, mode in modes:
            module.training = mode


def context_length(model: Any) -> int | None:
    """Tokens that the model can hold, prompt and answer together; None if its config names no limit."""
    limit = getattr(unwrapped(model).config.get_text_config(decoder=True), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def context_of(model: Any) -> int | None:
    """`context_length` without what a soft prompt takes of it."""
    limit = context_length(model)
    return None if limit is None else limit - lead_length(model)


# --- the loop ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Token:
    """Prompt number ``row`` got ``id``; None stands for a stop token. ``last``: nothing follows for it."""

    row: int
    id: int | None
    last: bool
    seconds: float


def _decode(
    model: Any,
    prompts: Mapping[int, Sequence[int]],
    stop_ids: Collection[int],
    settings: Settings,
    pad: int,
    watch: Watch | None = None,
) -> Iterator[_Token]:
    """Read the prompts (by number) together and yield their tokens, column by column."""
    started = time.perf_counter()
    stops = frozenset(stop_ids)
    context = context_of(model)
    room = {row: room_of(len(prompt), context, settings) for row, prompt in prompts.items()}
    rows = Rows(model, prompts, pad, max(room.values()), joins(unwrapped(model)))
    chooser = Chooser(settings, prompts)
    logits = rows.read()
    column = 0
    while True:
        column += 1
        chosen = chooser.choose(logits, rows.alive)
        if watch is not None:
            watch(logits, chosen)
        seconds = time.perf_counter() - started
        done = [token in stops or column == room[row] for row, token in zip(rows.alive, chosen, strict=True)]
        for row, token, last in zip(rows.alive, chosen, done, strict=True):
            yield _Token(row, None if token in stops else token, last, seconds)
        if all(done):
            return
        logits = rows.step(chosen, [i for i, last in enumerate(done) if not last])


def likely(logits: Tensor, token: int, top: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """logits: [vocabulary] -> log p of ``token``, and the ``top`` likeliest tokens with theirs."""
    log_p = logits.float().log_softmax(-1)
    best = log_p.topk(top) if top else None
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True) if best is not None else ()
    return float(log_p[token]), tuple(pairs)


def _answer(writer: TextStream, prompt: Sequence[int], last: _Token) -> Answer:
    writer.flush(cut=last.id is not None)
    ids = tuple(writer.ids)
    return Answer(writer.text, len(ids), last.id is None, len(prompt), last.seconds, ids)


def _cached_attention(network: Any) -> str:
    try:
        return str(network.get_correct_attn_implementation("sdpa"))
    except ValueError:
        return "eager"


def _pad_id(tokenizer: Any) -> int:
    """Any id does: padding is masked."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
