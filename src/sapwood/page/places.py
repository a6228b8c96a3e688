"""The folders that the page may show, and what lies below them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sapwood.errors import ConfigError

BY_NAME = ("builtin:", "hf:", "ms:")


@dataclass(frozen=True, slots=True)
class Places:
    """``runs``: the folder of runs; ``folders``: those below which files may be named. Absolute."""

    runs: Path
    folders: tuple[Path, ...]

    @classmethod
    def of(cls, runs: Path, folders: Sequence[Path]) -> Places:
        found = [folder.resolve() for folder in (runs, *folders)]
        return cls(found[0], tuple(dict.fromkeys(found)))

    def allowed(self, name: str, where: str) -> str:
        """``name`` as it is, if it may be opened: a model's or a hub's name, or a path below the folders.

        Raises ConfigError, before anything is opened.
        """
        if name.startswith(BY_NAME):
            return name
        try:
            path = Path(name).expanduser().resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError("not a path", where, str(error)) from None
        if not any(path == folder or folder in path.parents for folder in self.folders):
            listed = ", ".join(str(folder) for folder in self.folders)
            mend = "start the page in another folder, or with --folder DIR"
            raise ConfigError(f"{name} lies outside the folders of this page", where, listed, mend)
        return name

    def run(self, id: str) -> Path | None:
        """The run of that id, if it lies in the folder of runs."""
        path = self.runs / id
        return path if id and Path(id).name == id and (path / "run.json").is_file() else None
