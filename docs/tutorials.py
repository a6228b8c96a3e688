"""Write the pages in docs/tutorials/ by `sapwood import`: ``python docs/tutorials.py FOLDER``.

FOLDER holds the tutorials' texts, which aren't kept here: 000_*.txt to 004_*.txt. `tests/migrate` compares
the pages with what this script makes of them.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from sapwood.migrate.draft import Entry
from sapwood.migrate.read import Migration, bring
from sapwood.migrate.report import ordered
from sapwood.migrate.write import validated

HERE = Path(__file__).resolve().parent
TEXTS = HERE.parent.parent / "shared" / "tutorials"


@dataclass(frozen=True, slots=True)
class Page:
    """en, zh: its title; recipe: of recipes/."""

    number: str
    name: str
    recipe: str
    en: str
    zh: str


PAGES = (
    Page("000", "gemma-2", "gemma-2-9b-it", "Gemma-2-9b-it, LoRA", "Gemma-2-9b-it 的 LoRA 微调"),
    Page("001", "qwen1.5-swanlab", "qwen1.5-7b-chat-swanlab", "Qwen1.5-7B-Chat with SwanLab",
         "Qwen1.5-7B-Chat 接入 SwanLab"),
    Page("002", "chatglm3-4bit", "chatglm3-6b-4bit", "ChatGLM3-6B in 4 bits", "4 比特的 ChatGLM3-6B"),
    Page("003", "llama-2-chat", "llama-2-7b-chat", "Llama-2-7b-chat, SFTTrainer",
    "Llama-2-7b-chat 与 SFTTrainer"),
    Page("004", "llama-2-qlora", "llama-2-7b-guanaco-qlora", "Llama-2-7b on guanaco, QLoRA",
         "QLoRA 微调 Llama-2-7b（guanaco）"),
)  # fmt: skip


def main(folder: Path) -> int:
    for name, page in pages(folder).items():
        (HERE / "tutorials" / name).write_text(page, encoding="utf-8")
    return 0


def pages(folder: Path = TEXTS) -> dict[str, str]:
    """File name -> text."""
    out: dict[str, str] = {}
    for page in PAGES:
        found = bring(next(iter(sorted(folder.glob(f"{page.number}_*.txt")))))
        validated(found.draft)
        out[f"{page.name}.md"] = _page(page, found, zh=False)
        out[f"{page.name}.zh-CN.md"] = _page(page, found, zh=True)
    return out


def _page(page: Page, found: Migration, *, zh: bool) -> str:
    recipe = f"[{page.recipe}.yaml](../../recipes/{page.recipe}.yaml)"
    other = (
        f"[English]({page.name}.md) · **简体中文**"
        if zh
        else f"**English** · [简体中文]({page.name}.zh-CN.md)"
    )
    told = (
        "下面由 `sapwood import` 从教程生成：它读懂了什么、在这里是什么、哪里错了。教程的代码从未运行。"
        if zh
        else "Made by `sapwood import` from the tutorial: what it understood, what that is here, what was "
        "wrong. No line of the tutorial was run."
    )
    out = ["<!-- written by docs/tutorials.py -->", f"# {page.zh if zh else page.en}", ""]
    out += [f"{other} · {'配方：' if zh else 'recipe: '}{recipe}", "", told, ""]
    head = ("教程里", "sapwood 里", "说明") if zh else ("in the tutorial", "in sapwood", "what to know")
    out += [f"| {' | '.join(head)} |", "|---|---|---|", *dict.fromkeys(_rows(found, zh=zh)), ""]
    out += ["```sh", f"sapwood check recipes/{page.recipe}.yaml", f"sapwood train recipes/{page.recipe}.yaml"]
    out += ["sapwood eval last", "sapwood chat last", "```", ""]
    out += ["## 教程里的问题" if zh else "## What went wrong there", ""]
    out += [
        f"| {'行' if zh else 'line'} | {'名称' if zh else 'name'} | {'原因' if zh else 'why'} |",
        "|---|---|---|",
    ]
    for fault in found.faults:
        out.append(f"| {fault.line} | `{fault.name}` | {_cell(fault.zh if zh else fault.en)} |")
    return "\n".join([*out, ""])


def _rows(found: Migration, *, zh: bool) -> list[str]:
    return [_row(entry, zh=zh) for entry in ordered(found) if entry.theirs or entry.key]


def _row(entry: Entry, *, zh: bool) -> str:
    theirs = f"{entry.theirs}={entry.value}" if entry.theirs and entry.value else entry.theirs or entry.value
    ours = f"`{entry.key}: {entry.ours}`" if entry.ours else f"`{entry.key}`" if entry.key else "–"
    left = f"`{_cell(theirs)}`" if entry.state != "default" else ("（默认）" if zh else "(its default)")
    return f"| {left} | {_cell(ours)} | {_cell(entry.zh if zh else entry.en)} |"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")[:240]


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else TEXTS))
