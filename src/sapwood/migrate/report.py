"""The report, for a terminal and as JSON: what was understood, what sapwood does, what was wrong."""

from __future__ import annotations

from typing import Any

from sapwood.migrate.draft import Entry
from sapwood.migrate.read import Migration
from sapwood.migrate.rules import Fault

_WORDS = {
    "en": {
        "taken": "taken over", "instead": "not needed", "unread": "not taken over", "default": "its default",
        "faults": "What was wrong in it", "notes": "Worth knowing", "unfollowed": "What couldn't be followed",
        "settings": "What was understood", "none": "nothing", "source": "source", "here": "here",
        "lost": "Not taken over", "silent": "(not written)",
        "counts": "settings: {taken} taken over, {unread} not; faults: {faults}; notes: {notes}",
    },
    "zh": {
        "taken": "已采用", "instead": "不需要", "unread": "未采用", "default": "原工具的默认值",
        "faults": "其中的错误", "notes": "值得知道", "unfollowed": "无法跟踪的部分", "settings": "读懂了什么",
        "none": "没有", "source": "依据", "here": "这里", "lost": "未采用", "silent": "（没有写）",
        "counts": "采用 {taken} 项设置，{unread} 项未采用；{faults} 处错误，{notes} 条提示",
    },
}  # fmt: skip


def words(zh: bool) -> dict[str, str]:
    return _WORDS["zh" if zh else "en"]


def counts(found: Migration, *, zh: bool) -> str:
    entries = found.draft.entries
    return words(zh)["counts"].format(
        taken=sum(entry.state == "taken" for entry in entries),
        unread=sum(entry.state == "unread" or entry.matters for entry in entries),
        faults=sum(fault.level == "fault" for fault in found.faults),
        notes=sum(fault.level == "note" for fault in found.faults),
    )


def lines(found: Migration, *, zh: bool) -> list[str]:
    """For a terminal."""
    word = words(zh)
    out = [f"{found.source.path}: {found.kind}", counts(found, zh=zh), "", f"{word['settings']}:"]
    out += [f"  {text}" for text in (entry_line(found, e, zh=zh) for e in ordered(found))]
    for title, level in ((word["faults"], "fault"), (word["notes"], "note")):
        chosen = [fault for fault in found.faults if fault.level == level]
        if chosen:
            out += ["", f"{title}:"]
            out += [text for fault in chosen for text in _fault_lines(found, fault, zh=zh)]
    if found.unfollowed:
        out += ["", f"{word['unfollowed']}:"]
        out += [
            f"  {found.source.place(one.line, zh=zh)}: {one.zh if zh else one.en}: {shown(one.text)}"
            for one in found.unfollowed
        ]
    return out


def shown(text: str) -> str:
    """A piece of a script in one line."""
    return text.replace("\n", "\\n")[:160]


def ordered(found: Migration) -> list[Entry]:
    """By line; the defaults last."""
    return sorted(found.draft.entries, key=lambda entry: (entry.state == "default", entry.line))


def entry_line(found: Migration, entry: Entry, *, zh: bool) -> str:
    place = found.source.place(entry.line, zh=zh)
    theirs = (
        f"{entry.theirs}={shown(entry.value)}"
        if entry.theirs and entry.value
        else entry.theirs or entry.value
    )
    if entry.state == "default":
        theirs = words(zh)["silent"]
    said = entry.zh if zh else entry.en
    here = f"{entry.key}: {entry.ours}" if entry.ours else entry.key
    state = "" if here else f"[{words(zh)['unread' if entry.matters else entry.state]}]"
    head = f"{place}: " if place else ""
    text = f"{head}{theirs[:100]}  →  {' '.join(part for part in (here, state) if part)}"
    return f"{text}  ({said})" if said else text


def _fault_lines(found: Migration, fault: Fault, *, zh: bool) -> list[str]:
    place = found.source.place(fault.line, zh=zh)
    line = found.source.text(fault.line).strip()
    quoted = line if len(line) <= 120 else f"{line[:119]}…"
    return [
        f"  {place or '–'} · {fault.name} · {fault.zh if zh else fault.en}",
        *([f"      {quoted}"] if quoted else []),
    ]


def to_facts(found: Migration, *, zh: bool) -> dict[str, Any]:
    """As JSON."""
    draft = found.draft
    return {
        "file": found.source.path,
        "kind": found.kind,
        "settings": dict(draft.settings.items()),
        "template": draft.template,
        "lines": [
            {
                "line": entry.line,
                "place": found.source.place(entry.line, zh=zh),
                "theirs": entry.theirs,
                "value": entry.value,
                "state": entry.state,
                "key": entry.key,
                "ours": entry.ours,
                "remark": entry.zh if zh else entry.en,
                "matters": entry.matters or entry.state == "unread",
            }
            for entry in ordered(found)
        ],
        "faults": [
            {
                "name": fault.name,
                "level": fault.level,
                "line": fault.line,
                "place": found.source.place(fault.line, zh=zh),
                "why": fault.zh if zh else fault.en,
                "source": fault.source,
            }
            for fault in found.faults
        ],
        "unfollowed": [
            {
                "line": one.line,
                "place": found.source.place(one.line, zh=zh),
                "text": one.text,
                "why": one.zh if zh else one.en,
            }
            for one in found.unfollowed
        ],
    }
