"""Every word of the page, in both languages: one table, `TABLE`. Data, names and errors stay as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

Language = Literal["en", "zh"]
TAGS = {"en": "en", "zh": "zh-CN"}

TABLE = Path(__file__).parents[2] / "assets" / "page-texts.json"
TEXTS: dict[str, tuple[str, str]] = {
    key: (en, zh) for key, (en, zh) in json.loads(TABLE.read_bytes()).items()
}


class Words:
    """The texts of one language: ``words("left", time="2m")``."""

    def __init__(self, lang: Language) -> None:
        self.lang: Language = lang
        self.lang_tag = TAGS[lang]
        self._at = 0 if lang == "en" else 1

    def __call__(self, key: str, **values: object) -> str:
        said = TEXTS[key][self._at]
        return said.format(**values) if values else said


def language(chosen: str | None, accepted: str) -> Language:
    """What a person chose, else the first of the browser's languages that is one of ours."""
    wanted = [part.partition(";")[0].strip().lower() for part in accepted.split(",")]
    for tag in (chosen or "", *wanted):
        if tag.startswith("zh"):
            return "zh"
        if tag.startswith("en"):
            return "en"
    return "en"
