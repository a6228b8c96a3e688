"""The forest of shared beginnings: right, greedy, and never for a few tokens."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sapwood.pack.prefix import MIN_SHARED, Node, common_length, num_tokens, shared_forest
from tests.pack.forests import forests

Ids = NDArray[np.int32]


def ids(*tokens: int) -> Ids:
    return np.array(tokens, np.int32)


def paths(forest: list[Node], above: tuple[Node, ...] = ()) -> list[tuple[Node, ...]]:
    """Every node with its ancestors, from the root down."""
    found: list[tuple[Node, ...]] = []
    for node in forest:
        found += [(*above, node), *paths(node.children, (*above, node))]
    return found


@settings(max_examples=200, deadline=None)
@given(forests(), st.integers(1, 12))
def test_every_example_is_one_path_of_tokens_that_its_members_agree_on(
    sequences: list[Ids], min_shared: int
) -> None:
    forest = shared_forest(sequences, min_shared)
    covered = [0] * len(sequences)
    for path in paths(forest):
        node = path[-1]
        assert node.start == (path[-2].stop if len(path) > 1 else 0)
        assert node.stop > node.start
        assert len(path) == 1 or set(node.members) <= set(path[-2].members)
        first = sequences[node.members[0]][: node.stop]
        for member in node.members:
            assert (sequences[member][: node.stop] == first).all()
            covered[member] += node.stop - node.start
        whole = {len(sequences[member]) for member in node.members} == {node.stop}
        assert len(node.members) == 1 or node.stop - node.start >= min_shared or whole
    assert covered == [len(s) for s in sequences]
    total = num_tokens(forest)
    assert max(covered) <= total <= sum(covered)
    assert total == num_tokens(shared_forest(sequences[::-1], min_shared))


def test_common_length_counts_equal_leading_tokens() -> None:
    assert common_length(ids(1, 2, 3), ids(1, 2, 4)) == 2
    assert common_length(ids(1, 2), ids(1, 2, 4)) == 2
    assert common_length(ids(1, 2), ids(1, 2)) == 2
    assert common_length(ids(5, 2), ids(1, 2)) == 0
    assert common_length(ids(), ids(1)) == 0


def test_the_tree_of_the_picture() -> None:
    prefix = [7] * MIN_SHARED
    sequences = [ids(*prefix, 1, 1, 1), ids(*prefix, 2, 2), ids(*prefix, 3, 3, 3, 3)]
    (root,) = shared_forest(sequences)
    assert (root.start, root.stop, sorted(root.members)) == (0, 8, [0, 1, 2])
    children = [(child.start, child.stop, child.members) for child in root.children]
    assert children == [(8, 11, [0]), (8, 10, [1]), (8, 12, [2])]
    assert num_tokens([root]) == 8 + 3 + 2 + 4


def test_a_beginning_that_is_too_short_is_not_shared() -> None:
    sequences = [ids(*[7] * (MIN_SHARED - 1), 1), ids(*[7] * (MIN_SHARED - 1), 2)]
    assert [node.members for node in shared_forest(sequences)] == [[0], [1]]


def test_exact_duplicates_share_everything_however_short() -> None:
    (node,) = shared_forest([ids(1, 2), ids(1, 2), ids(1, 2)])
    assert (node.start, node.stop, node.members, node.children) == (0, 2, [0, 1, 2], [])


def test_an_example_that_another_continues_ends_inside_the_tree() -> None:
    turns = [ids(*range(8)), ids(*range(16)), ids(*range(24))]
    (root,) = shared_forest(turns)
    assert (root.stop, root.members) == (8, [0, 1, 2])
    assert (root.children[0].stop, root.children[0].members) == (16, [1, 2])
    assert num_tokens([root]) == 24
