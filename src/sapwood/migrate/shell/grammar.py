"""Shell text as a tree by Bash's grammar; what other shells write in other ways is put into Bash's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sapwood.migrate.script.source import Block, Source

if TYPE_CHECKING:
    from tree_sitter import Node

MAX_TEXT = 1 << 20
SHELLS = {".sh", ".bash", ".zsh", ".bat", ".cmd", ".ps1", ".slurm", ".sbatch"}
STARTS = re.compile(
    r"\b(?:python[\d.]*|torchrun|accelerate|deepspeed|swift|llamafactory-cli|axolotl|tune|mlx_lm|unsloth|trl"
    r"|bash|sh|source|uv)\b"
)
_TEXTS = {"", "text", "txt", "plain", "plaintext", "none", "bash", "sh", "shell", "console", "cmd", "zsh",
          "powershell", "ps1", "bat", "batch", "terminal", "shellscript"}  # fmt: skip
_PLACEHOLDER = re.compile(r"(?<=[\s=])<([\w][\w ./:-]*)>(?=[\s\\]|$)")
_IPYTHON = re.compile(r"^\s*(?:!|%(?=run\s)|%(?=env\s)|%(?=sh\s)|%(?=cd\s))")


def parse(text: str) -> Node:
    """The tree of a text. Never fails: text that isn't Bash becomes a node of its own."""
    import tree_sitter
    import tree_sitter_bash

    language = tree_sitter.Language(tree_sitter_bash.language())
    return tree_sitter.Parser(language).parse(text[:MAX_TEXT].encode()).root_node


def shell_blocks(source: Source, suffix: str) -> list[Block]:
    """The shell text of a file, in Bash's signs, each piece with the number of its first line."""
    if suffix in SHELLS:
        return [Block(1, as_bash("\n".join(source.lines), suffix), "shell")]
    found = [block for block in source.shown if block.language in _TEXTS]
    if suffix == ".ipynb":
        found += [Block(block.first, _commands(block.text), "shell") for block in source.code]
    elif suffix == ".txt" and not source.shown:
        found += _paragraphs(source.lines)
    found.sort(key=lambda block: block.first)
    return [Block(block.first, as_bash(block.text, ""), "shell") for block in found]


def as_bash(text: str, suffix: str) -> str:
    return "\n".join(_line(line, suffix) for line in text.split("\n"))


def _line(line: str, suffix: str) -> str:
    if suffix not in SHELLS:
        line = re.sub(r"^\s*(?:[$>] +|! ?)+(?=[A-Za-z./])", "", line)  # a prompt
    line = re.sub(r"(?:\s\^|(?<=\s)`)\s*$", r" \\", line)
    if suffix in (".bat", ".cmd"):
        line = re.sub(r"^\s*(?:@?rem\b|::)", "#", line, flags=re.IGNORECASE)
        line = re.sub(r"^\s*@?set\s+\"?(\w+)=([^\"]*)\"?\s*$", r'export \1="\2"', line, flags=re.IGNORECASE)
        line = re.sub(r"%(\w+)%", r"${\1}", line)
        line = re.sub(r"\\(?=[\w.])", "/", line)
    if suffix == ".ps1":
        line = re.sub(r"^\s*\$env:(\w+)\s*=\s*", r"export \1=", line)
        line = re.sub(r"^\s*\$(\w+)\s*=\s*", r"\1=", line)
    return _PLACEHOLDER.sub(r"'<\1>'", line)


def _commands(text: str) -> str:
    """A cell's ``!`` lines and magics; every other line is empty, so that numbers stay."""
    out: list[str] = []
    goes_on = False
    for line in text.splitlines():
        begins = _IPYTHON.match(line)
        if begins is not None and not goes_on:
            body = line[begins.end() :]
            body = re.sub(r"^env\s+(\w+)\s*=\s*", r"export \1=", body)
            body = re.sub(r"^env\s+(\w+)\s+", r"export \1=", body)
            body = re.sub(r"^run\s+", "python ", body)
            body = re.sub(r"^sh\s+", "", body)
            out.append(re.sub(r"(?<![${])\{(\w+)\}", r"${\1}", body))
        else:
            out.append(re.sub(r"(?<![${])\{(\w+)\}", r"${\1}", line) if goes_on else "")
        goes_on = (begins is not None or goes_on) and line.rstrip().endswith("\\")
    return "\n".join(out)


def _paragraphs(lines: list[str]) -> list[Block]:
    """The lines of a text without fences that start a program, each by itself, because prose is no shell."""
    out: list[Block] = []
    first = 0
    for at in range(len(lines) + 1):
        if at < len(lines) and lines[at].strip():
            continue
        body = lines[first:at]
        start = next((i for i, line in enumerate(body) if _command_like(line)), None)
        if start is not None:
            out.append(Block(first + start + 1, "\n".join(body[start:]), ""))
        first = at + 1
    return out


def _command_like(line: str) -> bool:
    match = STARTS.search(line)
    begins = re.match(r"^\s*(?:[$>!] ?)*(?:export\s+)?(?:\w+=\S+\s+)*", line)
    return match is not None and begins is not None and match.start() == begins.end()


def seeds(names: Mapping[str, Any]) -> dict[str, str]:
    """A notebook's Python variables, which its commands may name."""
    plain = (str, int, float)
    return {
        name: str(value)
        for name, value in names.items()
        if isinstance(value, plain) and not isinstance(value, bool)
    }
