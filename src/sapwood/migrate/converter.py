"""What converters of values have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sapwood.migrate.draft import Draft
from sapwood.migrate.script.values import dotted

Convert = Callable[[Draft, str, Any, int, str, str], None]


NOT_SET = ("not set: the default here", "未设置：用这里的默认值")
UNKNOWN = ("its value isn't known before it runs", "运行之前不知道它的值")


def word_of(value: Any) -> str:
    return (value if isinstance(value, str) else dotted(value)).rpartition(".")[2].lower()


def number_of(value: Any) -> float | int | None:
    """A number that may be written as text; whole ones as int."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if float(value).is_integer() else value


def unread(draft: Draft, theirs: str, value: Any, line: int) -> None:
    draft.unread(line, theirs, value, *UNKNOWN)


def chosen(key: str, words: dict[str, str], what: tuple[str, str]) -> Convert:
    def convert(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
        ours = words.get(word_of(value)) if value is not None else None
        if ours is not None:
            draft.take(key, ours, line, theirs, value, en, zh)
        elif value is None:
            draft.note(key, line, theirs, value, *NOT_SET)
        else:
            draft.unread(
                line,
                theirs,
                value,
                f"no {what[0]} of that name here: choose {key}",
                f"这里没有这个{what[1]}：请选择 {key}",
            )

    return convert


def when(key: str, fits: Callable[[Any], bool], ours: Callable[[Any], Any] = lambda value: value) -> Convert:
    """A converter that takes a value over if `fits` accepts it, in the form that `ours` gives it."""

    def convert(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
        if fits(value):
            draft.take(key, ours(value), line, theirs, value, en, zh)
        elif value is None:
            draft.note(key, line, theirs, value, *NOT_SET)
        else:
            unread(draft, theirs, value, line)

    return convert


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def unknown(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    unread(draft, theirs, value, line)
