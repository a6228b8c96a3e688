"""Examples to a `Pack`. The only place where labels shift.

    example      S S S a a ■ ■ ■          ■ trained
    predict_at           4 5 6            the position whose hidden state predicts …
    targets              ■ ■ ■            … this token

One prompt position may predict the first token of several answers: that is what prefix sharing needs, and
why a pack holds pairs instead of a label per token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from sapwood.errors import DataError
from sapwood.pack.prefix import Node, shared_forest
from sapwood.types import Example, Pack, Segment

PAD_TO = 32


def build_pack(examples: Sequence[Example], *, share_prefixes: bool = True) -> Pack:
    """Lay ``examples`` side by side; common beginnings are stored once when ``share_prefixes``.

    Raises DataError naming the row whose first token is to be learnt: nothing stands before it.
    """
    for example in examples:
        if example.trained[0]:
            raise DataError(
                "the row's first token would be trained",
                str(example.row),
                "a token is predicted from those before it, and there are none",
                "let the template begin with a token of its own",
            )
    sequences = [example.ids for example in examples]
    if share_prefixes:
        forest = shared_forest(sequences)
    else:
        forest = [Node(0, len(ids), [i]) for i, ids in enumerate(sequences)]
    segments: list[Segment] = []
    pieces: list[np.ndarray] = []
    where = [np.empty(len(ids), np.int32) for ids in sequences]  # where[i][j]: place of token j of example i
    total = 0

    def lay(node: Node, parent: int | None) -> None:
        nonlocal total
        size = node.stop - node.start
        segments.append(Segment(total, total + size, node.start, parent))
        pieces.append(sequences[node.members[0]][node.start : node.stop])
        for member in node.members:
            where[member][node.start : node.stop] = np.arange(total, total + size)
        total += size
        index = len(segments) - 1
        for child in node.children:
            lay(child, index)

    for tree in forest:
        lay(tree, None)
    trained = [np.flatnonzero(example.trained) for example in examples]
    predict_at = [where[i][at - 1] for i, at in enumerate(trained)]  # the one shift
    targets = [sequences[i][at] for i, at in enumerate(trained)]
    return Pack(
        ids=np.concatenate(pieces).astype(np.int32),
        positions=np.concatenate([np.arange(s.position, s.position + len(s)) for s in segments]).astype(
            np.int32
        ),
        segments=tuple(segments),
        predict_at=np.concatenate(predict_at).astype(np.int32),
        targets=np.concatenate(targets).astype(np.int32),
        rows=tuple(example.row for example in examples),
        weights=_weights(examples, trained),
    )


def _weights(examples: Sequence[Example], trained: Sequence[np.ndarray]) -> np.ndarray | None:
    """float32[N], what each target counts; None if no example says so."""
    if all(example.weights is None for example in examples):
        return None
    return np.concatenate(
        [
            np.ones(len(at), np.float32) if example.weights is None else example.weights[at]
            for example, at in zip(examples, trained, strict=True)
        ]
    )


def with_lead(pack: Pack, length: int) -> Pack:
    """The pack behind ``length`` virtual tokens that every row begins with: a segment that all rows continue.

    Its ids are zeros that nobody reads: a soft prompt puts its own embeddings, or keys and values, there.
    """
    if not length:
        return pack
    moved = [
        Segment(
            s.start + length, s.stop + length, s.position + length, 0 if s.parent is None else s.parent + 1
        )
        for s in pack.segments
    ]
    return dataclasses.replace(
        pack,
        ids=np.pad(pack.ids, (length, 0)),
        positions=np.concatenate([np.arange(length, dtype=np.int32), pack.positions + length]),
        segments=(Segment(0, length, 0), *moved),
        predict_at=pack.predict_at + length,
    )


def pad_pack(pack: Pack, multiple: int = PAD_TO) -> Pack:
    """The pack with a last segment that nobody predicts from, so that its length is a multiple of
    ``multiple``.

    Packs then come in a few lengths only: kernels are prepared once a shape, and freed memory fits the next
    pack. The segment repeats the pack's last token: the row of token 0 is often zero, and a gradient through
    the length of a zero vector (Gemma 3n's) isn't a number.
    """
    size = len(pack.ids)
    extra = -size % multiple
    if not extra:
        return pack
    return dataclasses.replace(
        pack,
        ids=np.pad(pack.ids, (0, extra), mode="edge"),
        positions=np.concatenate([pack.positions, np.arange(extra, dtype=np.int32)]),
        segments=(*pack.segments, Segment(size, size + extra, 0)),
    )
