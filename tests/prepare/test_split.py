"""What is held out, what repeats, what contradicts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.config.sections import DataConfig
from sapwood.data.formats import read_conversations
from sapwood.errors import DataError
from sapwood.prepare.split import RowHashes, split_eval
from sapwood.types import Conversation, Message, RowId

HUANHUAN = Path(__file__).parents[2] / "../shared/data/huanhuan.json"


def make(*pairs: tuple[str, str]) -> list[Conversation]:
    return [
        Conversation(
            RowId("rows.jsonl", index, index + 1), (Message("user", prompt), Message("assistant", answer))
        )
        for index, (prompt, answer) in enumerate(pairs)
    ]


def distinct(count: int) -> list[Conversation]:
    return make(*((f"q{index}", "a") for index in range(count)))


def prompts(conversations: list[Conversation]) -> set[str]:
    return {conversation.messages[0].content for conversation in conversations}


@pytest.mark.parametrize(
    ("rows", "eval", "held"),
    [(100, 0.05, 5), (100, 7, 7), (100, 1.0, 1), (3, 0.05, 1), (2, 0.5, 1), (7, 0, 0)],
)
def test_fraction_or_count_is_held_out(rows: int, eval: float, held: int) -> None:
    train, test = split_eval(distinct(rows), eval, seed=0)
    assert (len(train), len(test)) == (rows - held, held)


def test_each_side_keeps_the_order_of_the_file() -> None:
    for side in split_eval(distinct(50), 0.3, seed=3):
        assert [c.row.index for c in side] == sorted(c.row.index for c in side)


def test_split_depends_on_content_and_seed_alone() -> None:
    rows = distinct(60)
    held = prompts(split_eval(rows, 0.2, seed=1)[1])
    assert prompts(split_eval(rows, 0.2, seed=1)[1]) == held
    shuffled = random.Random(0).sample(rows, len(rows))
    assert prompts(split_eval(shuffled, 0.2, seed=1)[1]) == held
    assert prompts(split_eval(rows, 0.2, seed=2)[1]) != held


def test_one_more_row_moves_few_others() -> None:
    before = prompts(split_eval(distinct(200), 20, seed=0)[1])
    after = prompts(split_eval(distinct(201), 20, seed=0)[1])
    assert len(before & after) >= 19


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("xy")), min_size=2, max_size=40),
    st.integers(0, 9),
)
@settings(max_examples=200, deadline=None)
def test_one_prompt_is_never_on_both_sides(pairs: list[tuple[str, str]], seed: int) -> None:
    rows = make(*pairs)
    try:
        train, test = split_eval(rows, 0.3, seed)
    except DataError:
        smallest = min(sum(p == q for q, _ in pairs) for p, _ in pairs)
        assert smallest > max(1, round(0.3 * len(rows))) or max(1, round(0.3 * len(rows))) >= len(rows)
        return
    assert not prompts(train) & prompts(test)
    assert sorted([*train, *test], key=lambda c: c.row.index) == rows
    assert 1 <= len(test) <= max(1, round(0.3 * len(rows)))


@pytest.mark.parametrize(("rows", "eval"), [(10, 10), (10, 11), (1, 0.05), (0, 0.05), (10, 0.97)])
def test_split_that_leaves_nothing_to_train_is_refused_with_the_numbers(rows: int, eval: float) -> None:
    with pytest.raises(DataError, match=rf"of {rows} rows? would be held out"):
        split_eval(distinct(rows), eval, seed=0)


def test_split_that_no_group_fits_is_refused_with_the_numbers() -> None:
    with pytest.raises(
        DataError, match=r"can't hold out 2 rows .* smallest such group has 3 of 6 .* hold out 3 or more"
    ):
        split_eval(make(*[("p", "a")] * 3, *[("q", "a")] * 3), 2, seed=0)
    with pytest.raises(DataError, match="to 0 or to another file"):
        split_eval(make(*[("p", "a")] * 6), 2, seed=0)


@pytest.mark.parametrize("eval", [-1, 2.5, float("nan"), float("inf")])
def test_impossible_amounts_are_faults_of_the_caller(eval: float) -> None:
    with pytest.raises(ValueError, match="neither a fraction"):
        split_eval(distinct(9), eval, seed=0)


def test_duplicates_are_grouped() -> None:
    rows = make(("a", "x"), ("b", "x"), ("a", "x"), ("a", "y"), ("b", "x"), ("a", "x"))
    groups = [[row.index for row in group] for group in RowHashes.of(rows).duplicates()]
    assert groups == [[0, 2, 5], [1, 4]]


def test_contradictions_name_the_first_row_of_each_answer() -> None:
    rows = make(("b", "x"), ("a", "x"), ("a", "y"), ("a", "x"), ("b", "x"), ("a", "z"))
    assert [[row.index for row in group] for group in RowHashes.of(rows).contradictions()] == [[1, 2, 5]]


def test_tools_reasoning_and_roles_tell_rows_apart() -> None:
    row = RowId("rows.jsonl", 0)
    user, answer = Message("user", "q"), Message("assistant", "a")
    rows = [
        Conversation(row, (user, answer)),
        Conversation(row, (Message("system", "q"), user, answer)),
        Conversation(row, (user, answer), ({"name": "f"},)),
        Conversation(row, (user, Message("assistant", "a", "because"))),
        Conversation(row, (user, Message("assistant", "a", tool_calls=({"name": "f"},)))),
    ]
    assert RowHashes.of(rows).duplicates() == []
    changed = Conversation(row, (user, Message("assistant", "a", trained=True)))
    assert RowHashes.of([rows[0], changed]).duplicates() != []


@pytest.mark.skipif(not HUANHUAN.is_file(), reason="shared/data/huanhuan.json is not on this machine")
def test_a_real_file_has_its_known_duplicates() -> None:
    rows = list(read_conversations(DataConfig(train=("huanhuan.json",)), root=HUANHUAN.parent))
    assert sum(len(group) - 1 for group in RowHashes.of(rows).duplicates()) == 112
    assert len(prompts(rows)) == 3491
    train, test = split_eval(rows, 0.05, seed=0)
    assert (len(train), len(test)) == (3543, 186)
    assert not prompts(train) & prompts(test)
