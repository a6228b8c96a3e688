"""What goes into the decoder: ids as they are, or their embeddings if something is added to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sapwood.adapter.model import LoraModel
from sapwood.adapter.soft_prompt import is_prefix, lead_embeddings, lead_keys, lead_length
from sapwood.compute.attention.seam import packed_attention
from sapwood.compute.batch import Batch
from sapwood.types import Segment

NOISE = -1  # the input that NEFTune's generator is seeded for; dropout counts from 0


def hidden_states(model: LoraModel, batch: Batch) -> Tensor:
    """float[1, T, D]: the decoder's output for a pack, after its final norm. For a soft prompt, the pack must
    have room in front (`pack.build.with_lead`)."""
    flow = model.flow.through(model.network.get_input_embeddings()) if model.flow else nullcontext()
    with flow as saved_dtype:
        inputs, attention = _inputs(model, batch)
        if model.alone:
            out = model.backbone(**inputs, use_cache=False)
        else:
            attention = replace(attention, saved_dtype=saved_dtype)
            out = model.backbone(**inputs, position_ids=batch.positions, segments=attention, use_cache=False)
    return out.last_hidden_state


def attending(model: LoraModel) -> AbstractContextManager[None]:
    """While this context is open, the model attends as `hidden_states` expects: by the plan of a pack, or by
    its own attention."""
    return nullcontext() if model.alone else packed_attention(model.network, model.backend)


def _inputs(model: LoraModel, batch: Batch) -> tuple[dict[str, Any], Any]:
    inputs: dict[str, Any] = {"input_ids": batch.ids}
    attention = batch.attention
    lead, noise = lead_length(model.peft), model.neftune if model.peft.training else 0.0
    if lead and len(attention.segments[0]) != lead:
        raise ValueError(f"the pack has no place for {lead} virtual tokens")
    if lead and is_prefix(model.peft):
        attention = replace(attention, lead=lead_keys(model.peft))
    if noise or (lead and not is_prefix(model.peft)):
        embeddings = model.network.get_input_embeddings()(batch.ids)
        if noise:
            embeddings = noisy(embeddings, attention.segments, noise, model.clock.at(NOISE))
        if lead and not is_prefix(model.peft):
            embeddings = torch.cat([lead_embeddings(model.peft, embeddings), embeddings[:, lead:]], 1)
        inputs = {"inputs_embeds": embeddings}
    return inputs, attention


def noisy(embeddings: Tensor, segments: Sequence[Segment], alpha: float, seed: int) -> Tensor:
    """NEFTune (arXiv 2310.05914): uniform noise, alpha / sqrt(length * D) strong, on each row.

    embeddings: [1, T, D]. Each segment is a row. The noise is a function of ``seed`` alone.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.empty(embeddings.shape, dtype=torch.float32).uniform_(-1, 1, generator=generator)
    for segment in segments:
        noise[:, segment.start : segment.stop] *= alpha / math.sqrt(len(segment) * embeddings.shape[-1])
    return embeddings + noise.to(embeddings)
