"""Random forests of examples that continue each other, for hypothesis."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from sapwood.types import Example, RowId

Ids = NDArray[np.int32]


@st.composite
def forests(draw: st.DrawFn, longest: int = 48) -> list[Ids]:
    """1 to 12 sequences of 2 to ``longest`` tokens. Each starts afresh or continues a beginning of an earlier
    one; few different tokens, so that what follows agrees by accident too."""
    sequences: list[list[int]] = []
    for _ in range(draw(st.integers(1, 12))):
        start: list[int] = []
        if sequences and draw(st.integers(0, 3)):
            old = draw(st.sampled_from(sequences))
            start = old[: draw(st.integers(0, len(old)))]
        room = longest - len(start)
        own = draw(st.lists(st.integers(1, 3), min_size=0 if len(start) > 1 else 2, max_size=min(room, 14)))
        sequences.append(start + own)
    return [np.array(ids, np.int32) for ids in sequences]


def as_examples(sequences: list[Ids], seed: int = 0) -> list[Example]:
    """Each with some trained tokens, never the first, at least one."""
    rng = np.random.default_rng(seed)
    examples: list[Example] = []
    for index, ids in enumerate(sequences):
        trained = rng.random(len(ids)) < 0.5
        trained[0], trained[-1] = False, True
        examples.append(Example(RowId("forest", index), ids, trained))
    return examples
