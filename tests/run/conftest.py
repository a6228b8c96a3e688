"""A run on disk, and no crash hook left behind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sapwood.config.file import dump_config, parse_config
from sapwood.run import files
from sapwood.run.store import open_run
from sapwood.types import Finished
from tests.run.shared import evaluated, sample, stepped

Make = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def make_run(root: Path) -> Make:
    """A run on disk with ``steps`` steps of a falling loss, three evaluations, and a status."""

    def make(name: str | None = None, steps: int = 8, status: str = "finished", **config: object) -> Path:
        tree = {"data": {"train": ["data/keeper.jsonl"]}, "name": name, **config}
        facts = {"base": "builtin:smollm2", "total_steps": steps}
        with open_run(root, name=name, config_yaml=dump_config(parse_config(tree)), facts=facts) as run:
            run.record(evaluated(0, 3.0, sample("I am an AI.", stopped=False)))
            for step in range(1, steps + 1):
                run.record(stepped(step, 1 + 2 * math.exp(-step / 4)))
                if step in (steps // 2, steps):
                    run.record(evaluated(step, 3.0 - step / steps, sample()))
            run.record(Finished(steps, "done", 99.0))
            run.set_status(status, total_steps=steps)  # type: ignore[arg-type]
        return run.path

    return make


@pytest.fixture(autouse=True)
def no_hook() -> Iterator[None]:
    yield
    files.on_operation = None
