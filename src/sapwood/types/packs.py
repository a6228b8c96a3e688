"""Several examples in one forward pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sapwood.types.rows import RowId, total_weight


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens ``start:stop`` of a pack that attends to itself causally, and to its ancestors.

    ``position`` is the position of its first token; ``parent`` the index of the segment that it continues.
    """

    start: int
    stop: int
    position: int
    parent: int | None = None

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Pack:
    """Several examples side by side, computed in one forward pass.

    ids, positions: int32[T]. predict_at, targets: int32[N]: the hidden state at ``predict_at[i]`` predicts
    ``targets[i]``. ``rows`` are the examples in it. weights: float32[N], what each target counts in the loss;
    None: 1.
    """

    ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    segments: tuple[Segment, ...]
    predict_at: NDArray[np.int32]
    targets: NDArray[np.int32]
    rows: tuple[RowId, ...]
    weights: NDArray[np.float32] | None = None

    @property
    def weight(self) -> float:
        """The sum of the weights of the pack's targets."""
        return total_weight(len(self.targets), self.weights)
