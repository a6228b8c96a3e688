"""A walk through shell text: which programs it starts, with which words. Nothing is run."""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path
from typing import TYPE_CHECKING

from sapwood.migrate.script.source import Block, read_text
from sapwood.migrate.shell.conditions import holds
from sapwood.migrate.shell.expand import text, words
from sapwood.migrate.shell.grammar import STARTS, as_bash, parse
from sapwood.migrate.shell.pages import Pages, find
from sapwood.migrate.shell.words import Names, Started, Word

if TYPE_CHECKING:
    from tree_sitter import Node

MAX_STEPS, MAX_DEPTH = 20_000, 8
_THROUGH = {
    "program", "compound_statement", "do_group", "subshell", "pipeline", "redirected_statement", "ERROR",
}  # fmt: skip
_IDLE = {"echo", "printf", "set", "mkdir", "pip", "pip3", "git", "module", "exit", "shift", "rm"}
Note = tuple[int, str, str, str]
SUPPOSED = ("it isn't known before it runs: read as true", "运行之前不知道结果：按真处理")
SKIPPED = (
    "it depends on what only a run knows: nothing in it is read",
    "取决于运行时才知道的值：其中内容未读",
)


class Shell:
    """One shell. started: in the order of the text. notes: (line, text, en, zh) of what isn't followed."""

    def __init__(self, pages: Pages, names: Names, depth: int = 0) -> None:
        self.pages = pages
        self.names = names
        self.depth = depth
        self.first = 1
        self.steps = 0
        self.started: list[Started] = []
        self.notes: list[Note] = []
        self.functions: dict[str, tuple[Node, int]] = {}
        self.called: set[str] = set()

    def read(self, blocks: list[Block]) -> None:
        for block in blocks:
            self.first = block.first
            self.statement(parse(block.text))
        if not self.started:  # a function that only another file calls
            for name in [name for name in self.functions if name not in self.called]:
                self._call(name, [])

    def statement(self, node: Node) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS:
            return
        do = getattr(self, f"_{node.type}", None)
        if do is not None:
            do(node)
        elif node.type in _THROUGH:
            self._all(node.named_children)

    def _all(self, nodes: list[Node]) -> None:
        for node in nodes:
            self.statement(node)

    def _list(self, node: Node) -> None:
        """A command behind ``||`` runs only after a failure."""
        for child in node.children:
            if child.type == "||":
                return
            if child.is_named:
                self.statement(child)

    # --- variables -----------------------------------------------------------------------------------------

    def _variable_assignment(self, node: Node) -> None:
        name, value = node.child_by_field_name("name"), node.child_by_field_name("value")
        if name is None:
            return
        key = (name.text or b"").decode(errors="replace")
        found = self._assigned(value)
        if any((child.text or b"") == b"+=" for child in node.children):
            before = self.names.values.get(key, [])
            if value is not None and value.type != "array" and before and found:
                found = [
                    Word(before[0].text + found[0].text, before[0].line, before[0].known and found[0].known)
                ]
            else:
                found = [*before, *found]
        self.names.set(key, found)

    def _assigned(self, value: Node | None) -> list[Word]:
        if value is None:
            return [Word("", self.first)]
        if value.type == "array":
            return [word for child in value.named_children for word in words(child, self.names, self.first)]
        return [text(value, self.names, self.first)]

    def _variable_assignments(self, node: Node) -> None:
        self._all(node.named_children)

    def _declaration_command(self, node: Node) -> None:
        exports = (node.children[0].text or b"") == b"export" or b" -x" in (node.text or b"")
        for child in node.named_children:
            if child.type == "variable_assignment":
                self._variable_assignment(child)
            name = child.child_by_field_name("name") or child
            if exports and name.type == "variable_name":
                self.names.exported.add((name.text or b"").decode(errors="replace"))

    # --- blocks --------------------------------------------------------------------------------------------

    def _note(self, node: Node, said: tuple[str, str]) -> None:
        line = self.first + node.start_point.row
        self.notes.append((line, (node.text or b"").decode(errors="replace").split("\n")[0].strip(), *said))

    def _if_statement(self, node: Node) -> None:
        test = node.child_by_field_name("condition")
        answer = holds(test, self.names, self.first) if test is not None else None
        if answer is None and _decides(node):
            self._note(test or node, SUPPOSED)
        body = [c for c in node.named_children if c.type not in ("elif_clause", "else_clause") and c != test]
        if answer is not False:
            self._all(body)
            return
        for clause in (c for c in node.named_children if c.type in ("elif_clause", "else_clause")):
            inner = clause.named_children
            if clause.type == "else_clause":
                self._all(inner)
                return
            found = holds(inner[0], self.names, self.first) if inner else None
            if found is None and _decides(clause):
                self._note(inner[0] if inner else clause, SUPPOSED)
            if found is not False:
                self._all(inner[1:])
                return

    def _case_statement(self, node: Node) -> None:
        subject = node.child_by_field_name("value")
        value = text(subject, self.names, self.first) if subject is not None else Word("", 0, False)
        if not value.known:
            if _decides(node) and not value.text.startswith(("$1", "${1")):
                self._note(node, SKIPPED)
            return
        for item in (child for child in node.named_children if child.type == "case_item"):
            patterns = item.children_by_field_name("value")
            if any(fnmatch.fnmatchcase(value.text, text(p, self.names, self.first).text) for p in patterns):
                self._all([child for child in item.named_children if child not in patterns])
                return

    def _while_statement(self, node: Node) -> None:
        """A loop with a condition, read only if it starts a training: most others read the script's own
        options."""
        body = node.child_by_field_name("body")
        if body is not None and _starts(body):
            self.statement(body)

    def _for_statement(self, node: Node) -> None:
        variable, body = node.child_by_field_name("variable"), node.child_by_field_name("body")
        if variable is None or body is None:
            return
        given = [
            word
            for child in node.named_children
            if child not in (variable, body)
            for word in words(child, self.names, self.first)
        ]
        if len(given) > 1 and _decides(body):
            self._note(node, ("the first round is read, and no other", "只读第一轮循环"))
        self.names.values[(variable.text or b"").decode(errors="replace")] = given[:1] or [
            Word("", self.first, known=False)
        ]
        self.statement(body)

    def _c_style_for_statement(self, node: Node) -> None:
        body = node.child_by_field_name("body")
        if body is not None:
            self.statement(body)

    def _function_definition(self, node: Node) -> None:
        name, body = node.child_by_field_name("name"), node.child_by_field_name("body")
        if name is not None and body is not None:
            self.functions[(name.text or b"").decode(errors="replace")] = body, self.first

    def _call(self, name: str, given: list[Word]) -> None:
        if self.depth >= MAX_DEPTH:
            return
        body, first = self.functions[name]
        outer, self.first, before = self.first, first, self.names.places
        self.called.add(name)
        self.depth, self.names.places = self.depth + 1, given
        self.statement(body)
        self.first, self.depth, self.names.places = outer, self.depth - 1, before

    # --- commands ------------------------------------------------------------------------------------------

    def _command(self, node: Node) -> None:
        environment = self.names.environment()
        found: list[Word] = []
        for child in node.named_children:
            if child.type == "variable_assignment":
                name, value = child.child_by_field_name("name"), child.child_by_field_name("value")
                if name is not None:
                    key = (name.text or b"").decode(errors="replace")
                    environment[key] = self._assigned(value)[0] if self._assigned(value) else Word("", 0)
            elif child.type == "command_name":
                found += [w for part in child.named_children for w in words(part, self.names, self.first)]
            elif not child.type.endswith("redirect"):
                found += words(child, self.names, self.first)
        found = [word for word in found if word.text or word is not found[0]]
        if found:
            self._started(found, self.first + node.start_point.row, environment)

    def _started(self, found: list[Word], line: int, environment: dict[str, Word]) -> None:
        name = found[0].text
        if name in ("eval", "exec", "time") or (
            name in ("bash", "sh") and found[1:2] and found[1].text == "-c"
        ):
            rest = found[2:] if name in ("bash", "sh") else found[1:]
            self._again(" ".join(word.text for word in rest), line)
        elif name in self.functions:
            self._call(name, found[1:])
        elif name in ("cd", "pushd"):
            self._cd(found[1:])
        elif name in ("source", ".", "bash", "sh", "zsh", "sbatch") or name.endswith((".sh", ".bash")):
            self._another(found, line)
        elif name not in _IDLE:
            self.started.append(Started(tuple(found), line, self.names.folder, environment))

    def _again(self, command: str, line: int) -> None:
        if self.depth >= MAX_DEPTH:
            return
        outer, self.first = self.first, line
        self.depth += 1
        self.statement(parse(command.replace("\n", " ")))
        self.first, self.depth = outer, self.depth - 1

    def _cd(self, given: list[Word]) -> None:
        """Change the folder, if the new one exists. After a clone, the present folder may be the repository
        already."""
        if not given or not given[0].known:
            return
        for folder in (self.names.folder, *self.pages.folders()):
            if (folder / given[0].text).is_dir():
                self.names.folder = Path(os.path.normpath(folder / given[0].text))
                return

    def _another(self, found: list[Word], line: int) -> None:
        """A shell script that this one starts."""
        rest = found if found[0].text.endswith((".sh", ".bash")) else found[1:]
        rest = rest[next((i for i, word in enumerate(rest) if not word.text.startswith("-")), len(rest)) :]
        if not rest:
            return
        path = find(rest[0].text, [self.names.folder, *self.pages.folders()])
        if path is None or path == self.names.file or self.depth >= MAX_DEPTH:
            if path is None and rest[0].text.endswith((".sh", ".bash")):
                said = "this shell script isn't here", "这个 shell 脚本不在这里"
                self.notes.append((line, " ".join(word.text for word in found), *said))
            return
        sourced = found[0].text in ("source", ".")
        values = (
            self.names.values
            if sourced
            else {name: self.names.values[name] for name in self.names.exported if name in self.names.values}
        )
        exported = self.names.exported if sourced else set(self.names.exported)
        names = Names(path, self.names.folder, dict(values), exported, rest[1:])
        content = read_text(path)
        before = self.pages.add(path, content.splitlines())
        inner = Shell(self.pages, names, self.depth + 1)
        inner.steps = self.steps
        inner.read([Block(before + 1, as_bash(content, path.suffix), "shell")])
        self.steps = inner.steps
        self.started += inner.started
        self.notes += inner.notes
        if sourced:
            self.names.values = names.values


def _decides(node: Node) -> bool:
    """Whether a node sets a variable, or starts a program that may train."""
    kinds = ("variable_assignment", "declaration_command")
    return _starts(node) or any(_has(child, kinds) for child in node.named_children)


def _has(node: Node, kinds: tuple[str, ...]) -> bool:
    return node.type in kinds or any(_has(child, kinds) for child in node.named_children)


def _starts(node: Node) -> bool:
    """Whether a node starts a program that may train."""
    if node.type == "command":
        source = (node.text or b"").decode(errors="replace")
        return STARTS.search(source) is not None and source.split()[0] not in _IDLE
    return any(_starts(child) for child in node.named_children)
