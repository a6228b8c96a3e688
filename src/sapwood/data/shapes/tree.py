"""Open Assistant's rows: a tree of messages, in which people replied to one prompt in several ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

MAX_PATHS = 10_000  # of one tree

Node = Mapping[str, Any]


def unfold_tree(value: Node, every: bool) -> list[dict[str, Any]]:
    """The paths of a tree, from its prompt to an answer behind which there is none, as rows of turns:
    ``every`` one, or the one of the best-ranked replies."""
    root = value.get("prompt")
    paths = list(_paths(cast(Node, root), every)) if isinstance(root, dict) else []
    return [{"messages": path} for path in paths] or [{"messages": []}]


def _paths(root: Node, every: bool) -> Iterator[list[dict[str, Any]]]:
    """Depth first, the best reply first."""
    waiting: list[tuple[Node, list[dict[str, Any]]]] = [(root, [])]
    given = 0
    while waiting and given < MAX_PATHS:
        node, before = waiting.pop()
        path = [*before, {"role": node.get("role"), "content": node.get("text")}]
        replies = _replies(node)[: None if every else 1]
        if node.get("role") == "assistant":
            replies = [reply for reply in replies if _replies(reply)]
            if not replies:
                given += 1
                yield path
        waiting += [(reply, path) for reply in reversed(replies)]


def _replies(node: Node) -> list[Node]:
    """Those that weren't deleted, the best first: rank 0 is the best, one without a rank comes last."""
    found = node.get("replies")
    items = cast(list[Any], found) if isinstance(found, list) else []
    kept = [cast(Node, one) for one in items if isinstance(one, dict) and not one.get("deleted")]
    return sorted(kept, key=_rank)


def _rank(node: Node) -> float:
    rank = node.get("rank")
    return float(rank) if isinstance(rank, int | float) else float("inf")
