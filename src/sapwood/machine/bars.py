"""Progress bars of other libraries: they draw nothing, and how far they are is told as our own work is."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from io import StringIO
from typing import Any

from sapwood.machine.doing import bytes_of, doing


@contextmanager
def told_bars(what: str, unit: str = "it") -> Generator[Any]:
    """Say what the block does. It gives a class to pass on where tqdm's is wanted; the bars that count in
    ``unit`` ("B": bytes) say how far it is."""
    with doing(what) as far:
        yield _bar_class(far, unit)


def _bar_class(far: Callable[[str], None], unit: str) -> Any:
    from tqdm.std import tqdm

    base: Any = tqdm

    class Told(base):
        monitor_interval = 0  # no thread that looks after bars

        def __init__(self, *given: Any, **named: Any) -> None:
            named.pop("name", None)
            super().__init__(*given, **{**named, "file": StringIO(), "disable": False})

        def display(self, *_: Any, **__: Any) -> bool:
            if self.n and self.total and self.unit == unit:
                far(bytes_of(self.n, self.total) if unit == "B" else f"{self.n:,}/{self.total:,}")
            return True

    return Told
