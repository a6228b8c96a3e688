"""Lengths to bins: which examples of one optimizer step go into which forward pass.

Packing only arranges the examples of a step; it never changes which examples are in it, so the loss curve
equals the unpacked one.
"""

from __future__ import annotations

from collections.abc import Sequence

from sapwood.pack.prefix import MIN_SHARED, Ids, common_length, num_tokens, shared_forest


def plan_for(
    processes: int,
    sequences: Sequence[Ids],
    length: int,
    *,
    share_prefixes: bool = True,
    most: int | None = None,
) -> list[list[int]]:
    """`plan_packs`, with a pack for each process at least, where the sequences allow it: packs are made
    smaller until there are so many."""
    packs = plan_packs(sequences, length, share_prefixes=share_prefixes, most=most)
    longest = max(map(len, sequences), default=0)
    while len(packs) < min(processes, len(sequences)) and length > longest:
        length = max(longest, length // 2)
        packs = plan_packs(sequences, length, share_prefixes=share_prefixes, most=most)
    return packs


def plan_packs(
    sequences: Sequence[Ids], length: int, *, share_prefixes: bool = True, most: int | None = None
) -> list[list[int]]:
    """Indices of ``sequences``, grouped so that each group computes at most ``length`` tokens, and has at
    most ``most`` members.

    Best fit, longest first; a sequence costs only what it doesn't share with one already in the group. A pure
    function of its arguments. Raises ValueError when one sequence alone is longer than ``length``.
    """
    order = sorted(range(len(sequences)), key=lambda i: (-len(sequences[i]), i))
    packs: list[list[int]] = []
    room: list[int] = []
    for i in order:
        ids = sequences[i]
        if len(ids) > length:
            raise ValueError(f"sequence {i} has {len(ids)} tokens, more than a pack of {length}")
        places: list[tuple[int, int, int]] = []
        for p, members in enumerate(packs):
            if len(members) == most:
                continue
            cost = len(ids) - (_longest_shared(ids, members, sequences) if share_prefixes else 0)
            if cost <= room[p]:
                places.append((cost, room[p], p))
        # the cheapest place; among equals the fullest, which keeps room for longer ones
        for cost, _, p in sorted(places):
            left = room[p] - cost
            if cost < len(ids):  # sharing may cut a run that others share into pieces too short to share
                left = length - num_tokens(shared_forest([sequences[k] for k in (*packs[p], i)]))
            if left >= 0:
                packs[p].append(i)
                room[p] = left
                break
        else:
            packs.append([i])
            room.append(length - len(ids))
    return [sorted(members) for members in packs]


def _longest_shared(ids: Ids, members: Sequence[int], sequences: Sequence[Ids]) -> int:
    """Leading tokens of ``ids`` that a pack holds already: `prefix.shared_forest` shares so many at most."""
    longest = 0
    for member in members:
        common = common_length(ids, sequences[member])
        if common >= MIN_SHARED or common == len(ids) == len(sequences[member]):
            longest = max(longest, common)
    return longest
