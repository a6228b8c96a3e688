"""What goes wrong, said once: what, where, why, how to mend it; and the exit code that goes with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

SENTENCE = re.compile(r"(?<=[.!?])(?= )|(?<=[。！？])")  # where one ends


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        what: the fault, in one clause ("row has no answer").
        where: the place a person can open: ``file:line``, ``file:line:column``, or a key path (``train.lr``).
        why: why sapwood can't go on, or what would have happened.
        mend: what to type or to edit.
    """

    what: str
    where: str = ""
    why: str = ""
    mend: str = ""

    def __str__(self) -> str:
        return " · ".join(part for part in (self.what, self.where, self.why, self.mend) if part)


class SapwoodError(Exception):
    """A failure that a person can act on. The CLI prints it without a traceback and leaves with
    ``exit_code``.

    Args:
        what: the fault in one clause, or several problems.
        where: the place a person can open.
        why: why sapwood can't go on.
        mend: what to type or to edit.

    Attributes:
        problems: every problem that was found, not only the first; each has ``what``, ``where``, ``why`` and
            ``mend``.
        exit_code: what the CLI leaves with.
        shown: number of problems that its text holds before the rest is counted.

    Examples:
        >>> try:
        ...     sapwood.load_config(None, ["lora.r=8"])
        ... except sapwood.SapwoodError as error:
        ...     print(error.problems[-1].mend, error.exit_code)
        here it is lora.rank 2
    """

    exit_code = 1
    shown = 20  # problems printed before the rest is counted

    def __init__(self, what: str | Sequence[Problem], where: str = "", why: str = "", mend: str = "") -> None:
        if isinstance(what, str):
            self.problems: tuple[Problem, ...] = (Problem(what, where, why, mend),)
        else:
            self.problems = tuple(what)
            if not self.problems:
                raise ValueError("an error needs at least one problem")
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems[: self.shown]]
        more = len(self.problems) - self.shown
        if more > 0:
            lines.append(f"… and {more} more")
        return "\n".join(lines)


class ConfigError(SapwoodError):
    """The command line or the config file is wrong."""

    exit_code = 2


class DataError(SapwoodError):
    """A row, a file or a template can't be trained on."""

    exit_code = 3


class ModelError(SapwoodError):
    """A base model or an adapter is missing, damaged or doesn't fit."""

    exit_code = 4


class StorageError(SapwoodError):
    """A folder or a disk can't take or give back what a run needs."""

    exit_code = 5


class NumericsError(SapwoodError):
    """A loss or a gradient stopped being a number."""

    exit_code = 6


class BadStepError(NumericsError):
    """One step's loss or gradient is no number. The step changed nothing."""


class ShortageError(SapwoodError):
    """The machine ran out of room on a disk, or of open files, while something was tried. That says nothing
    about the model or the files that it was tried with."""

    exit_code = 5


class OutOfMemoryError(ShortageError):
    """A step needs more memory than there is."""

    exit_code = 1


class LockedError(SapwoodError):
    """Another process holds this run."""

    exit_code = 7


class ExportError(SapwoodError):
    """What was exported doesn't behave like the model that was trained, or can't be written in that form."""

    exit_code = 8


STOPPED_RESUMABLE = 75  # EX_TEMPFAIL: stopped at a step boundary, saved; `sapwood resume` goes on


class Stopped(SapwoodError):
    """Not a failure: a signal or a watcher asked the run to stop. The run is saved; `resume` goes on.

    Examples:
        >>> try:
        ...     adapter = sapwood.finetune(settings, lambda event: sapwood.Stop(), data=frame)
        ... except sapwood.Stopped as stopped:
        ...     adapter = sapwood.resume(sapwood.Run("last").path)
    """

    exit_code = STOPPED_RESUMABLE


class LostProcessError(SapwoodError):
    """Another process of the run ended or hangs. This process's state is whole; `sapwood resume` goes on."""

    exit_code = STOPPED_RESUMABLE


def brief(said: object, limit: int = 200) -> str:
    """What a library says, in one line: as many whole sentences as ``limit`` characters hold. If that leaves
    less than half of them, the line ends at a word, with an ellipsis. An exception without a text is named.
    """
    text = " ".join(str(said).split())
    if not text and isinstance(said, Exception):
        return type(said).__name__
    if len(text) <= limit:
        return text
    end = max((found.start() for found in SENTENCE.finditer(text, 0, limit + 1)), default=0)
    if end >= limit // 2:
        return text[:end]
    at = text.rfind(" ", limit // 2, limit - 1)
    return text[: at if at > 0 else limit - 2].rstrip(",;:") + " …"


def row_count(rows: int) -> str:
    """``1 row``, ``2,000 rows``."""
    return f"{rows:,} row{'' if rows == 1 else 's'}"


def first_line(error: Exception) -> str:
    """The first line of what a library says."""
    return brief(next((line for line in str(error).splitlines() if line.strip()), type(error).__name__), 300)
