"""A folder as files: what is learnt, what is held out, and what is left alone, by the names of splits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapwood.data.files.paths import BUILTIN, HUB, SUFFIXES, URL, is_data
from sapwood.data.problems import ProblemLog, names, printable
from sapwood.errors import DataError


def _split(words: str, chinese: str) -> re.Pattern[str]:
    """A name with one of the words by itself: test.jsonl, my-testset.csv, test_2.json; or a Chinese one."""
    return re.compile(
        rf"(^|[/_. -])({words})[ _-]?(sets?|data|split)?\d*([/_. -]|$)|{chinese}", re.IGNORECASE
    )


TRAIN = _split("train(ing)?", "训练")
VALIDATION = _split(
    "valid(ation)?|validate|val|dev|devel(opment)?|eval(uation)?|held[_-]?out|hold[_-]?out",
    "验证|校验|开发集",
)
TEST = _split("test(ing)?|devtest|testdev", "测试|评测")


def split_named(value: Any) -> str | None:
    """The split that a row's own column names; None for any other value."""
    if not isinstance(value, str):
        return None
    return next((name for name, split in SPLITS.items() if split.search(value.strip())), None)


SPLITS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}


@dataclass(frozen=True, slots=True)
class Splits:
    """Files of a folder. train: learnt; held: the validation files, or else the test files; rest: neither."""

    train: Sequence[str]
    held: Sequence[str] = ()
    rest: Sequence[str] = ()


def splits_of(files: Sequence[str]) -> Splits:
    """Which files are which split, by their names. Those that name none are learnt."""
    other = [name for name in files if VALIDATION.search(name) or TEST.search(name)]
    other = [name for name in other if not TRAIN.search(name)]
    train = [name for name in files if name not in other]
    validation = [name for name in other if VALIDATION.search(name)]
    held = validation or other
    return Splits(train, held, [name for name in other if name not in held])


def folder_splits(source: str, root: Path) -> Splits:
    """The files of an entry of data.train; itself, if it is a file. Raises DataError for a folder without
    data."""
    if source.startswith((BUILTIN, HUB)) or URL.match(source):
        return Splits([source])
    try:
        folder = root / Path(source).expanduser()
        if not folder.is_dir():
            return Splits([source])
        inside = sorted(entry.name for entry in folder.iterdir() if is_data(entry.name) and entry.is_file())
        inside = inside or _in_split_folders(folder)
    except (OSError, ValueError, RuntimeError):
        return Splits([source])  # opening it says what is wrong
    if not inside:
        mend = f"name files that end in {', '.join(SUFFIXES)}"
        why = "of the folders in it, only those named train, validation or test are searched"
        raise DataError("the folder holds no data", printable(source), why, mend)
    found = splits_of(inside)
    base = source.rstrip("/")
    return Splits(*([f"{base}/{name}" for name in part] for part in (found.train, found.held, found.rest)))


def _in_split_folders(folder: Path) -> list[str]:
    """Data files of the folders that are named as splits, as `datasets` saves several."""
    found: list[str] = []
    for inner in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        if any(split.search(inner.name) for split in (TRAIN, VALIDATION, TEST)):
            files = sorted(entry.name for entry in inner.iterdir() if is_data(entry.name) and entry.is_file())
            found += [f"{inner.name}/{name}" for name in files]
    return found


def files_of(source: str, root: Path, log: ProblemLog | None = None) -> list[str]:
    """The files to learn from, of an entry of data.train. Raises DataError."""
    found = folder_splits(source, root)
    if not found.train:
        why = f"it has only {names([Path(name).name for name in found.held])}"
        mend = f"name the file: data.train={printable(found.held[0])}"
        raise DataError("none of the folder's files is to train on", printable(source), why, mend)
    if log is not None:
        say_splits(log, source, found)
    return list(found.train)


def say_splits(log: ProblemLog, source: str, found: Splits) -> None:
    """Which files of an entry are learnt, if some are not."""
    if found.held or found.rest:
        base = f"{source.rstrip('/')}/"
        learnt, other = (
            names([name.removeprefix(base) for name in part])
            for part in (found.train, [*found.held, *found.rest])
        )
        log.say(f"{printable(source)}: {learnt} is learnt; {other} is another split, and not learnt")
