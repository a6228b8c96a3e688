"""Which files are held out: those that the user names, or else what folders and hubs name so."""

from __future__ import annotations

from pathlib import Path

from sapwood.config.sections import DataConfig
from sapwood.data.files.folder import Splits, folder_splits
from sapwood.data.files.hub import hub_splits
from sapwood.data.files.paths import HUB
from sapwood.errors import DataError


def held_out_files(config: DataConfig, root: Path | None = None) -> list[str]:
    """The held-out files: that of data.eval; if data.eval isn't set, what folders and hub datasets of
    data.train name as their validation split, or else as their test split."""
    here = root if root is not None else Path.cwd()
    if isinstance(config.eval, str):
        try:
            splits = folder_splits(config.eval, here)
        except DataError:
            return [config.eval]  # reading it says what is wrong
        return list(splits.held or splits.train)
    if "eval" in config.model_fields_set:
        return []
    return [name for source in config.train for name in _splits(source, here).held]


def _splits(source: str, root: Path) -> Splits:
    try:
        return hub_splits(source) if source.startswith(HUB) else folder_splits(source, root)
    except DataError:
        return Splits([source])  # reading it says what is wrong
