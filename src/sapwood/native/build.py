"""Compile the kernels where they are first needed, for the processor at hand, and keep what came out.

One call of a C++ compiler, a few seconds, once for each processor, compiler and version of the sources. A
machine without one, or another than Linux, computes by torch's own operations: slower, and as right.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent / "kernels"
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp", "-fno-math-errno",
         "-fno-trapping-math", "-ffp-contract=fast")  # fmt: skip
SWITCH = "SAPWOOD_NATIVE"  # 0: never
SECONDS = 120


class Unavailable(Exception):
    """Why there are no compiled kernels here."""


def library() -> ctypes.CDLL:
    """The compiled kernels. Raises Unavailable."""
    found = _found()
    if isinstance(found, Unavailable):
        raise found
    return found


def why_not() -> str | None:
    """Why there are no compiled kernels here; None where there are."""
    found = _found()
    return str(found) if isinstance(found, Unavailable) else None


@cache
def _found() -> ctypes.CDLL | Unavailable:
    """Looked for once a process, also where there are none."""
    try:
        return _opened()
    except Unavailable as reason:
        return reason


def _opened() -> ctypes.CDLL:
    if os.environ.get(SWITCH) == "0":
        raise Unavailable(f"{SWITCH}=0 switches them off")
    if not sys.platform.startswith("linux"):
        raise Unavailable(f"they are built on Linux only, not on {platform.system()}")
    compiler = shutil.which(os.environ.get("CXX") or "c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise Unavailable("no C++ compiler was found (Debian: apt install g++)")
    path = _folder() / f"{_key(compiler)}.so"
    if not path.is_file():
        _compile(compiler, path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"{path} can't be loaded: {error}") from None


def _folder() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("sapwood") / "native"


def _flags() -> list[str]:
    wide = ["-mprefer-vector-width=512"] if platform.machine() in ("x86_64", "AMD64") else []
    return [*FLAGS, *wide]


def _key(compiler: str) -> str:
    """Sources, flags, the compiler and the processor: what is compiled depends on nothing else."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    facts = [version, *_flags(), _processor(), *(path.read_text() for path in sorted(SOURCES.iterdir()))]
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))


def _compile(compiler: str, path: Path) -> None:
    """Each source by a process of its own, then all together."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            objects = [Path(folder) / f"{source.stem}.o" for source in sorted(SOURCES.glob("*.cpp"))]
            running = [
                _start([compiler, *_flags(), "-c", str(SOURCES / f"{part.stem}.cpp"), "-o", str(part)])
                for part in objects
            ]
            for process in running:
                _wait(compiler, process)
            made = Path(folder) / path.name
            _wait(compiler, _start([compiler, *_flags(), "-shared", *map(str, objects), "-o", str(made)]))
            made.replace(path)  # several processes may compile at once: each replaces the whole
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{compiler} failed: {error}") from None


def _start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _wait(compiler: str, process: subprocess.Popen[str]) -> None:
    try:
        _, said = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    if process.returncode:
        last = (said.strip().splitlines() or ["no message"])[-1]
        raise Unavailable(f"{compiler} failed: {last}")
