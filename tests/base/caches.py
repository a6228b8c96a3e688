"""Folders as the libraries of the hubs keep them."""

from __future__ import annotations

from pathlib import Path


def in_hugging_face(cache: Path, repo: str, **files: bytes) -> None:
    """A repository as huggingface_hub keeps it: blobs, and links to them in a snapshot's folder."""
    folder = cache / f"{repo.partition(':')[0]}s--{repo.partition(':')[2].replace('/', '--')}"
    commit = "a" * 40
    for part in ("blobs", f"snapshots/{commit}", "refs"):
        (folder / part).mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    for i, (name, content) in enumerate(files.items()):
        (folder / "blobs" / str(i)).write_bytes(content)
        (folder / "snapshots" / commit / name.replace("__", ".")).symlink_to(folder / "blobs" / str(i))
