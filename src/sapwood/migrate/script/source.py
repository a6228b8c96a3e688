"""A file as lines, the Python in it, and everything else; each line keeps the name that a person knows it by.

Fences of Markdown, cells of notebooks; magics and ``pip`` lines are left out. Nothing is run.
"""

from __future__ import annotations

import ast
import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sapwood.errors import DataError

MAX_BYTES = 64 << 20  # notebooks hold pictures
REPAIRS = 50  # places in one block that may fail to parse before the block is given up
_FENCE = re.compile(r"^(?P<indent>[ \t>]*)(?P<fence>`{3,}|~{3,})[ \t]*\{?\.?(?P<language>[\w+#-]*)")
_PYTHON = {"python", "py", "python3", "ipython", "ipython3", "pycon"}
_SHELL = {"bash", "sh", "shell", "console", "cmd", "zsh", "powershell"}
_LEFT_OUT = re.compile(r"^\s*(?:[%!?]|(?:python3? -m )?(?:pip3?|conda|apt(?:-get)?|git|cd|wget|curl) [\w.-])")
_CALLS = re.compile(r"^\s*(?:import|from|def|class|for|if|with)\b|[\w\])]\s*[=(]", re.MULTILINE)
_PROMPT = re.compile(r"^\s*(?:>>> ?|\.\.\. ?)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """Lines that belong together. first: 1-based number of the first; language: as the fence says it."""

    first: int
    text: str
    language: str


@dataclass(slots=True)
class Source:
    """lines: all of the file; labels: what a person calls each. code: its Python; shown: other fences;
    prose: the lines outside of both. trees: the Python, parsed. skipped: (line, why) of what isn't Python."""

    path: str
    lines: list[str]
    labels: list[str]
    code: list[Block] = field(default_factory=list[Block])
    shown: list[Block] = field(default_factory=list[Block])
    prose: list[int] = field(default_factory=list[int])
    trees: list[ast.Module] = field(default_factory=list[ast.Module])
    skipped: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])

    def place(self, line: int, *, zh: bool = False) -> str:
        """``line 12``, or ``cell 3 line 2``."""
        label = self.labels[line - 1] if 0 < line <= len(self.labels) else ""
        if not zh:
            return label
        return re.sub(r"\bline (\d+)$", r"第 \1 行", re.sub(r"\bcell (\d+)(?= line)", r"单元格 \1", label))

    def text(self, line: int) -> str:
        return self.lines[line - 1] if 0 < line <= len(self.lines) else ""


def read_text(path: Path) -> str:
    """Raises DataError."""
    try:
        if path.exists() and not path.is_file():
            raise DataError("no file", str(path), "it is a pipe, a device or a folder", "name a file")
        if path.stat().st_size > MAX_BYTES:
            raise DataError("the file is too large", str(path), f"more than {MAX_BYTES:,} bytes")
        return _decoded(path.read_bytes())
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise DataError("the file can't be read", str(path), why, "name a file that is there") from None


def _decoded(data: bytes) -> str:
    """UTF-8, UTF-16 by its mark, else GB18030, which editors of a Chinese Windows write."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("utf-8", errors="replace")


def read_source(path: Path) -> Source:
    """Raises DataError if the file can't be read."""
    text = read_text(path)
    if path.suffix == ".ipynb":
        source = _notebook(path, text)
    else:
        lines = text.splitlines()
        source = Source(str(path), lines, [f"line {i + 1}" for i in range(len(lines))])
        if path.suffix in (".py", ".pyw") or not (path.suffix == ".md" or _fenced(lines)):
            source.code.append(Block(1, text, "python"))
        else:
            _split(source, 1, lines)
    for block in source.code:
        _parse(source, block)
    return source


def _fenced(lines: Sequence[str]) -> bool:
    return any(_FENCE.match(line) for line in lines)


def _notebook(path: Path, text: str) -> Source:
    try:
        tree: Any = json.loads(text)
        cells: list[Any] = tree["cells"] if "cells" in tree else tree["worksheets"][0]["cells"]
        pieces = [(str(c["cell_type"]), "".join(c["source"] if "source" in c else c["input"])) for c in cells]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise DataError("not a notebook", str(path), "it holds no cells", "save it as .ipynb again") from None
    source = Source(str(path), [], [])
    for i, (kind, body) in enumerate(pieces):
        first, lines = len(source.lines) + 1, body.splitlines() or [""]
        source.lines += lines
        source.labels += [f"cell {i + 1} line {j + 1}" for j in range(len(lines))]
        if kind == "markdown":
            _split(source, first, lines)
        elif kind == "code":
            language = "shell" if lines[0].startswith(("%%bash", "%%sh", "%%script")) else "python"
            (source.code if language == "python" else source.shown).append(Block(first, body, language))
    return source


def _split(source: Source, first: int, lines: Sequence[str]) -> None:
    """Sort a page: fences into code and shown, the rest into prose."""
    at = 0
    while at < len(lines):
        match = _FENCE.match(lines[at])
        if match is None:
            source.prose.append(first + at)
            at += 1
            continue
        end = at + 1
        while end < len(lines) and not lines[end].strip(" \t>").startswith(match["fence"]):
            end += 1
        body = textwrap.dedent("\n".join(line.lstrip(">") for line in lines[at + 1 : end]))
        block = Block(first + at + 1, body, _language(match["language"].lower(), body))
        (source.code if block.language == "python" else source.shown).append(block)
        at = end + 1


def _language(told: str, body: str) -> str:
    if told in _PYTHON:
        return "python"
    if told in _SHELL:
        return "shell"
    if told or not _CALLS.search(body):
        return told
    try:
        tree = ast.parse(body)
    except (SyntaxError, ValueError, RecursionError):
        return ""
    told_by = (ast.Assign, ast.ImportFrom, ast.Import, ast.FunctionDef, ast.Call)
    return "python" if any(isinstance(node, told_by) for node in ast.walk(tree)) else ""


def _parse(source: Source, block: Block) -> None:
    """The tree of a block, with the file's own line numbers; statements that don't parse are skipped."""
    text = _PROMPT.sub("", block.text) if ">>> " in block.text else block.text
    lines = _without_magic(text.splitlines())
    for _ in range(REPAIRS):
        try:
            tree = ast.parse("\n".join(lines))
        except SyntaxError as error:
            if not _blank(source, block, lines, error):
                return
        except (ValueError, RecursionError, MemoryError):
            break
        else:
            source.trees.append(ast.increment_lineno(tree, block.first - 1))
            return
    source.skipped.append((block.first, "this isn't Python"))


def _without_magic(lines: Sequence[str]) -> list[str]:
    """Replace a command by ``pass``, and the lines on which it continues by empty lines."""
    out: list[str] = []
    goes_on = False
    for line in lines:
        command = not goes_on and _LEFT_OUT.match(line) is not None
        indent = line[: len(line) - len(line.lstrip())]
        out.append("" if goes_on else f"{indent}pass" if command else line)
        goes_on = (command or goes_on) and line.rstrip().endswith("\\")
    return out


def _blank(source: Source, block: Block, lines: list[str], error: SyntaxError) -> bool:
    """Take the statement at the fault out of `lines`; False if there is nothing left to take."""
    at = min(max((error.lineno or 1) - 1, 0), len(lines) - 1) if lines else -1
    if at < 0:
        return False
    start = at
    while start > 0 and (not lines[start].strip() or lines[start][0] in " \t)]}"):
        start -= 1
    end = at + 1
    while end < len(lines) and (not lines[end].strip() or lines[end][0] in " \t)]}"):
        end += 1
    if not any(line.strip() for line in lines[start:end]):
        return False
    source.skipped.append((block.first + at, f"this isn't Python: {error.msg}"))
    lines[start:end] = [""] * (end - start)
    return True
