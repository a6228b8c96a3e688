"""Kernels are compiled once, by whatever compiler there is; without one, the reason is said."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sapwood.native import build

ASK = "from sapwood.native.build import why_not; print(why_not())"


def ask(**environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_they_can_be_switched_off() -> None:
    assert ask(SAPWOOD_NATIVE="0") == "SAPWOOD_NATIVE=0 switches them off"


def test_a_missing_compiler_is_said() -> None:
    assert (
        ask(PATH="/nowhere", CXX="", SAPWOOD_NATIVE="")
        == "no C++ compiler was found (Debian: apt install g++)"
    )


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho 'kernels.cpp: no such luck' >&2\nexit 1\n")
    broken.chmod(0o755)
    said = ask(CXX=str(broken), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert said == f"{broken} failed: kernels.cpp: no such luck"
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not shutil.which("c++"), reason="needs a compiler"
)
def test_they_are_compiled_once(tmp_path: Path) -> None:
    quick = tmp_path / "c++"  # what it compiles is thrown away: optimising takes most of a minute
    quick.write_text(f'#!/bin/sh\nexec {shutil.which("c++")} "$@" -O0\n')
    quick.chmod(0o755)
    cache = {"XDG_CACHE_HOME": str(tmp_path), "CXX": str(quick)}
    assert ask(**cache) == "None"
    (made,) = tmp_path.rglob("*.so")
    written = made.stat().st_mtime_ns
    assert ask(**cache) == "None"
    assert made.stat().st_mtime_ns == written
    assert list(made.parent.iterdir()) == [made]


def test_the_file_names_what_it_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = shutil.which("c++") or sys.executable
    before = build._key(compiler, build.KERNELS)
    assert build._key(compiler, build.HEAP) != before
    monkeypatch.setattr(build, "_processor", lambda: "another")
    assert build._key(compiler, build.KERNELS) != before
