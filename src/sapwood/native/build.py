"""Compile the C++ sources when they are first needed, for the processor at hand, and keep what came out.

That is one call of a C++ compiler, a few seconds, once for each processor, compiler and version of the
sources. A machine without a compiler, or without Linux, computes by torch's own operations: slower, with
results as right.
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
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from sapwood.machine.doing import counted
from sapwood.machine.shortage import refuse_shortage
from sapwood.machine.system import kernel_file

SWITCH = "SAPWOOD_NATIVE"  # 0: never
PROCESSOR = os.environ.get("SAPWOOD_MARCH", "native")  # x86-64-v3, for example: what a narrower one is given
SECONDS = 120


class Unavailable(Exception):
    """Why something can't be compiled or used here."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The C++ files of one library. torch: they include its headers, and are linked with it."""

    folder: Path
    flags: tuple[str, ...]
    torch: bool = False

    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())

    def includes(self) -> list[str]:
        return [f"-I{_torch() / 'include'}"] if self.torch else []

    def links(self) -> list[str]:
        return [f"-L{_torch() / 'lib'}", "-lc10"] if self.torch else []


def _torch() -> Path:
    spec = find_spec("torch")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


_WIDE = ("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()
KERNELS = Sources(
    Path(__file__).parent / "kernels",
    ("-O3", f"-march={PROCESSOR}", "-std=c++17", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math",
     "-ffp-contract=fast", *_WIDE),
)  # fmt: skip
HEAP = Sources(Path(__file__).parent / "allocator", ("-O2", "-std=c++20", "-fPIC"), torch=True)


def library(sources: Sources = KERNELS) -> ctypes.CDLL:
    """The library compiled from ``sources``. Raises Unavailable."""
    found = _found(sources)
    if isinstance(found, Unavailable):
        raise found
    return found


def why_not(sources: Sources = KERNELS) -> str | None:
    """Why that library can't be had here; None if it can."""
    found = _found(sources)
    return str(found) if isinstance(found, Unavailable) else None


@cache
def _found(sources: Sources) -> ctypes.CDLL | Unavailable:
    """The library, looked for once a process, even if there is none."""
    try:
        return _opened(sources)
    except Unavailable as reason:
        return reason


def _opened(sources: Sources) -> ctypes.CDLL:
    if os.environ.get(SWITCH) == "0":
        raise Unavailable(f"{SWITCH}=0 switches them off")
    if not sys.platform.startswith("linux"):
        raise Unavailable(f"they are built on Linux only, not on {platform.system()}")
    compiler = shutil.which(os.environ.get("CXX") or "c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise Unavailable("no C++ compiler was found (Debian: apt install g++)")
    path = _folder() / f"{_key(compiler, sources)}.so"
    if not path.is_file():
        _compile(compiler, sources, path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        refuse_shortage(error, "the compiled kernels were loaded")
        raise Unavailable(f"{path} can't be loaded: {error}") from None


def _folder() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("sapwood") / "native"


def _key(compiler: str, sources: Sources) -> str:
    """Sources, flags, the compiler, the processor, and torch if it is needed: what is compiled depends on
    nothing else."""
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    torch = [version("torch"), *sources.includes()] if sources.torch else []
    texts = [file.read_text() for file in sources.files()]
    facts = [done.stdout, *sources.flags, *torch, _processor(), *texts]
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]


def _processor() -> str:
    lines = kernel_file("/proc/cpuinfo")
    if not lines:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))


def _compile(compiler: str, sources: Sources, path: Path) -> None:
    """Each source by a process of its own, then all together."""
    command = [compiler, *sources.flags, *sources.includes()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            files = [file for file in sources.files() if file.suffix == ".cpp"]
            parts = {file: Path(folder) / f"{file.stem}.o" for file in files}
            starts = [[*command, "-c", str(file), "-o", str(part)] for file, part in parts.items()]
            running = [_start(start) for start in starts]
            for process in counted("compiling for this processor", running):
                _wait(compiler, process)
            objects = map(str, parts.values())
            _wait(compiler, _start([*command, "-shared", *objects, "-o", str(made), *sources.links()]))
            made.replace(path)  # several processes may compile at once: each replaces the whole
    except (OSError, subprocess.TimeoutExpired) as error:
        refuse_shortage(error, "the kernels were compiled")
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
