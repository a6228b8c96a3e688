"""``sapwood combine``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from sapwood.adapter.combine import HOWS
from sapwood.adapter.elsewhere.kind import is_adapter
from sapwood.adapter.facts import ADAPTER_DIR
from sapwood.adapter.folder import save_combined
from sapwood.errors import ConfigError
from sapwood.run.files import to_json
from sapwood.run.query import find_run


def combine_adapters(
    targets: Sequence[str],
    out: Path,
    *,
    weights: str | None,
    how: str,
    base: str | None,
    runs: Path,
    as_json: bool,
) -> None:
    """Write the weighted sum of the named adapters to ``out``, which must not be there yet."""
    shares = read_weights(weights, len(targets))
    if how not in HOWS:
        raise ConfigError(f"no combination {how!r}", "--how", mend=f"one of {', '.join(HOWS)}")
    if out.exists():
        raise ConfigError("the folder is there already", str(out), mend="name a new one")
    parts = [folder_of(target, runs) for target in targets]
    adapter = save_combined(out, parts, shares, how, base)
    if as_json:
        print(to_json({"path": str(adapter.path), "rank": adapter.rank, **adapter.facts["combined"]}))
        return
    for part, share in zip(parts, shares, strict=True):
        print(f"{share:8.3f}  {part}")
    print(f"rank {adapter.rank}: {adapter.path}")


def read_weights(text: str | None, number: int) -> list[float]:
    """One finite number for each adapter; equal shares if nothing is said."""
    if number < 2:
        raise ConfigError("one adapter is no combination", "command line", mend="name two or more")
    if text is None:
        return [1 / number] * number
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) != number or not all(map(math.isfinite, found)):
        why = f"{number} adapters need {number} numbers, found {text!r}"
        raise ConfigError("the weights don't fit", "--weights", why, "--weights 0.7,0.3")
    return found


def folder_of(target: str, runs: Path) -> Path:
    path = Path(target)
    return path if is_adapter(path) else find_run(runs, target) / ADAPTER_DIR
