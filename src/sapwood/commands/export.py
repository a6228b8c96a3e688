"""``sapwood export``."""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

from sapwood.errors import ConfigError
from sapwood.export.ship import Kind, Order, export
from sapwood.serve.load import Loaded, open_target
from sapwood.track.files import to_json
from sapwood.track.store import RUN


def export_target(target: str, runs: Path, *, to: str, out: Path | None, as_json: bool) -> None:
    """Write what ``target`` names as ``to``, say how well it was met, and what to type next."""
    if to not in get_args(Kind):
        raise ConfigError(f"{to!r} can't be exported to", "--to", mend=f"choose {', '.join(get_args(Kind))}")
    trained = open_target(target, runs, exact=True)
    done = export(trained, Order(cast("Kind", to)), out or _default_folder(trained, to))
    if as_json:
        print(to_json(done.to_json()), end="")
        return
    print(f"check      {done.check.line()}")
    print(f"written    {done.path}")
    print(f"use        {done.use}")


def _default_folder(trained: Loaded, to: str) -> Path:
    """``exports/`` in the run's folder; beside the adapter where it belongs to no run."""
    folder = trained.folder or Path("export")
    parents = folder.resolve().parents[:2]
    run = next((parent for parent in parents if (parent / RUN).is_file()), None)
    return run / "exports" / to if run is not None else folder.with_name(f"{folder.name}-{to}")
