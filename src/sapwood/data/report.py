"""What a person may want to know about rows that are fine."""

from __future__ import annotations

from dataclasses import dataclass, field

from sapwood.data.problems import ProblemLog, names
from sapwood.data.shapes.table import SHAPES
from sapwood.errors import row_count

KNOWN = ("alpaca", "input-output", "prompt-completion", "question-answer", "messages", "sharegpt", "text")


@dataclass(slots=True)
class ReadReport:
    """What was found while reading.

    Attributes:
        rows: conversations read.
        formats: source -> the shape of its rows.
        ignored_keys: key -> rows that have it and for which it means nothing.
        control_rows: rows with control characters other than tab and line ends; they are kept.
        bare_rows: rows without an instruction, in files where others have one; their input is the prompt.
        counts: what was done with rows, in words -> how many. said: facts about whole files.
        dropped: rows left out by data.bad_rows, each with its fault (1,000 at most); num_dropped counts all.
        blank, num_blank: the same of data.empty.
    """

    rows: int = 0
    formats: dict[str, str] = field(default_factory=dict[str, str])
    ignored_keys: dict[str, int] = field(default_factory=dict[str, int])
    control_rows: int = 0
    bare_rows: int = 0
    counts: dict[str, int] = field(default_factory=dict[str, int])
    said: list[str] = field(default_factory=list[str])
    dropped: list[str] = field(default_factory=list[str])
    num_dropped: int = 0
    blank: list[str] = field(default_factory=list[str])
    num_blank: int = 0

    def take(self, log: ProblemLog) -> None:
        """What the readers of the files counted."""
        for what, count in log.counts.items():
            self.counts[what] = self.counts.get(what, 0) + count
        self.said += [line for line in log.said if line not in self.said]
        self.dropped += log.dropped
        self.num_dropped += log.num_dropped
        self.blank += log.blank
        self.num_blank += log.num_blank

    def notes(self) -> list[str]:
        """One sentence for each fact worth a line."""
        notes = list(self.said)
        for source, format in self.formats.items():
            if format not in KNOWN:
                notes.append(f"{source} is read as {format}: {SHAPES[format].reads[0]}")
        if self.num_dropped:
            first = "; ".join(self.dropped[:3])
            notes.append(f"left out (data.bad_rows: drop): {row_count(self.num_dropped)}, first {first}")
        if self.num_blank:
            first = "; ".join(self.blank[:3])
            told = f"left out (data.empty: drop): {row_count(self.num_blank)} without prompt or answer"
            notes.append(f"{told}, first {first}")
        if self.ignored_keys:
            most = max(self.ignored_keys.values())
            notes.append(f"ignored keys: {names(self.ignored_keys)} (in up to {row_count(most)})")
        if self.control_rows:
            notes.append(f"{row_count(self.control_rows)} with control characters, kept as they are")
        if self.bare_rows:
            notes.append(f"{row_count(self.bare_rows)} without an instruction; the input is the prompt")
        notes += [f"{count:,} rows {what}" for what, count in self.counts.items()]
        return notes
