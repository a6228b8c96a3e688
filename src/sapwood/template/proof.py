"""What a proof says, and what each of its checks means."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sapwood.template.said.shared import Shared
from sapwood.types import RowId

VERSION = 1
COUNTED = ("rows", "examples", "turns", "tokens", "targets", "control_rows")
CHECKS = {
    "template-text": "the text is the one that the tokenizer's chat template writes",
    "template-ids": "the ids are those of the tokenizer's own encoding of it",
    "control": "no control token comes from a row's content",
    "prompt-ids": "the ids before each trained turn are those that inference sends",
    "boundary": "no token joins a prompt to its answer",
    "stop": "each trained turn ends on a token on which generation stops",
    "early-stop": "no trained turn holds such a token before its end",
    "double-bos": "no text begins with two begin-of-text tokens",
    "no-target": "each example has something to learn",
    "cut": "every character of the text is in the ids",
    "vocabulary": "every id has a row in the embedding",
    "pad-target": "padding is never learnt",
    "content-lost": "what a row says is in its text: contents, reasoning, calls, arguments, tools",
    "control-text": "no message is a rendered conversation, and no answer spells a stop token at its end",
    "missing-end": "each rendered text of the data ends as its template does",
}


@dataclass(frozen=True, slots=True)
class Failed:
    """How many rows failed a check that may fail, and the first of them."""

    rows: int = 0
    first: RowId | None = None

    def plus(self, other: Failed) -> Failed:
        """The sum of two counts. Rows of one file keep their order; the file that was counted first comes
        first."""
        first = self.first or other.first
        if self.first and other.first and self.first.source == other.first.source:
            first = min(self.first, other.first, key=lambda row: row.index)
        return Failed(self.rows + other.rows, first)

    def to_json(self) -> dict[str, Any]:
        return {"rows": self.rows, "first": None if self.first is None else str(self.first)}


@dataclass(slots=True)
class ProofTally:
    """What was checked so far.

    counted: by names of `Proof`'s fields. accepted: code -> rows that failed this check, which
    template.accept allows. cut: code -> rows that failed this check because they were cut. shared: code -> a
    fault that many rows have alike.
    """

    counted: Counter[str] = field(default_factory=Counter[str])
    accepted: dict[str, Failed] = field(default_factory=dict[str, Failed])
    cut: dict[str, Failed] = field(default_factory=dict[str, Failed])
    shared: dict[str, Shared] = field(default_factory=dict[str, Shared])

    def add(self, other: ProofTally) -> None:
        """Count in what was checked of later rows."""
        self.counted.update(other.counted)
        for own, theirs in ((self.accepted, other.accepted), (self.cut, other.cut)):
            for code, failed in theirs.items():
                own[code] = own.get(code, Failed()).plus(failed)
        for code, found in other.shared.items():
            self.shared.setdefault(code, Shared()).merge(found)

    @property
    def failed(self) -> dict[str, Failed]:
        """What `accepted` and `cut` hold, by code."""
        both = ProofTally(accepted={**self.accepted})
        both.add(ProofTally(accepted=self.cut))
        return both.accepted


@dataclass(frozen=True, slots=True)
class Proof:
    """What was checked, on how much, and for which renderer. Kept in the run and in the adapter's folder.

    Attributes:
        codes: the checks that every example passed (`CHECKS` says what each means).
        rows, examples, turns, tokens, targets: how much was checked.
        control_rows: rows whose content was spelled like a control token; it was kept as plain text.
        fingerprint: the renderer's, which chat, serve and export compare with theirs.
        clock: the date that the template was told, if it asks for one.
        accepted: code -> how many rows failed it, and the first: codes that template.accept names, and
            those that rows cut by template.overlong=cut can't keep.
        meant: control tokens that answers may spell and then mean (template.meant).
    """

    version: int
    codes: tuple[str, ...]
    rows: int
    examples: int
    turns: int
    tokens: int
    targets: int
    control_rows: int
    fingerprint: str
    stop_ids: tuple[int, ...]
    stop_text: str
    clock: str | None
    accepted: Mapping[str, Mapping[str, Any]]
    meant: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(self).items()}
