"""Examples as arrays are the same examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sapwood.prepare import examples as module
from sapwood.prepare.cache import pack_examples, unpack_examples
from sapwood.prepare.examples import Examples
from sapwood.types import Example, RowId

ROWS = [RowId("b", 3, 7), RowId("a", 0), RowId("b", 4, 9), RowId("c", 1, 1)]
SOME = [
    Example(row, np.arange(size, dtype=np.int32), np.arange(size) > 1)
    for row, size in zip(ROWS, (3, 5, 1, 8), strict=True)
]


def told(examples):
    return [(one.row, one.ids.tolist(), one.trained.tolist()) for one in examples]


def test_they_are_a_sequence() -> None:
    found = Examples.of(SOME)
    assert told(found) == told(SOME)
    assert told([found[-1], found[0]]) == told([SOME[-1], SOME[0]])
    assert told(found[1:3]) == told(SOME[1:3])
    assert told(found[1:][1:]) == told(SOME[2:])
    assert told(found[::-2]) == told(SOME[::-2])
    assert told(found[3:1]) == []
    assert Examples.of(found) is found
    with pytest.raises(IndexError):
        found[4]


def test_weights_go_where_their_examples_go() -> None:
    own = np.array([1, 1, 0.5, 0.5, 2], np.float32)
    some = [SOME[0], replace(SOME[1], weights=own), *SOME[2:]]
    found = Examples.of(some)

    def weights(examples: Sequence[Example]) -> list[list[float] | None]:
        return [None if one.weights is None else one.weights.tolist() for one in examples]

    wanted = [[1] * 3, own.tolist(), [1], [1] * 8]
    assert weights(found) == wanted
    assert weights(found[1:3]) == wanted[1:3]
    assert weights(found.take(np.array([3, 1, 1]))) == [wanted[3], wanted[1], wanted[1]]
    growing = module.Growing()
    for part in (Examples.of(SOME[:1]), Examples.of(some[1:2]), Examples.of(SOME[2:])):
        growing.add(part)
    grown = growing.finish()
    assert weights(grown) == wanted
    assert grown.digest() == found.digest() != Examples.of(SOME).digest()
    again = unpack_examples(pack_examples(some), Path("train"))
    assert weights(again) == wanted
    assert [one.weight for one in again] == [1, 0.5 + 0.5 + 2, 0, 6]


def test_examples_without_weights_are_stored_as_before() -> None:
    assert "weights" not in Examples.of(SOME).tensors()
    assert [one.weights for one in unpack_examples(pack_examples(SOME), Path("train"))] == [None] * 4


def test_weights_of_another_length_are_damage() -> None:
    tensors = Examples.of([replace(SOME[1], weights=np.ones(5, np.float32))]).tensors()
    with pytest.raises(ValueError, match="weights"):
        Examples.from_tensors(tensors | {"weights": np.ones(4, np.float32)}, ["a"])
    with pytest.raises(ValueError, match="weights"):
        Examples.from_tensors(tensors | {"weights": np.full(5, np.nan, np.float32)}, ["a"])


def test_they_are_counted_without_being_made() -> None:
    found = Examples.of(SOME)[1:]
    assert found.lengths.tolist() == [5, 1, 8]
    assert (found.num_tokens, found.num_targets) == (14, 3 + 0 + 6)


@pytest.mark.parametrize("places", [[], [2], [3, 0, 0, 2, 1, 1]])
def test_any_of_them_can_be_taken(places: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COPIED", 2)
    found = Examples.of(SOME).take(np.array(places, np.int64))
    assert told(found) == told([SOME[i] for i in places])


def test_the_digest_is_that_of_the_examples() -> None:
    found = Examples.of(SOME)
    assert found.digest() == Examples.of(SOME).digest() == found.take(np.arange(4)).digest()
    others = [Examples.of(SOME[:3]), Examples.of([*SOME[:3], Example(ROWS[3], SOME[3].ids, SOME[3].ids > 5)])]
    others.append(Examples.of([*SOME[:3], Example(ROWS[0], SOME[3].ids, SOME[3].trained)]))
    assert len({found.digest(), *(one.digest() for one in others)}) == 4


def test_batches_come_together_in_their_order() -> None:
    growing = module.Growing()
    for part in (Examples.of([SOME[1], SOME[2]]), Examples.of([]), Examples.of([*SOME, SOME[0]])[1:]):
        growing.add(part)
    assert growing.count == 6
    found = growing.finish()
    assert told(found) == told([SOME[i] for i in (1, 2, 1, 2, 3, 0)])
    assert found.sources == ["a", "b", "c"], "in the order in which they came"


def test_none_at_all() -> None:
    found = Examples.of([])
    assert (len(found), found.num_tokens, told(found)) == (0, 0, [])
