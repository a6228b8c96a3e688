"""The terminal end of a conversation: lines in, harmless characters out."""

from __future__ import annotations

import sys
import unicodedata
from typing import TextIO

from sapwood.machine.system import edit_lines

KEPT = "\n\t"
TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # change the order in which text is read


def visible(text: str) -> str:
    """Text with control characters spelled out (``\\x1b``): an answer can't move the cursor or recolour."""
    if text.isprintable():
        return text
    return "".join(_spelled(c) if _is_control(c) else c for c in text)


def read_line(stdin: TextIO, stdout: TextIO, prompt: str) -> str | None:
    """A line without its end, or None if the input has ended. A backslash at the end continues it."""
    lines: list[str] = []
    while True:
        line = _one_line(stdin, stdout, prompt if not lines else "… " if prompt else "")
        if line is None:
            return "\n".join(lines) if lines else None
        if not line.endswith("\\"):
            return "\n".join([*lines, line])
        lines.append(line[:-1])


def _one_line(stdin: TextIO, stdout: TextIO, prompt: str) -> str | None:
    if prompt and stdin is sys.stdin and stdout is sys.stdout:
        edit_lines()
        try:
            return input(prompt)
        except EOFError:
            stdout.write("\n")
            return None
    stdout.write(prompt)
    stdout.flush()
    line = stdin.readline()
    return line.removesuffix("\n").removesuffix("\r") if line else None


def _is_control(c: str) -> bool:
    return (unicodedata.category(c) == "Cc" and c not in KEPT) or c in TURNING


def _spelled(c: str) -> str:
    return f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}"
