"""The report as one self-contained page: the file's lines beside what they mean here."""

from __future__ import annotations

import html

from sapwood.migrate.read import Migration
from sapwood.migrate.report import counts, entry_line, ordered, words

_PAGE = """<!doctype html>
<html lang="LANG"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>sapwood import</title>
<style>
:root { color-scheme: light dark; --bad: #b3261e; --note: #8a6d00; --line: #8884 }
@media (prefers-color-scheme: dark) { :root { --bad: #ff8a80; --note: #e6c454 } }
body { font: 16px/1.6 system-ui, "Noto Sans CJK SC", sans-serif; margin: 0 auto; max-width: 64rem;
  padding: 1rem }
h1 { font-size: 1.3rem } h2 { font-size: 1.05rem; margin-top: 2rem }
pre, code { font: .85em/1.5 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere }
pre { border: 1px solid var(--line); border-radius: 6px; padding: .6rem .8rem }
li { margin: .35rem 0; overflow-wrap: anywhere } ul { padding-left: 1.2rem }
.fault b { color: var(--bad) } .note b { color: var(--note) } small { opacity: .75 }
</style></head><body>
<h1>TITLE</h1><p>COUNTS</p>
SECTIONS
</body></html>
"""


def report_page(found: Migration, config: str, *, zh: bool) -> str:
    word = words(zh)
    sections: list[str] = []
    for title, level in ((word["faults"], "fault"), (word["notes"], "note")):
        rows = [
            f'<li class="{level}"><b>{_safe(fault.name)}</b> {_safe(found.source.place(fault.line, zh=zh))}: '
            f"{_safe(fault.zh if zh else fault.en)}<br>"
            f"<code>{_safe(found.source.text(fault.line).strip()[:200])}</code>"
            f"<br><small>{word['source']}: {_safe(fault.source)}</small></li>"
            for fault in found.faults
            if fault.level == level
        ]
        sections += _list(title, rows)
    sections += _list(
        word["settings"], [f"<li>{_safe(entry_line(found, e, zh=zh))}</li>" for e in ordered(found)]
    )
    sections += _list(
        word["unfollowed"],
        [
            f"<li>{_safe(found.source.place(one.line, zh=zh))}: {_safe(one.zh if zh else one.en)}<br>"
            f"<code>{_safe(one.text)}</code></li>"
            for one in found.unfollowed
        ],
    )
    sections += [f"<h2>sapwood.yaml</h2><pre>{_safe(config)}</pre>"]
    page = _PAGE.replace("LANG", "zh-CN" if zh else "en", 1).replace("TITLE", _safe(found.source.path), 1)
    return page.replace("COUNTS", _safe(counts(found, zh=zh)), 1).replace("SECTIONS", "\n".join(sections), 1)


def _list(title: str, rows: list[str]) -> list[str]:
    return [f"<h2>{_safe(title)}</h2><ul>", *rows, "</ul>"] if rows else []


def _safe(text: str) -> str:
    return html.escape(text)
