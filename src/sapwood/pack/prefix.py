"""Which beginnings do examples share? A tree of token runs, each computed once.

    ids of three examples          the tree                     the packed tokens
    S S S S a a a                  [S S S S]─┬─[a a a]          S S S S a a a b b c c c c
    S S S S b b                              ├─[b b]
    S S S S c c c c                          └─[c c c c]

A child starts at the position where its parent ends and attends to itself and to its ancestors, so every
hidden state, and with it loss and gradient, equals that of the example computed alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]

MIN_SHARED = 8  # shorter common beginnings cost more in bookkeeping than they save


@dataclass(slots=True)
class Node:
    """Tokens ``start:stop`` of every example in ``members`` (indices), which agree there."""

    start: int
    stop: int
    members: list[int]
    children: list[Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sorted:
    """Sequences in the order of their tokens, so that equal beginnings stand side by side.

    order: their indices. sizes[k]: tokens of ``order[k]``. shared[k]: leading tokens that it has in common
    with ``order[k - 1]``; the smallest of a range is what the ends of the range have in common.
    """

    order: Sequence[int]
    sizes: Sequence[int]
    shared: Sequence[int]

    @classmethod
    def of(cls, sequences: Sequence[Ids]) -> Sorted:
        keys = [ids.astype(">u4").tobytes() for ids in sequences]  # their order is that of the tokens
        order = sorted(range(len(keys)), key=keys.__getitem__)
        shared = [common_length(sequences[a], sequences[b]) for a, b in itertools.pairwise(order)]
        return cls(order, [len(sequences[i]) for i in order], [0, *shared])

    def common(self, a: int, b: int) -> int:
        """Leading tokens that the sequences at places a <= b have in common."""
        return min(self.shared[a + 1 : b + 1]) if a < b else self.sizes[a]

    def only(self, places: Sequence[int]) -> Sorted:
        """Those at ``places``, which rise."""
        shared = [self.common(a, b) for a, b in itertools.pairwise(places)]
        return Sorted([self.order[k] for k in places], [self.sizes[k] for k in places], [0, *shared])


def common_length(a: Ids, b: Ids) -> int:
    """Number of equal leading tokens."""
    n = min(len(a), len(b))
    differs = a[:n] != b[:n]
    first = int(differs.argmax()) if n else 0
    return first if n and differs[first] else n


def shared_forest(sequences: Sequence[Ids], min_shared: int = MIN_SHARED) -> list[Node]:
    """Trees over ``sequences``; each example is a path from a root to the node where it ends."""
    return forest_of(Sorted.of(sequences), min_shared)


def forest_of(found: Sorted, min_shared: int = MIN_SHARED) -> list[Node]:
    """`shared_forest` of sequences that were compared before."""
    return _grow(found, 0, len(found.order), 0, min_shared)


def _grow(found: Sorted, i: int, stop: int, start: int, min_shared: int) -> list[Node]:
    """Nodes for the places ``i:stop``, whose sequences agree before ``start``."""
    order, sizes, shared = found.order, found.sizes, found.shared
    nodes: list[Node] = []
    while i < stop:
        common = sizes[i]
        j = i + 1
        while j < stop:
            less = min(common, shared[j])
            whole = less == sizes[i] == sizes[j]  # exact duplicates always share
            if less - start < min_shared and not whole:
                break
            common = less
            j += 1
        node = Node(start, common, list(order[i:j]))
        while i < j and sizes[i] == common:  # the shortest stand first: these end here
            i += 1
        if i < j:
            node.children = _grow(found, i, j, common, min_shared)
        nodes.append(node)
        i = j
    return nodes


def num_tokens(forest: Sequence[Node]) -> int:
    """Tokens that the trees compute."""
    return sum(node.stop - node.start + num_tokens(node.children) for node in forest)
