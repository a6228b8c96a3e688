"""A rule, what it looks at, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from sapwood.migrate.calls.facts import Facts
from sapwood.migrate.draft import Draft
from sapwood.migrate.formatting.learning import Learning


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that is known of what was brought."""

    facts: Facts
    draft: Draft
    learning: Learning | None

    @property
    def model(self) -> str:
        """A name that tells the family: the model's id, or what the file says at its top."""
        known = self.facts.model_id or str(self.draft.settings.get("base.model", ""))
        return (known or " ".join(self.facts.source.lines[:12])).lower()


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    line: int
    level: Literal["fault", "note"]
    en: str
    zh: str
    source: str


@dataclass(frozen=True, slots=True)
class Hit:
    line: int
    words: dict[str, Any] = field(default_factory=dict[str, Any])


Check = Callable[[Case], Iterator[Hit]]
CHECKS: dict[str, Check] = {}


def rule(name: str) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        CHECKS[name] = check
        return check

    return register


def hit(line: int, **words: Any) -> Hit:
    return Hit(line, words)


@cache
def texts() -> dict[str, tuple[str, str, str, str]]:
    """name -> level, English, Chinese, source."""
    from ruamel.yaml import YAML

    path = files("sapwood.migrate").joinpath("rules", "faults.yaml")
    tree: Any = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    return {name: tuple(row) for name, row in tree.items()}


def find_faults(case: Case) -> list[Fault]:
    """In the order of the lines; each name once a line."""
    found: dict[tuple[int, str], Fault] = {}
    for name, check in CHECKS.items():
        level, en, zh, source = texts()[name]
        for one in check(case):
            filled = (en.format(**one.words), zh.format(**one.words)) if one.words else (en, zh)
            kind: Literal["fault", "note"] = "fault" if level == "fault" else "note"
            found.setdefault((one.line, name), Fault(name, one.line, kind, *filled, source))
    return sorted(found.values(), key=lambda fault: (fault.line, fault.name))
