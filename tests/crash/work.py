"""A run that is killed again and again: a tiny model, a few steps, all kinds of events, many saves."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sapwood.config.file import parse_config
from sapwood.config.sections import RunConfig
from sapwood.run.query import list_runs

STEPS = 6


def tiny_config(folder: Path, runs: Path | None = None, **sections: Any) -> RunConfig:
    """Six steps over 11 rows with dropout, held-out loss every second step, two checkpoints kept. The model
    is made in ``folder`` the first time."""
    from tests.base.tiny import tiny_llama

    model, rows = folder / "tiny-llama", folder / "rows.jsonl"
    if not model.exists():
        tiny_llama(folder)
        lines = (
            {"instruction": f"What about tree {i}?", "output": f"Water tree {i} well. " * (1 + i % 3)}
            for i in range(11)
        )
        rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tree: dict[str, Any] = {
        "name": "tiny",
        "base": {"model": str(model), "storage": "fp32"},
        "data": {"train": str(rows), "eval": 2, "system": "You keep a nursery."},
        "lora": {"rank": 2, "dropout": 0.2},
        "train": {"batch_size": 3, "lr": 1e-2},
        "eval": {"every": 2, "samples": 1, "max_new_tokens": 2},
        "save": {"every": 1, "dir": str(runs or folder / "runs")},
    }
    for name, values in sections.items():
        tree[name] = {**tree.get(name, {}), **values}
    if "max_steps" not in tree["train"]:
        tree["train"].setdefault("epochs", 2)
    return parse_config(tree)


def train_or_resume(config: Mapping[str, Any]) -> None:
    """What a person types: `sapwood train` where there is no run yet, else `sapwood resume`."""
    from sapwood import finetune, resume

    settings = parse_config(config)
    runs = list_runs(Path(settings.save.dir))
    if runs:
        resume(runs[0].path)
    else:
        finetune(settings)


def die_at_operation(config: Mapping[str, Any], number: int) -> None:
    """`train_or_resume`, killed just before its ``number``-th file operation (the first is 1)."""
    from sapwood.run import files

    seen = 0

    def count(name: str, path: Path) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    files.on_operation = count
    train_or_resume(config)


def folder_hash(folder: Path) -> str:
    """sha256 over names and bytes of every file of a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            digest.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def only_run(runs: Path) -> Path:
    (summary,) = list_runs(runs)
    return summary.path
