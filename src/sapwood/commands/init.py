"""``sapwood init``."""

from __future__ import annotations

from pathlib import Path

from sapwood.config.file import template_yaml
from sapwood.errors import StorageError
from sapwood.run.files import write_atomic


def write_config(path: Path, *, data: str, model: str, force: bool) -> None:
    if path.exists() and not force:
        raise StorageError(
            "file exists", str(path), "it may hold your settings", "name another, or add --force"
        )
    write_atomic(path, template_yaml(data, model))
    print(f"wrote {path}\n  look at it, then: sapwood check {path}\n                    sapwood train {path}")
