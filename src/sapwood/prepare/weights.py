"""How often an epoch sees the rows of each entry of ``data.train``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from sapwood.prepare.examples import Examples
from sapwood.types import Example, RowId


def weighted(
    examples: Sequence[Example], entries: Sequence[str], weights: Sequence[float], seed: int
) -> Sequence[Example]:
    """The examples, each as often as the weight of its entry says: 2 is twice, 2.5 twice and half of the
    rows once more. Which half is a hash of row and seed, so a row that is added moves no other.

    All examples of one row go together. Call this function after the split: copies must not be held out.
    """
    if not weights:
        return examples
    found = Examples.of(examples)
    by_source = [weights[_entry(source, entries)] for source in found.sources]
    times = np.empty(len(found), np.int64)
    for at in range(len(found)):
        weight = by_source[found.source[at]]
        more = weight % 1 and _draw(found.row(at), seed) < weight % 1
        times[at] = int(weight) + more
    return found.take(np.repeat(np.arange(len(found)), times))


def _entry(source: str, entries: Sequence[str]) -> int:
    """The entry that names the file, or the folder or dataset that it came from; the longest of several."""
    fitting = [i for i, entry in enumerate(entries) if source == entry or _below(source, entry)]
    return max(fitting, key=lambda i: len(entries[i]))


def _below(source: str, entry: str) -> bool:
    return source.startswith(entry.rstrip("/") + "/")


def _draw(row: RowId, seed: int) -> float:
    """A number in [0, 1) that depends on the row and the seed alone."""
    key = f"{seed}:{row.source}:{row.index}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:6]) / 2**48
