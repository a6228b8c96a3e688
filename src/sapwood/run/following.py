"""A run that is looked at again and again: each look reads only what came since the last one."""

from __future__ import annotations

from pathlib import Path

from sapwood.run.events import EventRecord, Tally, valid
from sapwood.run.lines import read_lines
from sapwood.run.query import RunSummary, Standing, standing, summary_of
from sapwood.run.store import EVENTS

MARK = 256  # bytes before the offset that must still be there


class Following:
    """Reads a run's log bit by bit. After a resume, which cuts the log back, everything is read anew.

    Attributes:
        tally: the figures so far. turned: how often the log was read from its beginning.
        standing: what the small files said at the last look.
    """

    def __init__(self, run: Path) -> None:
        self.path = run
        self.tally = Tally()
        self.turned = 0
        self.standing: Standing = standing(run)
        self._offset, self._damaged, self._mark = 0, 0, b""

    def look(self) -> list[EventRecord]:
        """The new events; all events if the log was cut, and then `turned` has grown.

        Raises StorageError if the run is gone.
        """
        self.standing = standing(self.path)
        if self._cut():
            self.tally, self._offset, self._damaged, self._mark = Tally(), 0, 0, b""
            self.turned += 1
        lines = read_lines(self.path / EVENTS, self._offset)
        if not lines.records and not lines.garbage:
            return []
        events = valid(lines.records)
        self._offset = lines.next_offset
        self._mark = self._before(self._offset)
        self._damaged += lines.garbage + len(lines.records) - len(events)
        self.tally.add(events)
        return events

    def summary(self) -> RunSummary:
        """The run in figures, as of the last look."""
        return summary_of(self.standing, self.tally, self._damaged)

    def _cut(self) -> bool:
        """Whether the part of the log that was read last has changed since."""
        return self._offset > 0 and self._before(self._offset) != self._mark

    def _before(self, offset: int) -> bytes:
        try:
            with (self.path / EVENTS).open("rb") as file:
                file.seek(max(0, offset - MARK))
                return file.read(min(MARK, offset))
        except OSError:
            return b""
