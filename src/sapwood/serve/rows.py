"""The rows of a batch of answers, with what the model remembers of them.

A batch is padded on the left, so that the newest tokens of all rows stand in one column::

    pad pad  p0  p1 | a0  a1 …        mask 0 0 1 1 1 1, positions - - 0 1 2 3
     p0  p1  p2  p3 | a0  a1 …        mask 1 1 1 1 1 1, positions 0 1 2 3 4 5

What all prompts of a batch begin with (the system prompt) is read once, and stands before the padding. A row
that is done leaves the batch at once, with its part of the cache; the head sees the last column only.

Not every model can do that: the states of Mamba, of gated delta networks and of short convolutions take in
the padding, and some models count positions by themselves. A tiny copy is asked (`joins`). Models that can't
take one row at a time. Their cache is tried at the first token: with it and without it the scores must be the
same.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sapwood.adapter.soft_prompt import fill_cache
from sapwood.base.inspect import quiet
from sapwood.base.tiny import decides_copy, tiny_network
from sapwood.machine.measure import one_thread
from sapwood.machine.shortage import refuse_shortage

SHARED = 8  # tokens that all prompts must share before they are read once
UNABLE = (
    AttributeError,
    TypeError,
    ValueError,
    IndexError,
    RuntimeError,
)  # of models that want another cache
CLOSE = 0.02  # of the largest score: equal sums differ by so much if they are added in another order
SAME = 1e-3  # in fp32, on a tiny copy


class Rows:
    """The rows of a batch that are still being written, with their cache.

    alive: their numbers. mask: bool[B, width + steps], False if padded; width counts what the cache holds,
    a soft prompt too. position: int64[B, 1], of the token that comes next. ``joined``: what `joins` says.
    """

    def __init__(
        self, model: Any, prompts: Mapping[int, Sequence[int]], pad: int, steps: int, joined: bool
    ) -> None:
        from transformers import DynamicCache

        network = unwrapped(model)
        device = network.get_input_embeddings().weight.device
        self._takes = inspect.signature(network.forward).parameters
        self._doubtful = not joined
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
        except UNABLE as error:
            refuse_shortage(error, "a prompt was read")
            if not self._doubtful or self._cache is None:
                raise
            self._cache = None  # the model wants a cache of its own kind
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
            try:
                gap = (self._forward(ids, position) - whole).abs().max()
                if gap <= CLOSE * whole.abs().max():
                    return whole
            except UNABLE as error:
                refuse_shortage(error, "a cache was tried")
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
            "position_ids": None if self._doubtful else positions,  # some begin elsewhere than at 0
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


_joins: dict[tuple[str, str], bool] = {}  # by what decides a tiny copy, and the kind of attention


def joins(network: Any) -> bool:
    """Do rows of one batch say what each says alone: padded, with a cache, and after other rows have left?
    Asked once of each model, on a tiny copy."""
    config = network.config
    if (key := (decides_copy(config), str(config._attn_implementation))) not in _joins:
        with quiet(), one_thread():
            _joins[key] = _asked(network)
    return _joins[key]


def _asked(network: Any) -> bool:
    try:
        copy = tiny_network(network.config)
    except Exception as error:  # each architecture has its own
        refuse_shortage(error, "a tiny copy of the model was made")
        return False
    try:
        copy.set_attn_implementation(network.config._attn_implementation)
        return _say_the_same(copy)
    except UNABLE as error:
        refuse_shortage(error, "a tiny copy of the model was asked")
        return False


@torch.no_grad()
def _say_the_same(network: Any) -> bool:
    """Compare each token's scores with those of a pass over the row alone, without a cache."""
    texts = [[*range(3, 3 + SHARED), *rest] for rest in ((20, 21, 22, 23), (30,), (40, 41))]
    rows = Rows(network, dict(enumerate(texts)), 0, 3, joined=True)
    found = rows.read()
    for keep in ([0, 1, 2], [1, 2], [0, 1], []):
        alone = [
            network(input_ids=torch.tensor([texts[i]]), use_cache=False).logits[0, -1] for i in rows.alive
        ]
        wanted = torch.stack(alone)
        if not (found - wanted).abs().max() <= SAME * wanted.abs().max():  # NaN too
            return False
        if keep:
            chosen = [50 + i for i in rows.alive]
            for i, token in zip(rows.alive, chosen, strict=True):
                texts[i].append(token)
            found = rows.step(chosen, keep)
    return True


def unwrapped(model: Any) -> Any:
    """The transformers model inside a PeftModel, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
