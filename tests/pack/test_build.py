"""A pack holds every token of every example, and exactly the predictions that the examples ask for."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sapwood.compute.batch import to_batch
from sapwood.errors import DataError
from sapwood.pack.build import build_pack
from sapwood.types import Example, Pack, RowId
from tests.pack.forests import as_examples, forests

Ids = NDArray[np.int32]


def context(pack: Pack, place: int) -> tuple[int, ...]:
    """The tokens that the hidden state at ``place`` has seen, its own last."""
    index = next(i for i, s in enumerate(pack.segments) if s.start <= place < s.stop)
    seen = pack.ids[pack.segments[index].start : place + 1].tolist()
    parent = pack.segments[index].parent
    while parent is not None:
        segment = pack.segments[parent]
        seen = pack.ids[segment.start : segment.stop].tolist() + seen
        parent = segment.parent
    return tuple(seen)


def asked(examples: list[Example]) -> Counter[tuple[tuple[int, ...], int]]:
    """(tokens before, token to be learnt) of every trained token of the examples by themselves."""
    return Counter(
        (tuple(example.ids[:at].tolist()), int(example.ids[at]))
        for example in examples
        for at in np.flatnonzero(example.trained)
    )


@settings(max_examples=150, deadline=None)
@given(forests(), st.booleans())
def test_predictions_are_exactly_those_of_the_examples_alone(sequences: list[Ids], share: bool) -> None:
    examples = as_examples(sequences)
    pack = build_pack(examples, share_prefixes=share)
    found = Counter(
        (context(pack, int(place)), int(target))
        for place, target in zip(pack.predict_at, pack.targets, strict=True)
    )
    assert found == asked(examples)
    assert len(pack.targets) == sum(example.num_targets for example in examples)
    assert pack.rows == tuple(example.row for example in examples)


@settings(max_examples=150, deadline=None)
@given(forests(), st.booleans())
def test_every_token_of_every_example_is_in_exactly_one_place(sequences: list[Ids], share: bool) -> None:
    pack = build_pack(as_examples(sequences), share_prefixes=share)
    assert [s.start for s in pack.segments] == [0, *[s.stop for s in pack.segments[:-1]]]
    assert pack.segments[-1].stop == len(pack.ids) == len(pack.positions)
    places = Counter(context(pack, place) for place in range(len(pack.ids)))
    for place in range(len(pack.ids)):
        assert pack.positions[place] == len(context(pack, place)) - 1
    wanted = Counter(tuple(ids[: n + 1].tolist()) for ids in sequences for n in range(len(ids)))
    assert places.keys() == wanted.keys()
    if share:
        assert all(places[key] <= wanted[key] for key in wanted)
    else:
        assert places == wanted
        assert all(s.parent is None and s.position == 0 for s in pack.segments)


def test_one_prompt_position_predicts_the_first_token_of_several_answers() -> None:
    prompt = list(range(10, 20))
    examples = [
        Example(RowId("rows", i), np.array([*prompt, first], np.int32), np.arange(11) == 10)
        for i, first in enumerate((1, 2, 3))
    ]
    pack = build_pack(examples)
    assert pack.predict_at.tolist() == [9, 9, 9]
    assert pack.targets.tolist() == [1, 2, 3]
    assert len(pack.ids) == 13


def test_dtypes_and_the_batch_as_tensors() -> None:
    pack = build_pack(as_examples([np.arange(1, 13, dtype=np.int32), np.arange(1, 10, dtype=np.int32)]))
    for array in (pack.ids, pack.positions, pack.predict_at, pack.targets):
        assert array.dtype == np.int32
    batch = to_batch(pack)
    assert batch.ids.dtype == batch.positions.dtype == batch.predict_at.dtype == torch.int64
    size = len(pack.ids)
    assert batch.ids.shape == batch.positions.shape
    assert batch.ids[0, :size].tolist() == pack.ids.tolist()
    assert batch.positions[0, :size].tolist() == pack.positions.tolist()
    assert batch.predict_at.tolist() == pack.predict_at.tolist()
    assert batch.targets.tolist() == pack.targets.tolist()
    assert batch.attention.segments[: len(pack.segments)] == pack.segments
    assert batch.rows == pack.rows


def test_a_first_token_that_is_to_be_learnt_is_refused_by_row() -> None:
    """Its place before would be the last token of the example."""
    example = Example(RowId("rows.jsonl", 4, 5), np.array([1, 2], np.int32), np.array([True, True]))
    with pytest.raises(DataError, match=r"first token would be trained · rows\.jsonl:5"):
        build_pack([example])
