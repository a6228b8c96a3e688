"""Which beginnings do examples share? A tree of token runs, each computed once.

    ids of three examples          the tree                     the packed tokens
    S S S S a a a                  [S S S S]─┬─[a a a]          S S S S a a a b b c c c c
    S S S S b b                              ├─[b b]
    S S S S c c c c                          └─[c c c c]

A child starts at the position where its parent ends and attends to itself and to its ancestors, so every
hidden state, and with it loss and gradient, equals that of the example computed alone.
"""

from __future__ import annotations

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


def common_length(a: Ids, b: Ids) -> int:
    """Number of equal leading tokens."""
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if len(differs) else n


def shared_forest(sequences: Sequence[Ids], min_shared: int = MIN_SHARED) -> list[Node]:
    """Trees over ``sequences``; each example is a path from a root to the node where it ends.

    Sorting brings equal beginnings together, so neighbours tell everything.
    """
    order = sorted(range(len(sequences)), key=lambda i: sequences[i].tolist())
    return _grow(sequences, order, 0, min_shared)


def _grow(sequences: Sequence[Ids], order: Sequence[int], start: int, min_shared: int) -> list[Node]:
    """Nodes for the sorted examples ``order``, which already agree before ``start``."""
    nodes: list[Node] = []
    i = 0
    while i < len(order):
        first = sequences[order[i]]
        shared = len(first)
        j = i + 1
        while j < len(order):
            common = common_length(first, sequences[order[j]])
            whole = common == len(first) == len(sequences[order[j]])  # exact duplicates always share
            if common - start < min_shared and not whole:
                break
            shared = min(shared, common)
            j += 1
        node = Node(start, shared, list(order[i:j]))
        rest = [k for k in node.members if len(sequences[k]) > shared]
        if rest:
            node.children = _grow(sequences, rest, shared, min_shared)
        nodes.append(node)
        i = j
    return nodes


def num_tokens(forest: Sequence[Node]) -> int:
    """Tokens that the trees compute."""
    return sum(node.stop - node.start + num_tokens(node.children) for node in forest)
