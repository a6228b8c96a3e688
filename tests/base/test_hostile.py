"""Every hostile model file through the front door, while an audit hook and the kernel watch what is opened
and run."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sapwood.base.inspect import inspect_base
from sapwood.base.load import load_base
from sapwood.config.sections import BaseConfig
from sapwood.errors import SapwoodError
from tests.base.hostile import CLEANED, FOLDER, GGUF, RAN, SAFETENSORS, Cases, Make, lay_out

REFUSED: Cases = {**GGUF, **SAFETENSORS, **FOLDER}
RUNNING = ("exec", "import", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn",
           "pickle.find_class", "socket.connect", "socket.getaddrinfo", "ctypes.dlopen")  # fmt: skip
IN_OPEN = 0x20


class Watch:
    """What this process opens and runs, as Python's audit events tell it. A hook can't be taken away, so one
    object serves all tests, switched on for a moment each."""

    def __init__(self) -> None:
        self.on = False
        self.opened: list[Path] = []
        self.ran: list[str] = []
        sys.addaudithook(self.hook)

    def hook(self, event: str, args: tuple[object, ...]) -> None:
        if not self.on:
            return
        if event == "open" and isinstance(args[0], str | bytes):
            self.opened.append(Path(os.fsdecode(args[0])))
        elif event in RUNNING:
            self.ran.append(f"{event} {args[:1]}")

    @contextmanager
    def __call__(self) -> Generator[None]:
        self.opened, self.ran, self.on = [], [], True
        try:
            yield
        finally:
            self.on = False


@pytest.fixture(scope="session")
def watch() -> Watch:
    return Watch()


@contextmanager
def opens_of(folder: Path) -> Generator[list[str]]:
    """Names of files below ``folder`` that anybody opens meanwhile, compiled libraries included (inotify)."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(handle, os.fsencode(folder), IN_OPEN) >= 0
    names: list[str] = []
    try:
        yield names
        try:
            events = os.read(handle, 65536)
        except BlockingIOError:
            return
        at = 0
        while at < len(events):
            (length,) = struct.unpack_from("I", events, at + 12)
            names.append(events[at + 16 : at + 16 + length].rstrip(b"\0").decode())
            at += 16 + length
    finally:
        os.close(handle)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models that every case starts from; opened once, so that all imports are done."""
    folder = tmp_path_factory.mktemp("good")
    lay_out(folder)
    for name in ("model", "model.gguf"):
        open_model(folder / name)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAPWOOD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def open_model(path: Path) -> None:
    config = BaseConfig(model=str(path), storage="fp32")
    load_base(inspect_base(config), config)


def case(good: Path, tmp_path: Path, id: str, make: Make) -> Path:
    """The model's path, after the case was made of a fresh copy."""
    folder = tmp_path / "case"
    shutil.copytree(good, folder)
    make(folder)
    return folder / ("model.gguf" if id.startswith("gguf") else "model")


def outside_of(path: Path, cache: Path, opened: list[Path]) -> list[Path]:
    """Opened files that belong neither to the model nor to sapwood, Python, or the machine's own facts."""
    fine = (path, cache, Path("/proc"), Path("/sys"), Path("/dev"), Path(sys.prefix), Path(sys.base_prefix),
            *(Path(entry) for entry in sys.path if entry))  # fmt: skip
    return [one for one in opened if one.is_absolute() and not any(one.is_relative_to(f) for f in fine)]


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
@pytest.mark.parametrize("id", REFUSED)
def test_it_is_refused_and_nothing_of_it_runs(
    good: Path, tmp_path: Path, cache: Path, watch: Watch, id: str
) -> None:
    make, message = REFUSED[id]
    path = case(good, tmp_path, id, make)
    refusal = pytest.raises(SapwoodError, match=message)
    with opens_of(tmp_path / "case" / "outside") as leaked, watch(), refusal as caught:
        open_model(path)
    assert not leaked and not outside_of(path, cache, watch.opened)
    assert not [ran for ran in watch.ran if "evil" in ran or not ran.startswith("import")]
    assert not list(tmp_path.rglob(RAN))
    assert caught.value.exit_code == 4
    said = str(caught.value)
    assert "model" in said and len(said) < 4000 and all(line.isprintable() for line in said.splitlines())


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
@pytest.mark.parametrize("id", CLEANED)
def test_what_is_harmless_once_cleaned_opens_and_is_not_obeyed(
    good: Path, tmp_path: Path, cache: Path, watch: Watch, id: str
) -> None:
    path = case(good, tmp_path, id, CLEANED[id])
    with opens_of(tmp_path / "case" / "outside") as leaked, watch():
        open_model(path)
    assert not leaked and not outside_of(path, cache, watch.opened)
    assert not [ran for ran in watch.ran if "evil" in ran or not ran.startswith("import")]


def test_there_are_as_many_as_were_asked_for() -> None:
    assert len(GGUF) >= 40 and len(SAFETENSORS) >= 30 and len(FOLDER) >= 30
