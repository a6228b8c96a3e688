"""How the page is opened: what a command line said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Opening:
    """runs: the folder of runs. folders: below which files may be named. port: None for a free one."""

    runs: Path
    folders: tuple[Path, ...] = ()
    port: int | None = None
    read_only: bool = False
    browser: bool = True
    path: str = "/"
