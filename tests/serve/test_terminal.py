"""What may reach a terminal, and how lines come in."""

from __future__ import annotations

import io
import sys

import pytest

from sapwood.serve.terminal import read_line, visible


def test_control_characters_are_spelled_out() -> None:
    assert visible("a\x1b[31mred\r\x07\x9b\x7f") == "a\\x1b[31mred\\x0d\\x07\\x9b\\x7f"
    assert visible("\u202etxt") == "\\u202etxt"


def test_text_stays_as_it_is() -> None:
    text = "line\n\tindented, 你好 👩\u200d🌾 é 𝒳"
    assert visible(text) == text


def test_lines_are_joined_at_a_backslash() -> None:
    lines, out = io.StringIO("one\\\ntwo\\\nthree\nfour\\"), io.StringIO()
    assert read_line(lines, out, "> ") == "one\ntwo\nthree"
    assert read_line(lines, out, "> ") == "four"
    assert read_line(lines, out, "> ") is None
    assert out.getvalue() == "> … … > … > "


def test_the_real_terminal_has_line_editing(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter(["one\\", "two"])
    prompts: list[str] = []

    def ask(prompt: str) -> str:
        prompts.append(prompt)
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", ask)
    assert read_line(sys.stdin, sys.stdout, "> ") == "one\ntwo"
    assert read_line(sys.stdin, sys.stdout, "> ") is None
    assert prompts == ["> ", "… ", "> "] and "readline" in sys.modules
