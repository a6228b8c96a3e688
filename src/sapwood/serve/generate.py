"""Answers, one token at a time: greedy or sampled, one prompt as a stream or many as a batch.

A batch is padded on the left, so that the newest tokens of all rows stand in one column::

    pad pad  p0  p1 | a0  a1 …        mask 0 0 1 1 1 1, positions - - 0 1 2 3
     p0  p1  p2  p3 | a0  a1 …        mask 1 1 1 1 1 1, positions 0 1 2 3 4 5

What all prompts of a batch begin with (the system prompt) is read once, and stands before the padding. A row
that is done leaves the batch at once, with its part of the cache; the head sees the last column only. Models
that keep a state beside keys and values (Mamba, gated delta networks) take one row at a time. Their cache is
tried at the first token: with the cache and without it the scores must be the same.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sapwood.adapter.soft_prompt import fill_cache, lead_length
from sapwood.base.network.parts import decoder_of
from sapwood.compute.attention.seam import is_packed
from sapwood.serve.choose import Chooser
from sapwood.serve.settings import Answer, Settings, room_of
from sapwood.serve.text import TextStream

AT_ONCE = 64  # rows of a batch at most: so many the products take as they are (`native.ops.few_rows`)
TOGETHER = 16_384  # tokens of a batch at most, answers included: their keys and values lie in memory
SHARED = 8  # tokens that all prompts must share before they are read once

Watch = Callable[[Tensor, Sequence[int]], object]
"""Sees the scores, [rows, vocabulary], and the token that was chosen for each row."""

__all__ = ["Answer", "Settings", "answer_batch", "context_length", "generation_attention", "stream"]

UNABLE = (
    AttributeError,
    TypeError,
    ValueError,
    IndexError,
    RuntimeError,
)  # of models that want another cache
CLOSE = 0.02  # of the largest score: by as much the same sums differ when they are added in another order


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
        batch_size = 1 if prompts and _keeps_state(_unwrapped(model)) else batch_size
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
    network: Any = decoder_of(_unwrapped(model))
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
    limit = getattr(_unwrapped(model).config.get_text_config(decoder=True), "max_position_embeddings", None)
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
    rows = _Rows(model, prompts, pad, max(room.values()))
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


class _Rows:
    """The rows of a batch that are still being written, with their cache.

    alive: their numbers. mask: bool[B, width + steps], False if padded; width counts what the cache holds,
    a soft prompt too. position: int64[B, 1], of the token that comes next.
    """

    def __init__(self, model: Any, prompts: Mapping[int, Sequence[int]], pad: int, steps: int) -> None:
        from transformers import DynamicCache

        network = _unwrapped(model)
        device = network.get_input_embeddings().weight.device
        self._takes = inspect.signature(network.forward).parameters
        self._doubtful = _keeps_state(network)
        cached = "past_key_values" in self._takes
        self._cache: Any = DynamicCache(config=network.config) if cached else None
        with torch.no_grad():
            lead = fill_cache(model, network, self._cache, len(prompts))
        # a soft prompt lies in the cache, and the base itself goes on from there
        self._model = network if lead else model
        self.alive = list(prompts)
        rests = list(prompts.values())
        shared = 0 if lead or self._doubtful else _shared(rests, self._cache)
        if shared:
            self._read_shared(torch.tensor([rests[0][:shared]], device=device), len(prompts))
            rests, lead = [prompt[shared:] for prompt in rests], shared
        lengths = torch.tensor([len(prompt) for prompt in rests], device=device)
        self.width = int(lengths.max())
        padded = [[pad] * (self.width - len(prompt)) + list(prompt) for prompt in rests]
        self.ids = torch.tensor(padded, device=device)
        columns = torch.arange(self.width + steps, device=device)
        mask = columns >= self.width - lengths[:, None]
        self._lead = lead
        self.mask = torch.cat([mask.new_ones(len(prompts), lead), mask], 1)
        self.width += lead
        self.position = lengths[:, None] + lead
        self._asked = False

    def _read_shared(self, ids: Tensor, rows: int) -> None:
        """ids: [1, T], what all ``rows`` begin with -> into the cache of each."""
        self.mask, self.width = torch.ones_like(ids, dtype=torch.bool), ids.shape[1]
        self._forward(ids, torch.arange(self.width, device=ids.device)[None])
        self._cache.batch_repeat_interleave(rows)

    def read(self) -> Tensor:
        """All prompts at once -> logits [B, vocabulary] of each row's first new token."""
        positions = self.mask[:, : self.width].long().cumsum(1).sub_(1).clamp_(min=0)
        positions = positions[:, self._lead :]
        try:
            return self._forward(self.ids, positions)
        except UNABLE:
            if not self._doubtful or self._cache is None:
                raise
            self._cache = None  # it wants a cache of its own kind
            return self._forward(self.ids, positions)

    def step(self, chosen: Sequence[int], keep: Sequence[int]) -> Tensor:
        """Append each row's token and go on with `alive[i]` for i in ``keep`` -> logits, as `read`."""
        ids = torch.tensor(chosen, device=self.ids.device)[:, None]
        if len(keep) < len(self.alive):
            index = torch.tensor(keep, device=self.ids.device)
            self.alive = [self.alive[i] for i in keep]
            ids, self.mask, self.position = ids[index], self.mask[index], self.position[index]
            self._cache.batch_select_indices(index)
        self.width += 1
        if self._doubtful:
            return self._step_with_care(ids)
        logits = self._forward(ids, self.position)
        self.position = self.position + 1
        return logits

    def _step_with_care(self, ids: Tensor) -> Tensor:
        """`step` of one row whose cache may not be what its model expects. Without it, all is read anew."""
        self.ids = torch.cat([self.ids, ids], 1)
        position, self.position = self.position, self.position + 1
        if self._cache is not None and self._asked:
            return self._forward(ids, position)
        self._asked, cache, self._cache = True, self._cache, None
        whole = self._forward(self.ids, torch.arange(self.width, device=ids.device)[None])
        if cache is not None:
            self._cache = cache
            with contextlib.suppress(*UNABLE):
                gap = (self._forward(ids, position) - whole).abs().max()
                if gap <= CLOSE * whole.abs().max():
                    return whole
            self._cache = None
        return whole

    # no_grad and not inference_mode: a buffer that a model replaces while it runs (stretched rotary
    # frequencies) would stay an inference tensor, which training can't use. Around the pass only: held over a
    # yield it would reach into the consumer's code.
    @torch.no_grad()
    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        mask = self.mask[:, : self.width]
        told = {
            "attention_mask": None if bool(mask.all()) else mask.long(),
            "position_ids": positions,
            "past_key_values": self._cache,
            "use_cache": self._cache is not None,
            # a tensor: a number would make a slice that isn't contiguous, and the product with the head would
            # copy the head once for each row
            "logits_to_keep": torch.tensor([ids.shape[1] - 1], device=ids.device),
        }
        known = {key: value for key, value in told.items() if key in self._takes and value is not None}
        return self._model(input_ids=ids, **known).logits[:, -1]


def _shared(prompts: Sequence[Sequence[int]], cache: Any) -> int:
    """How many tokens all prompts begin with, if it pays to read them once. Each prompt keeps one of its own.

    Padding stands behind these tokens, where a window of attention would count it: such layers read all.
    """
    from transformers.cache_utils import DynamicLayer

    if len(prompts) < 2 or not all(type(layer) is DynamicLayer for layer in cache.layers):
        return 0
    most = min(map(len, prompts)) - 1
    first = prompts[0]
    same = (i for i in range(most) if any(prompt[i] != first[i] for prompt in prompts))
    shared = next(same, most)
    return shared if shared >= SHARED else 0


def _keeps_state(network: Any) -> bool:
    """Whether a model keeps a state beside keys and values, or a cache of its own kind. Such a model can't be
    given padding, nor a part of its cache."""
    takes = inspect.signature(network.forward).parameters
    stateful = bool(getattr(network, "_is_stateful", False)) or "past_key_values" not in takes
    return stateful or _wants_own_cache(network)


_own_cache: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()  # model -> does it refuse the plain cache?


@torch.no_grad()
def _wants_own_cache(network: Any) -> bool:
    """Is the plain cache refused? Asked once of each model, with one token."""
    from transformers import DynamicCache

    if network not in _own_cache:
        ids = torch.zeros(1, 1, dtype=torch.long, device=network.get_input_embeddings().weight.device)
        try:
            network(input_ids=ids, past_key_values=DynamicCache(config=network.config), use_cache=True)
            _own_cache[network] = False
        except UNABLE:
            _own_cache[network] = True
    return _own_cache[network]


def _unwrapped(model: Any) -> Any:
    """The transformers model inside a PeftModel, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _cached_attention(network: Any) -> str:
    try:
        return str(network.get_correct_attn_implementation("sdpa"))
    except ValueError:
        return "eager"


def _pad_id(tokenizer: Any) -> int:
    """Any id does: padding is masked."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
