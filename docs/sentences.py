"""How long the sentences of the pages are: ``python docs/sentences.py [FILE ...]``.

Prose counts: paragraphs and items of lists, without code, tables, headings and pictures. Exit code 1 if a
page's sentences have more than `MEAN` words on average, or more than `SHARE` of them over `LONG` words.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MEAN, LONG, SHARE = 17.0, 30, 0.02
NOT = ("log.md",)  # the diary of what was tried
PAGES = (
    *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("[!.]*.md"))
      if page.name not in NOT and ".zh-CN." not in page.name),
)  # fmt: skip
STARTS = re.compile(r"^\s*(?:[-*>]|\d+\.)\s+", re.MULTILINE)
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
END = re.compile(r"(?<=[.!?:;])[*_\")]*\s+(?=[A-Z`*\"(\d])|\n\s*\n")


def sentences(text: str) -> list[str]:
    """Of a page in Markdown."""
    prose = LINK.sub(r"\1", re.sub(r"(?s)```.*?```", "", text))
    prose = STARTS.sub("\n\n", re.sub(r"(?m)^(\||#|!\[|<!--).*$", "", prose))
    found = (" ".join(part.replace("*", "").split()) for part in END.split(prose))
    return [one for one in found if len(one.split()) > 2]


def main(names: list[str]) -> int:
    bad = 0
    for name in names or PAGES:
        lengths = {one: len(one.split()) for one in sentences((ROOT / name).read_text(encoding="utf-8"))}
        mean = sum(lengths.values()) / max(1, len(lengths))
        long = [one for one, words in lengths.items() if words > LONG]
        failed = mean > MEAN or len(long) > SHARE * len(lengths)
        bad += failed
        print(f"{name:24} {len(lengths):4} sentences, {mean:4.1f} words, {len(long)} over {LONG}")
        for one in long if failed else ():
            print(f"    {lengths[one]}: {one}")
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
