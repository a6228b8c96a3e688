"""The command that a message gives for a missing library names what an extra stands for."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from sapwood.machine.extras import install, requirements

EXTRAS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]


@pytest.mark.parametrize("extra", ["tensorboard", "data", "modelscope", "export"])
def test_an_extra_is_named_by_its_libraries(extra: str) -> None:
    names = [line.split(">")[0] for line in EXTRAS[extra]]
    assert [line.split(">")[0] for line in requirements(extra)] == names
    assert "sapwood" not in install(extra), "no index has sapwood yet"
    assert all(name in install(extra) for name in names)


def test_an_extra_that_nobody_knows_is_taken_for_a_library() -> None:
    assert install("acorn") == "python -m pip install acorn"
