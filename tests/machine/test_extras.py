"""The command that a message gives for a missing library names what an extra stands for, and the extra for a
card has a solution."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sapwood.machine.extras import install, requirements

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]


@pytest.mark.parametrize("extra", ["tensorboard", "data", "modelscope", "export"])
def test_an_extra_is_named_by_its_libraries(extra: str) -> None:
    names = [line.split(">")[0] for line in EXTRAS[extra]]
    assert [line.split(">")[0] for line in requirements(extra)] == names
    assert "sapwood" not in install(extra), "no index has sapwood yet"
    assert all(name in install(extra) for name in names)


def test_an_extra_that_nobody_knows_is_taken_for_a_library() -> None:
    assert install("acorn").endswith(" -m pip install acorn")


def test_the_command_is_for_the_python_that_runs_sapwood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell outside the environment has another ``python``, or none: a tool of uv or pipx, for example."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert install("acorn") == "python -m pip install acorn"
    other = tmp_path / "python"
    for there in (False, True):
        if there:
            other.touch(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert install("acorn") == f"{sys.executable} -m pip install acorn"


def resolved(platform: str, *options: str) -> dict[str, str]:
    """Version by library of what ``pip install 'sapwood[cuda]'`` brings to such a machine. Only metadata are
    read. Skips where no registry answers; one that answers and has no solution is a failure."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--extra", "cuda", "--quiet"]
    options = (
        "--python-platform",
        platform,
        "--python-version",
        "3.11",
        "--no-header",
        "--no-annotate",
        *options,
    )
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=200)
    if done.returncode and ("No solution found" not in done.stderr or "network was disabled" in done.stderr):
        pytest.skip(f"no package registry answers: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    lines = (line.partition(" ")[0] for line in done.stdout.splitlines() if "==" in line)
    return {name.partition("[")[0]: version for name, _, version in (line.partition("==") for line in lines)}


@pytest.mark.parametrize("pinned", [False, True])
def test_the_extra_for_a_card_resolves_on_linux(pinned: bool) -> None:
    """With the newest of everything, and with the versions that this project is tested with."""
    found = resolved("x86_64-manylinux_2_28", *(("--constraint", "constraints.txt") if pinned else ()))
    assert {"bitsandbytes", "liger-kernel", "triton", "torch"} <= set(found)
    assert any(name.startswith("nvidia-") for name in found), "that torch is one with CUDA"


def test_a_driver_for_cuda_12_has_an_older_torch(tmp_path: Path) -> None:
    """As docs/gpu.md says it. 2.11 is the first whose usual wheels are for CUDA 13."""
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    bound = "torch<2.11"
    assert f"pip install '.[cuda]' '{bound}'" in page
    file = tmp_path / "older.txt"
    file.write_text(bound)
    found = resolved("x86_64-manylinux_2_28", "--constraint", str(file))
    assert found["torch"].startswith("2.10")
    assert found["nvidia-cuda-runtime-cu12"].startswith("12.")
    assert {"liger-kernel", "triton", "bitsandbytes"} <= set(found)


def test_elsewhere_the_extra_brings_no_kernels_that_cannot_be_compiled() -> None:
    found = resolved("windows")
    assert "bitsandbytes" in found
    assert not {"liger-kernel", "triton"} & set(found)
