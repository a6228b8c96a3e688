"""The command line in a process of its own, forked from one that has imported everything: a start costs a
tenth of a second, where a cold one costs seconds of imports."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.forks import exit_code

ROOT = Path(__file__).parents[1]
Work = Callable[..., None]


def shell(
    *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What `sapwood ARGUMENTS` prints, and what it leaves with. ``env`` is added to the environment; what a
    library reads from it while it is imported comes too late."""
    return _piped(_program, arguments, cwd or Path.cwd(), {**os.environ, **(env or {})})


def python(code: str, *, cwd: Path) -> subprocess.CompletedProcess[str]:
    """What a script prints, and what it leaves with; it too finds everything imported."""
    return _piped(_script, (code,), cwd, dict(os.environ))


def in_a_terminal(*arguments: str, cwd: Path, env: Mapping[str, str]) -> str:
    """What a terminal is sent by it; ``env`` is the whole environment."""
    master, slave = os.openpty()
    sent: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the end, as a terminal tells it
            while piece := os.read(master, 65536):
                sent.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    where = os.ttyname(slave)
    code = _run(_program, arguments, str(cwd), dict(env), where, where)
    os.close(slave)
    reader.join()
    os.close(master)
    told = b"".join(sent).decode()
    assert code == 0, told
    return told


def _piped(
    work: Work, arguments: tuple[str, ...], cwd: Path, env: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as name:
        out, err = Path(name) / "out", Path(name) / "err"
        code = _run(work, arguments, str(cwd), env, str(out), str(err))
        told = [file.read_bytes().decode("utf-8", "replace") for file in (out, err)]
    return subprocess.CompletedProcess(arguments, code, *told)


def _run(work: Work, arguments: tuple[str, ...], cwd: str, env: dict[str, str], out: str, err: str) -> int:
    with contextlib.chdir(ROOT):  # what measures the coverage leaves its file where the parent was started
        return exit_code(work, arguments, cwd, env, out, err)


def _program(arguments: tuple[str, ...], *place: Any) -> None:
    from sapwood.cli import main

    _settle(*place)
    sys.argv = ["sapwood", *arguments]
    main()


def _script(arguments: tuple[str, ...], *place: Any) -> None:
    _settle(*place)
    exec(arguments[0], {"__name__": "__main__"})


def _settle(cwd: str, env: dict[str, str], out: str, err: str) -> None:
    """This process's folder, environment and streams."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    encoding = env.get("PYTHONIOENCODING", "utf-8")
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, out, None), (2, err, None)):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT if flags is None else flags)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding)
    sys.stdout = _stream(1, encoding, "strict")
    sys.stderr = _stream(2, encoding, "backslashreplace")


def _stream(number: int, encoding: str, errors: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(number, "w", closefd=False)), encoding, errors, write_through=True
    )
