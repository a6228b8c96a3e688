"""What attention over a pack holds in memory, counted from its plan: nothing is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sapwood.base.inspect import largest
from sapwood.compute.attention.flex import odd_size
from sapwood.compute.attention.segments import KEEP_KEYS, blocks_of
from sapwood.compute.backend import Backend
from sapwood.machine.device import Device
from sapwood.pack.build import pad_pack
from sapwood.types import Pack


@dataclass(frozen=True, slots=True)
class Footprint:
    """A pack's sizes, as it is computed (padded).

    tokens, targets: their numbers. kept_scores: what one head of one layer keeps of its attention for the
    backward pass; widest_scores: those of the largest block of queries, which exist several times for a
    moment. A compiled kernel keeps a number for each query; its scores stay in the processor's caches.
    """

    tokens: int
    targets: int
    kept_scores: int
    widest_scores: int


Attention = Literal["plain", "capped", "compiled"]  # capped: the model caps its scores; then none are kept


def attention_of(network: Any, device: Device) -> Attention:
    """How a transformers model attends there. network: on the meta device, for example."""
    text = network.config.get_text_config()
    head_dim = largest(text, "head_dim") or text.hidden_size // (largest(text, "num_attention_heads") or 1)
    backend = Backend.of(device)
    if backend.takes(head_dim) or (backend.flex and odd_size(head_dim) is None):
        return "compiled"
    return "plain" if getattr(text, "attn_logit_softcapping", None) is None else "capped"


def footprint(pack: Pack, attention: Attention) -> Footprint:
    padded = pad_pack(pack)
    if attention == "compiled":
        return Footprint(len(padded.ids), len(pack.targets), len(padded.ids), 0)
    sizes = [
        (len(block.keys), (block.stop - block.start) * len(block.keys))
        for block in blocks_of(padded.segments)
    ]
    kept = sum(size for keys, size in sizes if keys <= KEEP_KEYS and attention == "plain")
    return Footprint(len(padded.ids), len(pack.targets), kept, max(size for _, size in sizes))
