"""Saves that a full disk can't turn into a lost run: a periodic one is skipped, the last one waits."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

from sapwood.adapter.files import read_tensors
from sapwood.adapter.model import LoraModel, restore_adapter
from sapwood.config.sections import SaveConfig
from sapwood.errors import LostProcessError, SapwoodError, Stopped, StorageError
from sapwood.run.disk import require_limits, require_space
from sapwood.run.files import verify_dir
from sapwood.run.query import read_events
from sapwood.run.store import RunStore
from sapwood.train.checkpoint import checkpoint_bytes, checkpoint_path, checkpoints, save_checkpoint
from sapwood.train.optim import TrainState
from sapwood.train.processes.world import World
from sapwood.types import Evaluated, Event, Stepped

Saved = TypeVar("Saved")
log = logging.getLogger("sapwood.train")

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between attempts of the last save, doubled each time
PATIENCE = 3600.0  # seconds in all: time for a person to come and free some space
ATTEMPTS_WHEN_STOPPED = 3  # a signal was sent: whoever sent it may not wait long


def require_room(run: Path, model: LoraModel, keep: int) -> None:
    """Refuse to start if the disk can't take what the run will write: ``keep`` checkpoints, one more before
    the oldest is removed, and the adapter. What a resumed run has already written is subtracted.

    Raises StorageError with the bytes needed and the bytes free.
    """
    one = checkpoint_bytes(model)
    missing = max(0, keep + 1 - len(checkpoints(run)))
    require_space(run, missing * one + one // 3)
    require_limits(one)


class SaveClock:
    """When a checkpoint is due: by steps, by time, after the last step, and after the best evaluation."""

    def __init__(self, config: SaveConfig, last_step: int) -> None:
        self._config, self._last_step = config, last_step
        self._saved = time.monotonic()

    def due(self, event: Event, state: TrainState) -> bool:
        if not isinstance(event, Stepped):
            return isinstance(event, Evaluated) and state.best is not None and state.best[0] == event.step
        late = 0 < 60 * self._config.minutes <= time.monotonic() - self._saved
        if not (late or event.step % self._config.every == 0 or event.step == self._last_step):
            return False
        self._saved = time.monotonic()
        return True


def try_to_save(run: RunStore, model: LoraModel, state: TrainState, keep: int) -> bool:
    """Save a checkpoint; if the disk refuses, say so loudly and go on: the next interval tries again."""
    try:
        save_checkpoint(run.path, model, state, keep=keep, events_length=run.events_length())
    except StorageError as error:
        run.note("note", state.step, text=f"checkpoint failed: {error}")
        log.warning("checkpoint of step %d failed, training goes on: %s", state.step, error)
        return False
    return True


def leave_best(run: RunStore, model: LoraModel, state: TrainState) -> None:
    """Put the weights of the best evaluation back into the model, for the adapter that the run leaves. If
    their checkpoint can't be read, the last weights stay, with a warning."""
    if state.best is None or state.best[0] == state.step:
        return
    step, judged = state.best
    folder = checkpoint_path(run.path, step)
    try:
        verify_dir(folder)
        restore_adapter(model, read_tensors(folder), folder)
    except SapwoodError as error:
        log.warning("the adapter is that of the last step, not of the best, %d: %s", step, error)
        return
    events, _ = read_events(run.path)
    losses = [e["data"]["loss"] for e in events if e["kind"] == "evaluated" and e["step"] == step]
    loss = losses[-1] if losses else judged
    run.note("note", state.step, text=f"the adapter is that of step {step}, held-out loss {loss:.4f}")
    state.losses = (state.losses[0] if state.losses else loss, loss)


def save_and_stop(run: RunStore, model: LoraModel, state: TrainState, keep: int, world: World) -> NoReturn:
    """Save and leave at the boundary of a step, because a signal asked for it. Always raises `Stopped`."""
    saved = save_when_stopped(run, model, state, keep)
    how = "saved" if saved else "not saved: the disk refused; resume goes on from the checkpoint before"
    what = f"stopped after step {state.step}, {how}"
    raise Stopped(what, str(run.path), mend=world.resume(run.path))


def save_when_stopped(run: RunStore, model: LoraModel, state: TrainState, keep: int) -> bool:
    """Save before leaving; a few quick attempts, as a stopping machine has little time."""
    for attempt in range(ATTEMPTS_WHEN_STOPPED):
        if attempt:
            time.sleep(FIRST_WAIT)
        if try_to_save(run, model, state, keep):
            return True
    return False


@contextmanager
def kept_when_lost(
    run: RunStore, model: LoraModel, state: TrainState, keep: int, world: World
) -> Generator[None]:
    """If another process ends, save this one's state, which is whole at the last step: no step is lost."""
    try:
        yield
    except LostProcessError as error:
        how = "saved" if save_when_stopped(run, model, state, keep) else "not saved: the disk refused"
        problem = error.problems[0]
        what = f"{problem.what}; stopped after step {state.step}, {how}"
        raise LostProcessError(what, str(run.path), problem.why, world.resume(run.path)) from None


def insist(save: Callable[[Path], Saved], place: Path, spill: Path | None, stop: Callable[[], bool]) -> Saved:
    """The last save: again and again until the disk takes it, or in ``spill``, the folder for that case.

    ``save`` writes below the folder that it is given. ``stop`` says that a signal asked to leave. Raises the
    disk's StorageError when patience ends.
    """
    wait, until = FIRST_WAIT, time.monotonic() + PATIENCE
    while True:
        try:
            return save(place)
        except StorageError as error:
            if spill is not None:
                log.warning("the last save failed and goes to %s: %s", spill, error)
                return save(spill)
            if stop() or time.monotonic() + wait > until:
                raise
            log.warning("the last save failed, next attempt in %.0f s: %s", wait, error)
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT)
