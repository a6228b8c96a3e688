"""``hf:``: files of a hub's dataset, as copies on this disk.

`datasets` lists and downloads them into its cache; our own readers read them. No builder is chosen by what
the dataset's folder says, no script of it is run, and no type is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

from sapwood.data.files.folder import TEST, TRAIN, VALIDATION, Splits, say_splits, splits_of
from sapwood.data.files.paths import HUB, is_data
from sapwood.data.problems import ProblemLog, printable
from sapwood.errors import DataError, brief
from sapwood.machine.bars import told_bars
from sapwood.machine.extras import install

_PATH = re.compile(r"hf:(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<file>[\w.*/ -]+))?")
SHOWN = 8  # files that a message names


def hub_files(path: str, log: ProblemLog | None = None) -> dict[str, str]:
    """``hf:ORG/NAME[@REVISION][/FILE]``: name of each file -> its copy on this disk.

    FILE may hold ``*``. Without it the training files are taken if it is clear which those are; ``log`` is
    told which. Raises DataError.
    """
    found = hub_splits(path)
    if log is not None:
        say_splits(log, path, found)
    base = _base(path)
    names = [name.removeprefix(f"{HUB}{base}/") for name in found.train]
    local = _ask(printable(path), lambda _: [_copy(name, base) for name in names])
    return dict(zip(found.train, local, strict=True))


def hub_splits(path: str) -> Splits:
    """The files of ``hf:ORG/NAME[@REVISION][/FILE]`` by their splits, each as a path of its own; without FILE
    those of the training files' folder and kind are held out. Raises DataError."""
    where, base, names = printable(path), _base(path), list(_urls(path))
    if _match(path)["file"]:
        return Splits([f"{HUB}{base}/{name}" for name in names])
    data = [name for name in names if is_data(PurePosixPath(name).name)]
    chosen = training_files(data, base, where)
    kinds = {_kind(name) for name in chosen}
    other = splits_of([name for name in data if name not in chosen and _kind(name) in kinds])
    parts = ([name for name in data if name in chosen], other.held, [*other.train, *other.rest])
    return Splits(*([f"{HUB}{base}/{name}" for name in part] for part in parts))


def _match(path: str) -> re.Match[str]:
    match = _PATH.fullmatch(path)
    if match is None or (match["file"] and not is_data(match["file"].replace("*", "x"))):
        mend = "write hf:ORG/NAME, hf:ORG/NAME/FILE or hf:ORG/NAME@REVISION/FILE; FILE may hold *"
        raise DataError("the path names no data file of a dataset", printable(path), "", mend)
    return match


def _base(path: str) -> str:
    """``ORG/NAME[@REVISION]``."""
    match = _match(path)
    return f"{match['name']}@{match['revision']}" if match["revision"] else match["name"]


def _urls(path: str) -> dict[str, str]:
    """Name of each file that the path may mean, in its dataset -> the hub's address of it."""
    pattern = _match(path)["file"] or "**"
    listed: list[str] = _ask(printable(path), lambda _: _listed(pattern, _base(path)))
    return {url.split("/", 5)[-1]: url for url in listed}


def _kind(name: str) -> tuple[PurePosixPath, str]:
    return PurePosixPath(name).parent, PurePosixPath(name).suffix.lower()


def training_files(names: Sequence[str], base: str, where: str) -> set[str]:
    """Of a dataset's data files those to train on: those called train, or all if none bears the name of
    another split; in one folder and of one kind. Raises DataError, with what there is, if they aren't."""

    def other(name: str) -> bool:
        return VALIDATION.search(name) is not None or TEST.search(name) is not None

    chosen = [name for name in names if TRAIN.search(name) and not other(name)]
    if not chosen and not any(map(other, names)):
        chosen = list(names)
    if len({_kind(name) for name in chosen}) == 1:
        return {*chosen}
    if not names:
        raise DataError("the dataset holds no data file that can be read", where)
    there = [f"{HUB}{base}/{printable(name)}" for name in names]
    more = f" and {len(there) - SHOWN:,} more" if len(there) > SHOWN else ""
    why = "several of its files could be meant" if chosen else "none of its data files is called train"
    mend = f"say which: {', '.join(there[:SHOWN])}{more}"
    raise DataError("it is not clear which file to train on", where, why, mend)


def _listed(pattern: str, base: str) -> list[str]:
    from datasets.data_files import resolve_pattern

    return sorted(resolve_pattern(pattern, base_path=f"hf://datasets/{base}"))


def _copy(name: str, base: str) -> str:
    """A dataset's file in the hub's cache, fetched if it isn't there, as `datasets` would fetch it."""
    from huggingface_hub import hf_hub_download

    repo, _, revision = base.partition("@")
    with told_bars(f"fetching {printable(name)}", "B") as bar:
        return hf_hub_download(
            repo,
            name,
            repo_type="dataset",
            revision=revision or None,
            tqdm_class=bar,
            library_name="datasets",
        )


def _ask(where: str, question: Callable[[Any], Any]) -> Any:
    """The answer of `datasets` to a call. Raises DataError."""
    try:
        import datasets
    except ImportError:
        raise DataError("hf: needs datasets", where, mend=install("data")) from None
    try:
        return question(datasets)
    except Exception as error:  # a library over a network fails in many ways
        why = printable(brief(error))
        mend = "look at the name, at the network, and at HF_TOKEN for a private dataset"
        raise DataError("the dataset can't be fetched", where, why, mend) from None
