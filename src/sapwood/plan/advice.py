"""What only the run knows, added to an error: its last good checkpoint, or what would fit in memory."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from sapwood.config.sections import RunConfig
from sapwood.errors import NumericsError, OutOfMemoryError, Problem
from sapwood.machine.device import Device
from sapwood.machine.shortage import out_of_memory
from sapwood.plan.choose import cheaper
from sapwood.prepare.study import Study
from sapwood.run.store import RunStore
from sapwood.show.figures import size
from sapwood.train.checkpoint import checkpoints

WORTH_TAKING = 100_000_000  # bytes: less is a window more on the desktop
RESERVE = 8 << 20  # bytes that are freed for the advice: once memory has run out, no others are free


@contextmanager
def with_advice(run: RunStore, study: Study, config: RunConfig, device: Device) -> Generator[None]:
    """Raise errors of numbers and of memory anew, with what to do about them in this run."""
    reserve = bytearray(RESERVE)
    others = device.others()
    try:
        with out_of_memory("a step"):
            yield
    except NumericsError as error:
        kept = checkpoints(run.path)
        last = kept[-1].name if kept else "none: the run had not come to one"
        place = str(kept[-1]) if kept else str(run.path)
        raise NumericsError([*error.problems, Problem(f"last good checkpoint: {last}", place)]) from None
    except OutOfMemoryError as error:
        problem = error.problems[0]
        reserve.clear()
        mend = "cheapest first: " + "; ".join(cheaper(study, config, device))
        taken = _taken_meanwhile(device, others)
        raise OutOfMemoryError(problem.what, problem.where, f"{taken}{problem.why}", mend) from None


def _taken_meanwhile(device: Device, before: int) -> str:
    """What other processes took of the GPU since the plan was made, if it is enough to be the reason."""
    more = device.others() - before
    return f"other processes took {size(more)} of {device} meanwhile; " if more > WORTH_TAKING else ""
