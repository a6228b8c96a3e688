"""Prepared examples come back from their file exactly, or are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from sapwood.errors import StorageError
from sapwood.prepare import cache
from sapwood.prepare.cache import open_entry, pack_entry, pack_examples, unpack_examples
from sapwood.prepare.examples import Examples
from sapwood.types import Example, RowId

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ROWS = st.builds(RowId, NAMES, st.integers(0, 2**40), st.none() | st.integers(1, 2**40))
TOKENS = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), min_size=1, max_size=20)


def example(row: RowId, tokens: list[tuple[int, bool]]) -> Example:
    ids, trained = zip(*tokens, strict=True)
    return Example(row, np.array(ids, np.int32), np.array(trained, np.bool_))


def same(a: Example, b: Example) -> bool:
    assert a.ids.dtype == np.int32 and a.trained.dtype == np.bool_
    return a.row == b.row and a.ids.tolist() == b.ids.tolist() and a.trained.tolist() == b.trained.tolist()


SOME = [
    example(RowId("b.jsonl", 0, 1), [(5, False), (6, True)]),
    example(RowId("a.json", 7), [(1, False), (2, False), (3, True)]),
    example(RowId("b.jsonl", 1, 2), [(9, True)]),
]


@settings(max_examples=60, deadline=None)
@given(examples=st.lists(st.builds(example, ROWS, TOKENS), max_size=8))
def test_examples_come_back_exactly(examples: list[Example]) -> None:
    content = pack_examples(examples)
    assert content == pack_examples(examples)
    found = unpack_examples(content, Path("examples"))
    assert len(found) == len(examples)
    assert all(same(a, b) for a, b in zip(found, examples, strict=True))


def refuse(content: bytes) -> None:
    with pytest.raises(StorageError, match="prepared data can't be read") as caught:
        unpack_examples(content, Path("data/train"))
    assert caught.value.problems[0].where == "data/train"
    assert caught.value.problems[0].mend == "start the run anew"


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_a_cut_file_is_refused(keep: int) -> None:
    refuse(pack_examples(SOME)[:keep])


@pytest.mark.parametrize("name", ["ids", "trained", "length", "source", "index", "line"])
def test_a_file_of_something_else_is_refused(name: str) -> None:
    tensors = load(pack_examples(SOME))
    del tensors[name]
    refuse(save(tensors, metadata={"sources": json.dumps(["a.json", "b.jsonl"])}))


def test_a_file_without_its_sources_is_refused() -> None:
    tensors = load(pack_examples(SOME))
    refuse(save(tensors))
    refuse(save(tensors, metadata={"sources": "[]"}))


# --- entries: facts and several lists, verified by their own hash -------------------------------------------


def opened(path: Path) -> tuple[dict[str, Any], list[Examples]]:
    with path.open("rb") as file:
        return open_entry(file)


def test_an_entry_comes_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "entry"
    path.write_bytes(b"".join(pack_entry({"n": [1, "é"]}, [SOME, [], SOME[:1]])))
    facts, parts = opened(path)
    assert facts == {"n": [1, "é"]}
    assert [len(part) for part in parts] == [3, 0, 1]
    assert all(same(a, b) for a, b in zip([*SOME, SOME[0]], [*parts[0], *parts[2]], strict=True))


def test_an_entry_is_hashed_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "PIECE", 100)
    test_an_entry_comes_back_exactly(tmp_path)


def test_every_flipped_bit_and_every_cut_of_an_entry_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "entry"
    content = b"".join(pack_entry({"n": 1}, [SOME[:1]]))
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="hash"):
            opened(path)
    for size in (0, 31, 39, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"hash|cut short"):
            opened(path)
