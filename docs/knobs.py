"""Write docs/tutorial-knobs.md, its Chinese twin, and what errors answer from: ``python docs/knobs.py``.

One source for all, knobs.yaml: every knob of the five tutorials, the key that sapwood has for it, or
what sapwood does instead. `tests/test_knobs.py` keeps the pages as this script writes them, the keys as the
config has them, and the list complete.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Knob:
    """names: as the tutorials write it. tutorials: their numbers. keys: sapwood's, none where it has none.
    en, zh: what to set, or what sapwood does instead. tests: where that is shown, below tests/."""

    names: tuple[str, ...]
    tutorials: tuple[str, ...]
    keys: tuple[str, ...]
    en: str
    zh: str
    tests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Area:
    en: str
    zh: str
    knobs: tuple[Knob, ...]


def read_areas() -> list[Area]:
    from ruamel.yaml import YAML

    tree = YAML(typ="safe", pure=True).load((HERE / "knobs.yaml").read_text(encoding="utf-8"))
    return [Area(area["en"], area["zh"], tuple(map(_knob, area["knobs"]))) for area in tree]


def _knob(row: dict[str, Any]) -> Knob:
    names, keys = row["names"].split(), row.get("keys", "").split()
    numbers = str(row.get("tutorials", "")).split()
    return Knob(
        tuple(names), tuple(numbers), tuple(keys), row.get("en", ""), row.get("zh", ""), tuple(row["tests"])
    )


def main() -> int:
    for name, page in pages().items():
        (HERE / name).write_text(page, encoding="utf-8")
    return 0


def pages() -> dict[str, str]:
    """Path from here -> text."""
    return {
        "tutorial-knobs.md": _page(chinese=False),
        "tutorial-knobs.zh-CN.md": _page(chinese=True),
        "../src/sapwood/assets/knobs.json": _answers(),
    }


def _answers() -> str:
    """Each name with its keys and what to know, for `config.names`."""
    knobs = [knob for area in read_areas() for knob in area.knobs]
    found = {name: [knob.keys, knob.en] for knob in knobs for name in knob.names}
    lines = [f" {json.dumps(name)}: {json.dumps(found[name], ensure_ascii=False)}" for name in sorted(found)]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _page(*, chinese: bool) -> str:
    from sapwood.config.file import field_of

    out = [*_top(chinese=chinese), ""]
    for area in read_areas():
        head = ("教程", "编号", "键", "说明") if chinese else ("tutorial", "in", "key", "what to know")
        out += [f"## {area.zh if chinese else area.en}", "", f"| {' | '.join(head)} |", "|---|---|---|---|"]
        for row in area.knobs:
            keys = ", ".join(f"`{key}`" for key in row.keys) or ("无" if chinese else "none")
            note = row.zh if chinese else row.en
            if not note:
                default = field_of(row.keys[0].split(".")).default
                note = f"{'默认' if chinese else 'default'} `{default}`"
            names = ", ".join(f"`{name}`" for name in row.names)
            out.append(f"| {names} | {', '.join(row.tutorials) or '–'} | {keys} | {note} |")
        out.append("")
    return "\n".join(out)


def _top(*, chinese: bool) -> list[str]:
    mark = "<!-- written by docs/knobs.py -->"
    if chinese:
        named = "0 Gemma-2 LoRA，1 Qwen1.5 + SwanLab，2 ChatGLM3 4-bit，3 Llama-2 chat，4 Llama-2 QLoRA"
        languages = "[English](tutorial-knobs.md) · **简体中文**"
        return [mark, "# 教程里的每个参数，在 sapwood 里叫什么", "", languages, "", f"教程：{named}。"]
    named = "0 Gemma-2 LoRA, 1 Qwen1.5 with SwanLab, 2 ChatGLM3 in 4 bits, 3 Llama-2 chat, 4 Llama-2 QLoRA"
    languages = "**English** · [简体中文](tutorial-knobs.zh-CN.md)"
    return [
        mark,
        "# Every knob of the tutorials, and its key here",
        "",
        languages,
        "",
        f"Tutorials: {named}.",
    ]


if __name__ == "__main__":
    raise SystemExit(main())
