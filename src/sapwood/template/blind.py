"""Does a template look at what messages say, or does it only copy it?

A template that only copies writes the same text around any contents. It is read as a syntax tree, and what
isn't known to be mere copying counts as looking: a wrong "it looks" costs time, a wrong "it copies" would
cost the truth.

What is known: the contents have no blank edges and aren't empty, so that ``trim`` and a test for truth tell
nothing; a message has a role and a content and nothing else.
"""

from __future__ import annotations

from typing import Any, Literal

from jinja2 import nodes

Kind = Literal["list", "message", "content"]

LISTS = {"list", "reverse"}
COUNTS = {"length", "count"}
BY_ROLE = {"selectattr", "rejectattr"}
TYPE_TESTS = {
    "defined",
    "undefined",
    "none",
    "string",
    "mapping",
    "iterable",
    "sequence",
    "number",
    "boolean",
}
REFUSED = (
    nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.Include, nodes.Import, nodes.FromImport,
    nodes.Extends, nodes.Block, nodes.ScopedEvalContextModifier, nodes.OverlayScope, nodes.With,
    nodes.AssignBlock,
)  # fmt: skip


class _Looks(Exception):
    """The template may look at contents, or do with a message what isn't known here."""


def is_blind(tree: nodes.Template) -> bool:
    """True where the template, for given roles, writes the same text around any contents."""
    if next(tree.find_all(REFUSED), None) is not None:
        return False
    reader = _Reader()
    try:
        known = -1
        while known != len(reader.names):  # a name may be read above the line that sets it, in a loop
            known = len(reader.names)
            reader.body(tree.body)
    except _Looks:
        return False
    return True


class _Reader:
    """``names``: what each name of the template may hold, of those that hold something of the messages."""

    def __init__(self) -> None:
        self.names: dict[str, Kind] = {"messages": "list"}

    def body(self, body: list[nodes.Node]) -> None:
        for node in body:
            self.statement(node)

    def statement(self, node: nodes.Node) -> None:
        if isinstance(node, nodes.Output):
            for part in node.nodes:
                if self.kind(part) in ("list", "message"):
                    raise _Looks
        elif isinstance(node, nodes.If):
            self.truth(node.test)
            self.body([*node.body, *node.elif_, *node.else_])
        elif isinstance(node, nodes.For):
            self.loop(node)
        elif isinstance(node, nodes.Assign):
            self.assign(node.target, self.kind(node.node))
        elif isinstance(node, nodes.ExprStmt):
            self.free(node.node)
        else:
            raise _Looks

    def loop(self, node: nodes.For) -> None:
        kind = self.kind(node.iter)
        if node.recursive or kind in ("message", "content"):
            raise _Looks
        self.assign(node.target, "message" if kind == "list" else None)
        if kind == "list":
            self.bind("loop", "list")  # its previtem and nextitem are messages
        if node.test is not None:
            self.truth(node.test)
        self.body([*node.body, *node.else_])

    def assign(self, target: nodes.Node, kind: Kind | None) -> None:
        if kind is None:
            names = target.find_all(nodes.Name)
            if any(name.name in self.names for name in (target, *names) if isinstance(name, nodes.Name)):
                return  # it may still hold the other: that stays the careful answer
        elif isinstance(target, nodes.Name):
            self.bind(target.name, kind)
        else:
            raise _Looks  # into a namespace, or several names at once

    def bind(self, name: str, kind: Kind) -> None:
        if self.names.setdefault(name, kind) != kind:
            raise _Looks

    # --- expressions ----------------------------------------------------------------------------------------

    def kind(self, node: nodes.Node) -> Kind | None:
        """What of the messages the expression gives; None for nothing. Raises _Looks."""
        if isinstance(node, nodes.Name):
            return self.names.get(node.name)
        if isinstance(node, nodes.Getattr | nodes.Getitem):
            return self._member(node)
        if isinstance(node, nodes.Filter):
            return self._filter(node)
        if isinstance(node, nodes.Add | nodes.Concat):
            parts = node.nodes if isinstance(node, nodes.Concat) else [node.left, node.right]
            return self._joined(parts)
        if isinstance(node, nodes.CondExpr):
            self.truth(node.test)
            return self._joined([node.expr1, *([node.expr2] if node.expr2 is not None else [])])
        if isinstance(node, nodes.Test):
            self._test(node)
            return None
        if isinstance(node, nodes.Not):
            self.truth(node)
            return None
        self.free(node)
        return None

    def truth(self, node: nodes.Node) -> None:
        """An expression of which only its truth counts: that of a content is known."""
        if isinstance(node, nodes.And | nodes.Or):
            self.truth(node.left)
            self.truth(node.right)
        elif isinstance(node, nodes.Not):
            self.truth(node.node)
        else:
            self.kind(node)

    def free(self, node: nodes.Node) -> None:
        """All parts of the expression must give nothing of the messages."""
        for child in node.iter_child_nodes():
            if self.kind(child) is not None:
                raise _Looks

    def _joined(self, parts: list[Any]) -> Kind | None:
        kinds = {self.kind(part) for part in parts}
        if kinds & {"list", "message"}:
            raise _Looks
        return "content" if "content" in kinds else None

    def _member(self, node: nodes.Getattr | nodes.Getitem) -> Kind | None:
        owner = self.kind(node.node)
        if owner is None:
            if isinstance(node, nodes.Getitem):
                self.free(node)
            return None
        if owner == "content":
            raise _Looks
        if isinstance(node, nodes.Getattr):
            return self._attribute(owner, node.attr)
        if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            return self._attribute(owner, node.arg.value)
        if owner == "message" or self.names.get(getattr(node.node, "name", "")) != "list":
            raise _Looks
        if self.kind(node.arg) is not None:
            raise _Looks
        return "list" if isinstance(node.arg, nodes.Slice) else "message"

    def _attribute(self, owner: Kind, name: str) -> Kind | None:
        if owner == "list":
            if name in ("previtem", "nextitem"):
                return "message"
            if name in ("first", "last", "index", "index0", "revindex", "revindex0", "length"):
                return None
            raise _Looks
        if name == "content":
            return "content"
        if name in ("items", "values", "get", "copy"):  # its methods hand the content out
            raise _Looks
        return None

    def _filter(self, node: nodes.Filter) -> Kind | None:
        if node.node is None:
            raise _Looks
        owner = self.kind(node.node)
        if owner is None:
            self.free(node)
            return None
        plain = not (node.args or node.kwargs or node.dyn_args or node.dyn_kwargs)
        if owner == "content" and node.name == "trim" and plain:
            return "content"
        if owner == "list":
            if node.name in LISTS and plain:
                return "list"
            if node.name in ("first", "last") and plain:
                return "message"
            if node.name in COUNTS and plain:
                return None
            first = node.args[0] if node.args else None
            if node.name in BY_ROLE and isinstance(first, nodes.Const) and first.value == "role":
                return "list"
        raise _Looks

    def _test(self, node: nodes.Test) -> None:
        if self.kind(node.node) is not None and node.name not in TYPE_TESTS:
            raise _Looks
        for argument in node.args:
            if self.kind(argument) is not None:
                raise _Looks
