"""Pieces that several screens show: a status, figures, answers side by side, a table of settings."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sapwood.page.drawn.markup import Child, Safe, el, join
from sapwood.page.drawn.texts import Words
from sapwood.page.live import Seen
from sapwood.show.figures import UNKNOWN, duration, number, size, steps
from sapwood.show.figures import visible as plain

CODES = {
    "killed by the system": "cause.killed",
    "killed by the system, probably for memory": "cause.memory",
    "the machine was restarted": "cause.restarted",
}


def status(w: Words, seen: Seen) -> Safe:
    """A run's status, as a word in a colour; the word alone says it too."""
    condition = seen.pulse.condition
    return el("span", w(f"status.{condition}"), cls=f"status {condition}", title=why(w, seen) or None)


def why(w: Words, seen: Seen) -> str:
    """A sentence about a run that hangs, died, failed or was stopped."""
    pulse = seen.pulse
    if pulse.condition == "hung":
        return w("hung.frozen" if pulse.why == "frozen" else "hung.silent", time=duration(pulse.silent or 0))
    if pulse.condition == "died":
        cause = pulse.why or ""
        return w("died.why", cause=w(CODES[cause]) if cause in CODES else cause or w("cause.unknown"))
    if pulse.condition == "failed":
        return plain(pulse.why or "")
    return w("stopped.why") if pulse.condition == "stopped" else ""


def held_out(w: Words, base: float | None, now: float | None) -> Safe:
    """The held-out loss, and how far it is from that before training."""
    if now is None:
        return el("span", UNKNOWN)
    if not base:
        return el("span", number(now, 3))
    share = 100 * (now - base) / base
    kind = "good" if share < 0 else "bad" if share > 0 else ""
    return join([el("span", number(now, 3)), " ", el("small", f"{share:+.0f} %", cls=kind)])


def progress(step: int, total: int | None, condition: str) -> Safe:
    share = min(100.0, 100 * step / total) if total else 0.0
    return el(
        "div",
        el("div", el("i", style=f"width:{share:.1f}%"), cls=f"bar {condition}", aria_hidden="true"),
        el("span", steps(step, total)),
        cls="progress",
    )


def tiles(figures: Sequence[tuple[str, Child, Child]]) -> Safe:
    """(name, value, remark) each as a tile."""
    return el(
        "dl",
        [
            el("div", el("dt", name), el("dd", value), el("dd", remark, cls="remark") if remark else None)
            for name, value, remark in figures
        ],
        cls="tiles",
    )


def table(
    columns: Sequence[Child], rows: Sequence[Sequence[Child]], *, cls: str = "", label: str = ""
) -> Safe:
    """A plain table whose cells know their column's name, for narrow screens."""
    heads = [el("th", column, scope="col") for column in columns]
    names = [
        re.sub(r"<[^>]*>", "", str(column)) if isinstance(column, Safe) else column for column in columns
    ]
    named = el("thead", el("tr", heads)) if any(columns) else None
    body = [
        el("tr", [el("td", cell, data_name=str(names[i] or "")) for i, cell in enumerate(row)])
        for row in rows
    ]
    return el(
        "div",
        el("table", named, el("tbody", body), aria_label=label or None),
        cls=f"table {cls}",
        tabindex=0 if "wide" in cls else None,
        role="region" if "wide" in cls else None,
        aria_label=(label or "table") if "wide" in cls else None,
    )


def settings(values: Mapping[str, Any], usual: Mapping[str, Any]) -> Safe:
    """Key paths and values; those at their default are paler."""
    rows = [
        el(
            "tr",
            el("th", key, scope="row"),
            el("td", _value(value)),
            cls="usual" if usual.get(key) == value else None,
        )
        for key, value in values.items()
    ]
    return el("div", el("table", el("tbody", rows)), cls="table settings")


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) if value else "[]"
    return UNKNOWN if value is None else str(value)


def differing(before: str, after: str) -> Safe:
    """``after``, with the words marked that ``before`` doesn't have there."""
    one, other = _words(before), _words(after)
    if len(one) * len(other) > 4_000_000:
        return Safe(el("span", after))
    out: list[Child] = []
    for kind, _, _, start, stop in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        part = "".join(other[start:stop])
        if part:
            out.append(part if kind == "equal" else el("mark", part))
    return join(out)


def _words(said: str) -> list[str]:
    """Words with what follows them; a character at a time if a language doesn't part its words."""
    return re.findall(r"[\u3040-\u9fff]|\s+|[^\s\u3040-\u9fff]+", said)


def answer(w: Words, title: Child, said: Child, sample: Mapping[str, Any] | None, cls: str = "") -> Safe:
    """An answer with its name above and how it ended below."""
    ended = None
    if sample is not None and "stopped" in sample:
        count = sample.get("num_tokens", 0)
        ended = el("small", w("stopped.itself") if sample["stopped"] else w("cut.at", tokens=count))
    return el("div", el("h3", title), el("div", said, cls="said", dir="auto"), ended, cls=f"answer {cls}")


def empty(title: str, said: str, *more: Child) -> Safe:
    """What a screen says if there is nothing to show yet."""
    return el("div", el("h2", title), el("p", said), more, cls="empty")


def memory(num_bytes: float | None) -> str:
    return UNKNOWN if not num_bytes or num_bytes != num_bytes else size(num_bytes)


def code(text: str, label: str) -> Safe:
    """Text to copy."""
    return el(
        "div",
        el("pre", text, tabindex=0),
        el("button", label, type="button", data_copy=True, cls="copy"),
        cls="code",
    )
