"""A checkpoint: the adapter, the optimizer's moments, and a few integers. It is staged, fsynced, renamed and
verified.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load, load_file, save, save_file

from sapwood.adapter.files import finite, read_tensors, write_trained
from sapwood.adapter.model import LoraModel, adapter_tensors, restore_adapter
from sapwood.errors import SapwoodError, StorageError
from sapwood.machine.doing import doing
from sapwood.machine.shortage import refuse_shortage
from sapwood.run.files import MANIFEST, discard_dir, operation, set_aside, staged_dir, verify_dir
from sapwood.train.optim import TrainState, moments, restore_moments
from sapwood.train.processes.world import World
from sapwood.train.schedule import Cursor

SCHEMA = 1


def save_checkpoint(run: Path, model: LoraModel, state: TrainState, *, keep: int, events_length: int) -> Path:
    """Write ``checkpoints/step-NNNNNN`` and drop all but the newest ``keep`` and the best.

    ``events_length``: bytes of the event log that belong to this state; resume cuts the log back to it.
    """
    final = checkpoint_path(run, state.step)
    if not published(final):  # the same step of the same run has the same bytes
        write_checkpoint(final, model, state, events_length)
        verify_dir(final)  # read back before an older checkpoint is removed
    best = checkpoint_path(run, state.best[0]) if state.best else None
    ours = [path for path in checkpoints(run) if (path / MANIFEST).is_file()]  # others' are never removed
    for old in ours[:-keep]:
        if old != best:
            discard_dir(old)
    return final


def checkpoint_path(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:06d}"


def published(final: Path) -> bool:
    """True if that checkpoint is there and whole; a damaged one is set aside."""
    if not final.exists():
        return False
    try:
        verify_dir(final)
    except StorageError:
        set_aside(final, "damaged")
        return False
    return True


def write_checkpoint(final: Path, model: LoraModel, state: TrainState, events_length: int) -> None:
    """Adapter, moments and integers in a folder that is published whole. Raises StorageError, and
    NumericsError if anything in them is not a number."""
    with staged_dir(final) as folder, doing(f"saving {final.name}"):
        operation("write", folder / "adapter_model.safetensors")
        write_trained(model, folder)
        operation("write", folder / "optimizer.safetensors")
        save_file(finite(moments(state), folder), folder / "optimizer.safetensors")
        facts = {"schema": SCHEMA, **state_facts(state), "events_length": events_length}
        operation("write", folder / "state.json")
        (folder / "state.json").write_text(
            json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )


def checkpoint_bytes(model: LoraModel) -> int:
    """Room that one checkpoint takes: weights and two moments in fp32, and a few small files."""
    return 12 * sum(p.numel() for p in model.parameters.values()) + 600 * len(model.parameters) + 65_536


def checkpoints(run: Path) -> list[Path]:
    """Published checkpoints, oldest first: ordered by step, never by a clock."""
    folder = run / "checkpoints"
    # listed by a call that raises if it can't: a run whose checkpoints aren't seen would start again
    found = (p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else ()
    numbered = {int(p.name[5:]): p for p in found if re.fullmatch(r"step-\d+", p.name)}
    return [numbered[step] for step in sorted(numbered)]


def newest_good(run: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, and a sentence for each checkpoint that didn't and was set
    aside."""
    notes: list[str] = []
    for path in reversed(checkpoints(run)):
        try:
            verify_dir(path)
            return path, notes
        except StorageError as error:
            aside = set_aside(path, "damaged")
            notes.append(f"{path.name} is damaged ({error.problems[0].what}); set aside as {aside.name}")
    return None, notes


def load_checkpoint(path: Path, model: LoraModel, state: TrainState) -> int:
    """Bring adapter and state back to what they were. Returns the event log's length at that moment."""
    try:
        facts = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if facts["schema"] != SCHEMA:
            why = f"its format is {facts['schema']}, this sapwood reads {SCHEMA}"
            what = "another version of sapwood wrote the checkpoint"
            raise StorageError(what, str(path), why, "update sapwood")
        restore_adapter(model, read_tensors(path), path)
        set_facts(state, facts)
        restore_moments(state, load_file(path / "optimizer.safetensors"), path)
        return facts["events_length"]
    except SapwoodError:
        raise
    except Exception as error:
        refuse_shortage(error, "a checkpoint was read")
        raise StorageError("checkpoint can't be read", str(path), str(error)) from None


def share_state(world: World, model: LoraModel, state: TrainState) -> None:
    """Give every process the adapter, the moments and the integers of the first process. So only the first
    process needs the run's folder."""
    if world.size == 1:
        return
    facts = world.tell(json.dumps(state_facts(state)).encode())
    weights = world.tell(save(adapter_tensors(model)) if world.leads else b"")
    memory = world.tell(save(moments(state)) if world.leads else b"")
    if not world.leads:
        told = Path("the first process")
        restore_adapter(model, load(weights), told)
        set_facts(state, json.loads(facts))
        restore_moments(state, load(memory), told)


def state_facts(state: TrainState) -> dict[str, Any]:
    """The integers of a state, as JSON data."""
    cursor = [state.cursor.epoch, state.cursor.index]
    measured = {"evaluated": state.evaluated, "losses": state.losses, "best": state.best}
    return {"step": state.step, "cursor": cursor, **measured, "stale": state.stale}


def set_facts(state: TrainState, facts: Mapping[str, Any]) -> None:
    state.step = facts["step"]
    state.cursor = Cursor(*facts["cursor"])
    state.evaluated = facts["evaluated"]
    state.losses = (facts["losses"][0], facts["losses"][1]) if facts["losses"] else None
    best = facts.get("best")
    state.best, state.stale = (best[0], best[1]) if best else None, facts.get("stale", 0)
