"""Where training begins: from nothing, or from the newest checkpoint that verifies."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from sapwood.adapter.elsewhere.restore import restore_saved
from sapwood.adapter.elsewhere.start import start_tensors
from sapwood.adapter.model import LoraModel
from sapwood.config.sections import RunConfig
from sapwood.errors import StorageError
from sapwood.run.store import RunStore
from sapwood.train.checkpoint import load_checkpoint, newest_good
from sapwood.train.optim import TrainState, new_state
from sapwood.types import BaseSpec

log = logging.getLogger("sapwood")


def fresh_state(model: LoraModel, config: RunConfig) -> TrainState:
    b_ratio = config.lora.b_ratio if config.lora.method == "lora+" else 1.0
    return new_state(model.parameters, config.train, b_ratio)


def start_or_resume(
    run: RunStore, model: LoraModel, config: RunConfig, spec: BaseSpec, notes: Sequence[str] = ()
) -> TrainState:
    """A fresh state, on the adapter that the run goes on from if there is one; or that of the newest
    checkpoint that verifies."""
    state = fresh_state(model, config)
    checkpoint, damaged = newest_good(run.path)
    if checkpoint is not None:
        run.truncate_events(load_checkpoint(checkpoint, model, state))
    elif damaged:
        raise StorageError(
            "every checkpoint of this run is damaged",
            str(run.path),
            "; ".join(damaged),
            "they are kept aside; the next `sapwood resume` starts this run from its first step",
        )
    else:
        run.truncate_events(0)
        if config.lora.start_from is not None:
            restore_saved(model.peft, start_tensors(config.lora, spec), Path(config.lora.start_from))
    for text in [*notes, *damaged]:
        say(run, state.step, text)
    return state


def say(run: RunStore, step: int, text: str) -> None:
    """To the person who watches, and to the one who reads the run later."""
    run.note("note", step, text=text)
    log.warning("%s", text)
