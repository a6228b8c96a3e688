from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sapwood.errors import StorageError
from sapwood.run import files
from sapwood.run.files import (
    MANIFEST,
    discard_dir,
    read_manifest,
    set_aside,
    staged_dir,
    sweep_staging,
    verify_dir,
    write_atomic,
)
from tests.run.shared import die_before, fail_at


def publish(final: Path, seed: int = 1) -> Path:
    """Three files, one of them below a folder, one of them empty."""
    rng = random.Random(seed)
    with staged_dir(final, {"step": seed}) as stage:
        (stage / "adapter.bin").write_bytes(rng.randbytes(3000))
        (stage / "state").mkdir()
        (stage / "state" / "moments.bin").write_bytes(rng.randbytes(700))
        (stage / "empty").touch()
    return final


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


# --- write_atomic


def test_write_replaces_the_content_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a.json", "old")
    write_atomic(tmp_path / "a.json", b"new \xff")
    assert (tmp_path / "a.json").read_bytes() == b"new \xff"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask(tmp_path: Path, umask: int) -> None:
    from safetensors.numpy import save_file

    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "a.json", "x")
        with staged_dir(tmp_path / "final") as stage:
            save_file({"w": np.zeros(3, np.float32)}, stage / "a.safetensors")
            (stage / "a.safetensors").chmod(0o600)
    finally:
        os.umask(before)
    made = [tmp_path / "a.json", tmp_path / "final" / "a.safetensors", tmp_path / "final" / MANIFEST]
    assert {path.stat().st_mode & 0o777 for path in made} == {0o666 & ~umask}


def test_a_write_killed_anywhere_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_atomic(path, "old" * 100)
    seen: set[str] = set()
    number = 1
    while die_before(number, lambda: write_atomic(path, "new" * 100)):
        seen.add(path.read_text()[:3])
        assert path.read_text() in ("old" * 100, "new" * 100)
        number += 1
    assert number > 5
    assert seen == {"old", "new"}
    sweep_staging(tmp_path)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("forever", [False, True])
def test_a_write_on_a_full_disk_is_a_storage_error_and_keeps_the_old(tmp_path: Path, forever: bool) -> None:
    path = tmp_path / "status.json"
    for number in range(1, 6):
        write_atomic(path, "old")
        files.on_operation = fail_at(number, errno.ENOSPC, forever=forever)
        with pytest.raises(StorageError, match=r"disk is full.*status.json.*3 bytes needed, [\d,]+ free"):
            write_atomic(path, "new")
        files.on_operation = None
        assert path.read_text() == ("old" if number < 5 else "new")  # 5: only the folder's fsync was left
        sweep_staging(tmp_path)
    assert leftovers(tmp_path) == []


# --- staged_dir


def test_a_published_folder_verifies_and_tells_its_facts(tmp_path: Path) -> None:
    manifest = verify_dir(publish(tmp_path / "deep" / "step-1", seed=7))
    assert [(entry.name, entry.size) for entry in manifest.files] == [
        ("adapter.bin", 3000),
        ("empty", 0),
        ("state/moments.bin", 700),
    ]
    assert manifest.facts == {"step": 7}
    assert manifest.size == 3700
    assert leftovers(tmp_path / "deep") == []


def test_facts_may_be_added_while_the_folder_is_written(tmp_path: Path) -> None:
    facts: dict[str, int] = {}
    with staged_dir(tmp_path / "final", facts) as stage:
        (stage / "a").write_text("a")
        facts["events_length"] = 12
    assert read_manifest(tmp_path / "final").facts == {"events_length": 12}


def test_an_exception_in_the_block_publishes_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), staged_dir(tmp_path / "final") as stage:
        (stage / "a").write_text("a")
        raise KeyError("mine")
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_is_not_the_disks_passes_unchanged(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError), staged_dir(tmp_path / "final"):
        raise ConnectionResetError(errno.ECONNRESET, "peer left")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["full", "empty", "file", "link"])
def test_nothing_that_exists_is_overwritten(tmp_path: Path, kind: str) -> None:
    final = tmp_path / "final"
    if kind == "full":
        publish(final)
    elif kind == "empty":
        final.mkdir()
    elif kind == "file":
        final.write_text("precious")
    else:
        final.symlink_to("nowhere")
    with pytest.raises(StorageError, match="exists already"), staged_dir(final):
        raise AssertionError("the block must not run")
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_a_folder_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    final = tmp_path / "final"
    with pytest.raises(StorageError, match="exists already"), staged_dir(final) as stage:
        (stage / "a").write_text("mine")
        final.mkdir()
    assert list(final.iterdir()) == []
    assert leftovers(tmp_path) == []


def test_a_link_among_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="only plain files"), staged_dir(tmp_path / "final") as stage:
        (stage / "passwd").symlink_to("/etc/passwd")
    assert list(tmp_path.iterdir()) == []


def test_every_file_is_synced_before_the_manifest_and_the_manifest_before_the_rename(tmp_path: Path) -> None:
    log: list[tuple[str, str]] = []
    files.on_operation = lambda name, path: log.append((name, path.name.partition("-")[0]))
    publish(tmp_path / "final")
    synced = [log.index(("fsync", name)) for name in ("adapter.bin", "moments.bin", "empty")]
    manifest = [log.index((name, MANIFEST)) for name in ("open", "write", "fsync")]
    folders = [log.index(("fsync", name)) for name in ("state", ".tmp")]
    rename = log.index(("rename", "final"))
    assert max(synced) < manifest[0]
    assert manifest == sorted(manifest)
    assert manifest[-1] < min(folders) <= max(folders) < rename
    assert log[rename + 1 :] == [("fsync", tmp_path.name.partition("-")[0])]


def test_a_publish_killed_anywhere_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    old, new = publish(tmp_path / "step-1"), tmp_path / "step-2"
    before = after = 0
    number = 1
    while die_before(number, lambda: publish(new, seed=2)):
        assert verify_dir(old).facts == {"step": 1}
        if new.exists():
            assert verify_dir(new).facts == {"step": 2}
            shutil.rmtree(new)
            after += 1
        else:
            before += 1
        sweep_staging(tmp_path)
        assert leftovers(tmp_path) == []
        number += 1
    assert verify_dir(new).facts == {"step": 2}
    assert before >= 10
    assert after == 1  # killed between the rename and the parent's fsync


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("forever", [False, True])
def test_a_publish_that_fails_anywhere_is_a_storage_error_and_can_be_repeated(
    tmp_path: Path, error: int, forever: bool
) -> None:
    final = tmp_path / "step-1"
    failed = 0
    for number in range(1, 100):
        files.on_operation = fail_at(number, error, forever=forever)
        try:
            publish(final)
        except StorageError as fault:
            failed += 1
            assert str(tmp_path) in str(fault)
        finally:
            files.on_operation = None
        if final.exists():
            verify_dir(final)
            break
        sweep_staging(tmp_path)
    assert failed >= 10
    verify_dir(final)


def test_a_rename_that_may_not_last_is_taken_back(tmp_path: Path) -> None:
    def refuse(name: str, path: Path) -> None:
        if (name, path) == ("fsync", tmp_path):
            raise OSError(errno.EIO, "Input/output error")

    files.on_operation = refuse
    with pytest.raises(StorageError, match="Input/output error"):
        publish(tmp_path / "step-1")
    assert list(tmp_path.iterdir()) == []


LIMITED_CHILD = """
import resource, sys
import numpy as np
from pathlib import Path
from safetensors.numpy import save_file
from sapwood.errors import StorageError
from sapwood.run.files import staged_dir
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    with staged_dir(Path(sys.argv[1])) as stage:
        if sys.argv[2] == "safetensors":
            save_file({"w": np.zeros(100_000, np.float32)}, stage / "w.safetensors")
        else:
            (stage / "w.bin").write_bytes(bytes(400_000))
except StorageError as error:
    print(error)
"""


@pytest.mark.parametrize("writer", ["safetensors", "python"])
def test_a_real_refusal_of_the_kernel_is_a_storage_error(tmp_path: Path, writer: str) -> None:
    command = [sys.executable, "-c", LIMITED_CHILD, str(tmp_path / "final"), writer]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "the disk refused a write" in done.stdout
    assert "File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []


# --- verify_dir


def test_200_of_200_bit_flips_and_truncations_are_detected(tmp_path: Path) -> None:
    rng = random.Random(0)
    sound = publish(tmp_path / "sound")
    targets = [path.relative_to(sound) for path in sound.rglob("*") if path.is_file() and path.stat().st_size]
    detected = 0
    for trial in range(200):
        name = rng.choice(targets)
        content = bytearray((sound / name).read_bytes())
        if trial % 4 == 3:
            del content[rng.randrange(len(content)) :]
        else:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        copy = shutil.copytree(sound, tmp_path / "copy")
        (copy / name).write_bytes(content)
        with pytest.raises(StorageError) as fault:
            verify_dir(copy)
        detected += str(copy / name) in str(fault.value)
        shutil.rmtree(copy)
    assert detected == 200
    verify_dir(sound)


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    final = publish(tmp_path / "final")
    (final / "adapter.bin").write_bytes(bytes(3000))
    (final / "state" / "moments.bin").write_bytes(b"short")
    (final / "empty").unlink()
    (final / "planted").write_text("x")
    with pytest.raises(StorageError) as fault:
        verify_dir(final)
    found = {(problem.what, Path(problem.where).name) for problem in fault.value.problems}
    assert found == {
        ("sha256 differs", "adapter.bin"),
        ("size differs", "moments.bin"),
        ("file is missing", "empty"),
        ("file is not in the manifest", "planted"),
    }


def test_a_folder_without_a_manifest_was_never_finished(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(StorageError, match="manifest is missing"):
            verify_dir(path)
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(StorageError, match="can't be read"):
        verify_dir(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3, "facts": {}, "schema": 1}', "[" * 99_999])
def test_a_manifest_that_is_not_ours_is_damaged(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(StorageError, match="manifest is damaged"):
        verify_dir(tmp_path)


def test_a_manifest_of_a_later_version_says_so(tmp_path: Path) -> None:
    final = publish(tmp_path / "final")
    tree = json.loads((final / MANIFEST).read_text())
    (final / MANIFEST).write_text(files.to_json({**tree, "schema": 2}))
    with pytest.raises(StorageError, match="its format is 2, this sapwood reads 1"):
        verify_dir(final)


def test_a_file_replaced_by_a_link_to_its_own_content_is_refused(tmp_path: Path) -> None:
    final = publish(tmp_path / "final")
    (final / "adapter.bin").rename(tmp_path / "elsewhere")
    (final / "adapter.bin").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="not a plain file"):
        verify_dir(final)


def test_a_name_that_leads_outside_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    entry = files.FileEntry("../secret", 1, "0" * 64)
    final = tmp_path / "final"
    final.mkdir()
    (final / MANIFEST).write_bytes(files._render(files.Manifest((entry,), {})))
    with pytest.raises(StorageError, match="file is missing"):
        verify_dir(final)


# --- the rest


def test_damaged_things_are_set_aside_under_names_that_never_clash(tmp_path: Path) -> None:
    names: list[str] = []
    for content in "abc":
        (tmp_path / "step-1").mkdir()
        (tmp_path / "step-1" / "w").write_text(content)
        names.append(set_aside(tmp_path / "step-1", "sha 256!").name)
    assert names == [".bad-sha-256-step-1", ".bad-sha-256-step-1-2", ".bad-sha-256-step-1-3"]
    assert [(tmp_path / name / "w").read_text() for name in names] == ["a", "b", "c"]
    with pytest.raises(StorageError, match="absent"):
        set_aside(tmp_path / "absent", "x")


def test_a_discarded_folder_is_whole_or_gone(tmp_path: Path) -> None:
    number = 1
    while die_before(number, lambda: discard_dir(publish(tmp_path / "step-1"))):
        if (tmp_path / "step-1").exists():
            verify_dir(tmp_path / "step-1")
            discard_dir(tmp_path / "step-1")
        sweep_staging(tmp_path)
        assert list(tmp_path.iterdir()) == []
        number += 1
    assert number > 15
    assert list(tmp_path.iterdir()) == []


def test_sweeping_removes_staging_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".tmp-step-2-abc").mkdir()
    (tmp_path / ".tmp-step-2-abc" / "w").write_text("w")
    (tmp_path / ".tmp-abcdef").write_text("half")
    publish(tmp_path / "step-1")
    set_aside(publish(tmp_path / "step-0"), "sha256")
    assert sweep_staging(tmp_path) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [".bad-sha256-step-0", "step-1"]
    assert sweep_staging(tmp_path / "absent") == 0
