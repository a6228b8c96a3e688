"""Lengths to bins: which examples of one optimizer step go into which forward pass.

Packing only arranges the examples of a step; it never changes which examples are in it, so the loss curve
equals the unpacked one.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from sapwood.pack.prefix import MIN_SHARED, Ids, Sorted, forest_of, num_tokens

EVEN = 16  # tokens: a few products' worth
FEW = 8  # packs: of more, the last one matters less than the time to plan


def plan_for(
    processes: int,
    sequences: Sequence[Ids],
    length: int,
    *,
    share_prefixes: bool = True,
    most: int | None = None,
) -> list[list[int]]:
    """`even_packs`, with a pack for each process at least, if the sequences allow it: packs are made
    smaller until there are so many."""
    packs = even_packs(sequences, length, share_prefixes=share_prefixes, most=most)
    longest = max(map(len, sequences), default=0)
    while len(packs) < min(processes, len(sequences)) and length > longest:
        length = max(longest, length // 2)
        packs = even_packs(sequences, length, share_prefixes=share_prefixes, most=most)
    return packs


def even_packs(
    sequences: Sequence[Ids], length: int, *, share_prefixes: bool = True, most: int | None = None
) -> list[list[int]]:
    """`plan_packs` with the smallest length, to `EVEN` tokens, that makes no more packs: as even as they
    come, and the largest as small. A pure function of its arguments."""
    packs = plan_packs(sequences, length, share_prefixes=share_prefixes, most=most)
    low, high = (
        max(map(len, sequences), default=0),
        length,
    )  # the first may make more packs, the other doesn't
    while 1 < len(packs) <= FEW and high - low > EVEN:
        middle = (low + high) // 2
        found = plan_packs(sequences, middle, share_prefixes=share_prefixes, most=most)
        if len(found) > len(packs):
            low = middle
        else:
            high, packs = middle, found
    return packs


def plan_packs(
    sequences: Sequence[Ids], length: int, *, share_prefixes: bool = True, most: int | None = None
) -> list[list[int]]:
    """Indices of ``sequences``, grouped so that each group computes at most ``length`` tokens, and has at
    most ``most`` members.

    All in one if they fit; else best fit, longest first: a sequence costs only what it doesn't share
    with one already in the group. A pure function of its arguments. Raises ValueError when one sequence alone
    is longer than ``length``.
    """
    found = Sorted.of(sequences) if share_prefixes else None
    if sequences and len(sequences) <= (most or len(sequences)):
        whole = num_tokens(forest_of(found)) if found is not None else sum(map(len, sequences))
        if whole <= length:
            return [list(range(len(sequences)))]
    order = sorted(range(len(sequences)), key=lambda i: (-len(sequences[i]), i))
    place = {i: k for k, i in enumerate(found.order)} if found is not None else {}
    packs: list[list[int]] = []
    room: list[int] = []
    inside: list[list[int]] = []  # the places of each pack's members, rising
    for i in order:
        size = len(sequences[i])
        if size > length:
            raise ValueError(f"sequence {i} has {size} tokens, more than a pack of {length}")
        places: list[tuple[int, int, int]] = []
        for p, members in enumerate(packs):
            if len(members) == most:
                continue
            cost = size - (_longest_shared(found, place[i], inside[p]) if found is not None else 0)
            if cost <= room[p]:
                places.append((cost, room[p], p))
        # the cheapest place; among equals the fullest, which keeps room for longer ones
        for cost, _, p in sorted(places):
            left = room[p] - cost
            if found is not None and cost < size:
                # sharing may cut a run that others share into pieces too short to share
                left = length - num_tokens(forest_of(found.only(sorted([*inside[p], place[i]]))))
            if left >= 0:
                packs[p].append(i)
                room[p] = left
                break
        else:
            p = len(packs)
            packs.append([i])
            inside.append([])
            room.append(length - size)
        if found is not None:
            bisect.insort(inside[p], place[i])
    return [sorted(members) for members in packs]


def _longest_shared(found: Sorted, at: int, members: Sequence[int]) -> int:
    """Leading tokens of the sequence at place ``at`` that a pack holds already: the forest shares so many at
    most. The neighbours among the pack's places have most in common with it."""
    longest = 0
    right = bisect.bisect(members, at)
    for k in (right - 1, right):
        if 0 <= k < len(members):
            common = found.common(min(members[k], at), max(members[k], at))
            if common >= MIN_SHARED or common == found.sizes[at] == found.sizes[members[k]]:
                longest = max(longest, common)
    return longest
