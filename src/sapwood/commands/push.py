"""``sapwood push``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sapwood.adapter.facts import ADAPTER_DIR, FACTS
from sapwood.errors import ModelError
from sapwood.export.hub import Parcel, pack, read_checks, send
from sapwood.prepare.study import DATA
from sapwood.prepare.study import FACTS as STUDY
from sapwood.run.files import to_json
from sapwood.run.query import find_run
from sapwood.types import CHECK


def push_run(name: str, repo: str, runs: Path, *, dry: bool, private: bool, as_json: bool) -> None:
    """Send a finished adapter to the hub; with ``dry``, show what would go and send nothing."""
    run = None if (Path(name) / FACTS).is_file() else find_run(runs, name)
    folder = Path(name) if run is None else run / ADAPTER_DIR
    if not folder.is_dir():
        raise ModelError("the run has no finished adapter", str(run), mend=f"sapwood resume {name}")
    checks = read_checks(run / "exports", CHECK) if run is not None else {}
    parcel = pack(folder, repo, _study(run), checks)
    address = None if dry else send(parcel, private)
    if as_json:
        files = [{"name": e.name, "size": e.size, "sha256": e.sha256} for e in parcel.entries]
        told = {"repo": repo, "private": private, "files": files, "card": parcel.card, "address": address}
        print(to_json(told), end="")
        return
    print("\n".join(_lines(parcel, private)))
    print(f"\nsent       {address}" if address else "\nNothing was sent (--dry-run).")


def _lines(parcel: Parcel, private: bool) -> list[str]:
    lines = [f"to         {parcel.repo} ({'private' if private else 'public'})"]
    lines += [f"{entry.size:>12,}  {entry.sha256}  {entry.name}" for entry in parcel.entries]
    return [*lines, "", parcel.card.rstrip()]


def _study(run: Path | None) -> Any:
    file = run / DATA / STUDY if run is not None else None
    return json.loads(file.read_text(encoding="utf-8")) if file is not None and file.is_file() else {}
