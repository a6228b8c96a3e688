"""Events and crashes that the tests of this folder share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from sapwood.run import files
from sapwood.types import Evaluated, RowId, Sample, Stepped


def stepped(step: int, loss: float = 2.5, **changes: float) -> Stepped:
    fields = {"num_targets": 400, "num_tokens": 620, "lr": 9.1e-5, "grad_norm": 0.8, "seconds": 2.0}
    return Stepped(step, loss, **{**fields, "peak_bytes": 1_800_000_000, **changes})  # type: ignore[arg-type]


def sample(
    answer: str = "Ah, the north wall.", *, stopped: bool = True, prompt: str = "What grows?"
) -> Sample:
    return Sample(RowId("data.json", 3, 7), prompt, answer, "reference", 42, stopped)


def evaluated(step: int, loss: float, *samples: Sample) -> Evaluated:
    return Evaluated(step, loss, 500, 3.0, samples)


def fail_at(number: int, error: int, *, forever: bool = False) -> Callable[[str, Path], None]:
    """A hook that raises OSError(error) at the ``number``-th operation (from there on, if ``forever``)."""
    seen = 0

    def hook(name: str, path: Path) -> None:
        nonlocal seen
        seen += 1
        if seen == number or (forever and seen > number):
            raise OSError(error, os.strerror(error), str(path))

    return hook


def die_before(number: int, action: Callable[[], object]) -> bool:
    """Run ``action`` in a child that SIGKILLs itself before its ``number``-th operation on the disk.

    True where the child was killed, False where it came to its end first.
    """
    seen = 0

    def hook(name: str, path: Path) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        code = 1
        try:
            files.on_operation = hook
            action()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the action itself failed"
    return os.WIFSIGNALED(status)
