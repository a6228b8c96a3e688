"""A power cut: what was not synced may be there, in part, or not at all; what was saved is found again.

A save with its rotation is recorded operation by operation. From the record every kind of disk that could be
left is built: each file as it was when last synced, or as it was at any moment since, or torn, or empty; each
folder with the names that it had when last synced, or at any moment since.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sapwood.run import files
from sapwood.train.checkpoint import newest_good, save_checkpoint
from sapwood.train.loop import train
from sapwood.types import Stepped
from tests.crash.work import folder_hash
from tests.train.runs import data, six_steps, start

STATES = 40  # for each moment
SETTINGS = six_steps()


@dataclass(slots=True)
class Disk:
    """What can be left of a tree. ``names``: for each folder, its entries when last synced and at every
    moment since; ``contents``: the same for each file. Both by inode."""

    root: Path
    names: dict[int, list[dict[str, int]]] = field(default_factory=dict[int, list[dict[str, int]]])
    contents: dict[int, list[bytes]] = field(default_factory=dict[int, list[bytes]])
    syncs: bool = True

    def look(self) -> None:
        """Note how everything is at this moment."""
        for folder in [self.root, *(p for p in self.root.rglob("*") if p.is_dir())]:
            entries = {p.name: p.stat().st_ino for p in folder.iterdir()}
            known = self.names.setdefault(folder.stat().st_ino, [{}])
            known += [entries] * (entries != known[-1])
        for file in (p for p in self.root.rglob("*") if p.is_file()):
            content, forms = file.read_bytes(), self.contents.setdefault(file.stat().st_ino, [b""])
            forms += [content] * (content != forms[-1])

    def sync(self, inode: int) -> None:
        """Only its newest form is left for sure."""
        if not self.syncs:
            return
        for known in (self.names, self.contents):
            if inode in known:
                del known[inode][:-1]

    def left(self, rng: random.Random, target: Path, inode: int) -> None:
        """Build one of the disks that could be left."""
        target.mkdir()
        for name, entry in rng.choice(self.names[inode]).items():
            if entry in self.names:
                self.left(rng, target / name, entry)
            else:
                forms = self.contents[entry]
                content = rng.choice(forms)
                torn = len(forms) > 1 and rng.random() < 0.3
                (target / name).write_bytes(content[: rng.randrange(len(content) + 1)] if torn else content)


@contextmanager
def recorded(disk: Disk, moments: list[Disk]) -> Generator[None]:
    """Every operation of the block is a moment at which the power may go."""
    fsync = os.fsync

    def moment(name: str, path: Path) -> None:
        disk.look()
        copies = {inode: list(forms) for inode, forms in disk.names.items()}
        contents = {inode: list(forms) for inode, forms in disk.contents.items()}
        moments.append(Disk(disk.root, copies, contents))

    def synced(handle: int) -> None:
        fsync(handle)
        disk.look()
        disk.sync(os.fstat(handle).st_ino)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", synced)
        patch.setattr(files, "on_operation", moment)
        patch.setattr(files, "_remove_tree", lambda path: None)  # an inode that is free may be another file's
        yield


def found_after(tmp_path: Path, *, synced: bool, states: int) -> tuple[list[str | None], str, str]:
    """(hashes of the checkpoints found on every disk that could be left, in the order of moments; the hash of
    the old checkpoint; that of the new one). ``synced``: whether fsync does anything."""
    run, rng = tmp_path / "run", random.Random(9)
    run.mkdir()
    model, state = start(SETTINGS)
    events = train(model, data(held_out=0), state, SETTINGS)
    assert isinstance(next(events), Stepped)
    old = folder_hash(save_checkpoint(run, model, state, keep=1, events_length=0))
    assert isinstance(next(events), Stepped)
    disk, moments = Disk(run), list[Disk]()
    disk.look()
    for inode in (*disk.names, *disk.contents):
        disk.sync(inode)
    disk.syncs = synced
    with recorded(disk, moments):
        new = folder_hash(save_checkpoint(run, model, state, keep=1, events_length=0))
    disk.look()
    assert len(moments) > 15
    found: list[str | None] = []
    for number, left in enumerate([*moments, disk]):
        for case in range(states):
            target = tmp_path / f"{number}-{case}"
            left.left(rng, target, run.stat().st_ino)
            best, _ = newest_good(target)
            found.append(None if best is None else folder_hash(best))
            shutil.rmtree(target)
    return found, old, new


def test_after_a_power_cut_at_any_moment_the_old_or_the_new_is_found(tmp_path: Path) -> None:
    found, old, new = found_after(tmp_path, synced=True, states=STATES)
    assert set(found) == {old, new}, "never neither"
    assert found[0] == old
    assert set(found[-STATES:]) == {new}, "what a save has acknowledged lasts"
    assert len(found) >= 500


def test_without_fsync_it_would_be_lost(tmp_path: Path) -> None:
    found, _, new = found_after(tmp_path, synced=False, states=10)
    assert None in found
    assert set(found[-10:]) != {new}
