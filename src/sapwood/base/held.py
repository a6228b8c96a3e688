"""What lies on this disk already: models and adapters in the caches of the hubs, and what folders take."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["model", "adapter"]
ADAPTER, CONFIG = "adapter_config.json", "config.json"


@dataclass(frozen=True, slots=True)
class Held:
    """One model or adapter. name: as ``base.model`` and ``--on`` have it; size: bytes of the disk."""

    name: str
    kind: Kind
    size: int
    path: Path


def held() -> list[Held]:
    """What the caches of the hubs hold, by name. A cache that isn't there or can't be read holds nothing."""
    found: list[Held] = []
    for scan in SCANS:
        with suppress(Exception):  # a client raises its own errors, and a cache may change while it is read
            found += scan()
    return sorted(found, key=lambda one: one.name.lower())


def taken(folder: Path) -> int:
    """Bytes that a folder takes: links are counted once, where their target lies."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                facts = os.lstat(os.path.join(parent, name))  # noqa: PTH118 - tens of thousands of files
                if facts.st_nlink > 1 and (facts.st_dev, facts.st_ino) in seen:
                    continue
                seen.add((facts.st_dev, facts.st_ino))
                total += facts.st_blocks * 512 if hasattr(facts, "st_blocks") else facts.st_size
    return total


def _of_hugging_face() -> list[Held]:
    from huggingface_hub import constants, scan_cache_dir

    found: list[Held] = []
    for repo in scan_cache_dir(constants.HF_HUB_CACHE).repos:
        revisions = sorted(repo.revisions, key=lambda one: one.last_modified, reverse=True)
        for revision in revisions if repo.repo_type == "model" else ():
            kind = _kind(file.file_name for file in revision.files)
            if kind is not None:
                found.append(Held(f"hf:{repo.repo_id}", kind, repo.size_on_disk, revision.snapshot_path))
                break
    return found


def _of_modelscope() -> list[Held]:
    from modelscope_hub import HubApi, HubConfig

    found: list[Held] = []
    cache: Any = HubApi(token="").scan_cache(HubConfig(token="").cache_dir)
    for repo in cache.repos:
        if str(repo.repo_type) != "model" or not repo.local_path:
            continue
        files = [path for name in (ADAPTER, CONFIG) for path in Path(repo.local_path).rglob(name)]
        kind = _kind(path.name for path in files)
        if kind is not None:
            found.append(Held(f"ms:{repo.repo_id}", kind, int(repo.size_on_disk), files[0].parent))
    return found


def _kind(names: Iterable[str]) -> Kind | None:
    """What a folder with these files is; None for a tokenizer, a data set, half a download."""
    there = set(names)
    if ADAPTER in there:
        return "adapter"
    return "model" if CONFIG in there else None


SCANS: tuple[Callable[[], list[Held]], ...] = (_of_hugging_face, _of_modelscope)
