"""A pack as the tensors that the model takes."""

from __future__ import annotations

import numpy as np
import torch

from sapwood.compute.attention.segments import AttentionPlan
from sapwood.pack.build import pad_pack
from sapwood.types import Batch, Pack


def to_batch(pack: Pack, device: str = "cpu") -> Batch:
    """The pack as tensors, padded, with its attention plan."""
    pack = pad_pack(pack)

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
