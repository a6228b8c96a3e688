"""What a process of tests has found out, for those that it forks: what the machine can do, and how the trials
of models ended. Each would measure and try anew, and most of them are killed soon after.

None of them waits to see whether the machine is idle now: other tests keep it busy until the last one.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sapwood.machine import measure

Ways = tuple[tuple[str, str], ...]
WAYS: Ways = (("fp32", "fp32"), ("bf16", "bf16"), ("bf16", "fp32"))  # what every run asks for


@dataclass(frozen=True, slots=True)
class Known:
    """rates: GFLOP/s; trials: the folder that keeps how they ended."""

    rates: Mapping[Ways, list[float]]
    trials: str


class Trials(dict[str, object]):
    """In files, one for each trial, that several processes read and write."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = Path(folder)

    def _file(self, shape: object) -> Path:
        return self._folder / hashlib.sha256(str(shape).encode()).hexdigest()

    def __contains__(self, shape: object) -> bool:
        return self._file(shape).exists()

    def __getitem__(self, shape: str) -> object:
        return pickle.loads(self._file(shape).read_bytes())

    def __setitem__(self, shape: str, found: object) -> None:
        half = self._folder / f".{os.getpid()}"
        half.write_bytes(pickle.dumps(found))
        half.rename(self._file(shape))


@cache
def _trials() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="sapwood-trials-")


def known() -> Known:
    """What this process has found out."""
    return Known({WAYS: measure._rates(WAYS)}, _trials().name)


def settle(found: Known | None = None) -> None:
    """Don't wait in this process, and don't find out what is known."""
    measure.load_now = lambda: 1.0
    if found is None:
        return
    from sapwood.train import trial

    real = measure._measured
    measure._measured = lambda ways: found.rates[ways] if ways in found.rates else real(ways)
    trial.passed = Trials(found.trials)
