"""A pack as the tensors that the model takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sapwood.compute.attention.segments import AttentionPlan
from sapwood.pack.build import pad_pack
from sapwood.types import Pack, RowId


@dataclass(frozen=True, slots=True)
class Batch:
    """A pack as tensors. ids, positions: int64[1, T]; predict_at, targets: int64[N]; weights: float32[N] or
    None; ``attention`` is the plan that the attention kernel follows."""

    ids: torch.Tensor
    positions: torch.Tensor
    attention: AttentionPlan
    predict_at: torch.Tensor
    targets: torch.Tensor
    rows: tuple[RowId, ...]
    weights: torch.Tensor | None = None


def to_batch(pack: Pack, device: str = "cpu", *, padded: bool = True) -> Batch:
    """The pack as tensors, padded, with its attention plan."""
    pack = pad_pack(pack) if padded else pack

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(device)

    return Batch(
        ids=tensor(pack.ids)[None],
        positions=tensor(pack.positions)[None],
        attention=AttentionPlan(pack.segments),
        predict_at=tensor(pack.predict_at),
        targets=tensor(pack.targets),
        rows=pack.rows,
        weights=None if pack.weights is None else torch.from_numpy(pack.weights).to(device),
    )
