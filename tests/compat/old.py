"""An environment of older libraries: transformers 4.57 with PEFT 0.13, and PEFT 0.12 in a folder beside it.

What sapwood writes is read by programs that pin such versions. ``python -m tests.compat.old`` builds the
environment (a minute or two, once) and says where it lies: in ``SAPWOOD_COMPAT``, or in the user's cache.
Tests ask `require_old` for it and skip until it was built.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from platformdirs import user_cache_dir

PACKAGES = (
    "transformers==4.57.*",
    "peft==0.13.*",
    "accelerate<2",
    "numpy",
    "sentencepiece",
    "protobuf",
)
OLDER_PEFT = "peft==0.12.*"
Peft = Literal["0.12", "0.13"]
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


@dataclass(frozen=True, slots=True)
class Old:
    """The environment in ``folder``."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "venv" / "bin" / "python"

    @property
    def older_peft(self) -> Path:
        return self.folder / "peft-0.12"

    @property
    def ready(self) -> bool:
        """Was it built from what this file names?"""
        note = self.folder / "built.json"
        return note.is_file() and json.loads(note.read_text(encoding="utf-8")) == _wanted()

    def run(self, code: str, *arguments: object, peft: Peft = "0.13") -> Any:
        """Run ``code`` there; what it prints last is JSON, and comes back. Raises AssertionError with its
        last words if it fails."""
        env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV_"))}
        env |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        if peft == "0.12":
            env["PYTHONPATH"] = str(self.older_peft)
        command = [str(self.python), "-c", code, *map(str, arguments)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.strip().splitlines()[-1])


def old() -> Old:
    return Old(Path(os.environ.get("SAPWOOD_COMPAT") or user_cache_dir("sapwood-compat")))


def require_old() -> Old:
    """The environment; the test that asks is skipped if nobody built it."""
    found = old()
    if not found.ready:
        pytest.skip("no environment of older libraries: make compat builds it")
    return found


def build(folder: Path) -> None:
    """Make the environment. Torch is the one of constraints.txt, so that numbers can be compared."""
    made = Old(folder)
    if made.ready:
        return
    venv.create(folder / "venv", with_pip=True, clear=True)
    install = [str(made.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, _torch(), *PACKAGES], check=True)
    older = ["--upgrade", "--no-deps", "--target", str(made.older_peft), OLDER_PEFT]
    subprocess.run([*install, *older], check=True)
    (folder / "built.json").write_text(json.dumps(_wanted()), encoding="utf-8")


def _wanted() -> list[str]:
    return [_torch(), *PACKAGES, OLDER_PEFT]


def _torch() -> str:
    found = re.search(r"^torch==.*$", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{CONSTRAINTS} pins no torch"
    return found[0]


if __name__ == "__main__":
    build(old().folder)
    print(old().python)
    sys.exit(0)
