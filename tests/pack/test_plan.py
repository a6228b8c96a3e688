"""Bins: every example once, no pack too long, the same plan every time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sapwood.pack.build import build_pack
from sapwood.pack.plan import plan_packs
from sapwood.types import Example
from tests.pack.forests import as_examples, forests

Ids = NDArray[np.int32]


def sequence(*runs: tuple[int, int]) -> Ids:
    """``(token, how often)`` runs."""
    return np.concatenate([np.full(number, token, np.int32) for token, number in runs])


def lengths(packs: list[list[int]], examples: list[Example], share: bool) -> list[int]:
    return [len(build_pack([examples[i] for i in pack], share_prefixes=share).ids) for pack in packs]


@settings(max_examples=150, deadline=None)
@given(forests(), st.integers(48, 120), st.booleans())
def test_every_example_is_in_one_pack_and_none_is_too_long(
    sequences: list[Ids], length: int, share: bool
) -> None:
    packs = plan_packs(sequences, length, share_prefixes=share)
    assert sorted(i for pack in packs for i in pack) == list(range(len(sequences)))
    assert all(pack == sorted(pack) for pack in packs)
    assert max(lengths(packs, as_examples(sequences), share)) <= length
    assert plan_packs([ids.copy() for ids in sequences], length, share_prefixes=share) == packs


def test_sharing_that_cuts_another_shared_run_is_counted_in_full() -> None:
    """a and b share 14 tokens; c, which shares 10 with both, leaves them 4 each: too short to share."""
    a = sequence((1, 10), (2, 4), (3, 6))
    b = sequence((1, 10), (2, 4), (4, 6))
    c = sequence((1, 10), (5, 3))
    full = 10 + (4 + 6) * 2 + 3
    assert plan_packs([a, b, c], full) == [[0, 1, 2]]
    assert plan_packs([a, b, c], full - 1) == [[0, 1], [2]]


def test_a_sequence_goes_where_it_shares_most_although_another_pack_has_more_room() -> None:
    first, second = sequence((1, 30), (2, 20)), sequence((3, 30), (4, 10))
    child = sequence((3, 30), (5, 5))
    assert plan_packs([first, second, child], 60) == [[0], [1, 2]]


def test_without_a_shared_beginning_the_fullest_pack_that_has_room_is_taken() -> None:
    sequences = [sequence((token, size)) for token, size in ((1, 50), (2, 40), (3, 15), (4, 4))]
    assert plan_packs(sequences, 60) == [[0], [1, 2, 3]]  # room for the last: 10 beside 0, 5 beside 1 and 2


def test_sharing_makes_fewer_packs() -> None:
    sequences = [sequence((1, 40), (2 + i, 10)) for i in range(6)]
    assert len(plan_packs(sequences, 100)) == 1
    assert len(plan_packs(sequences, 100, share_prefixes=False)) == 3


def test_a_sequence_of_exactly_the_length_fits_and_one_more_token_does_not() -> None:
    assert plan_packs([sequence((1, 32))], 32) == [[0]]
    with pytest.raises(ValueError, match="sequence 1 has 33 tokens, more than a pack of 32"):
        plan_packs([sequence((1, 5)), sequence((1, 33))], 32)


def test_no_sequence_needs_no_pack() -> None:
    assert plan_packs([], 16) == []


def test_a_micro_batch_limits_the_members_of_a_pack() -> None:
    sequences = [sequence((1, 40), (2 + i, 10)) for i in range(7)]
    packs = plan_packs(sequences, 1000, most=3)
    assert [len(pack) for pack in packs] == [3, 3, 1]
    assert sorted(i for pack in packs for i in pack) == list(range(7))
