"""What attention over a pack holds in memory, counted from its plan: nothing is computed."""

from __future__ import annotations

from dataclasses import dataclass

from sapwood.pack.build import pad_pack
from sapwood.pack.segments import KEEP_KEYS, plan_attention
from sapwood.types import Pack


@dataclass(frozen=True, slots=True)
class Footprint:
    """A pack's sizes, as it is computed (padded).

    tokens, targets: their numbers. kept_scores: attention probabilities that one head of one layer keeps for
    its backward pass; widest_scores: those of the largest group, which exist several times for a moment.
    """

    tokens: int
    targets: int
    kept_scores: int
    widest_scores: int


def footprint(pack: Pack, *, softcap: bool = False) -> Footprint:
    """``softcap``: the model caps its attention scores; then none are kept."""
    padded = pad_pack(pack)
    sizes = [
        (group.key.shape[1], group.query.numel() * group.key.shape[1])
        for group in plan_attention(padded.segments).groups
    ]
    kept = sum(size for keys, size in sizes if keys <= KEEP_KEYS and not softcap)
    return Footprint(len(padded.ids), len(pack.targets), kept, max(size for _, size in sizes))
