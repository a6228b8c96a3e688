"""The run directory, from the side that writes it. One process holds a run at a time::

runs/20260131-142530-demo-9f3a/
    run.json         what the run is: versions, machine, hashes; written once, and last when a run is made
    config.yaml      the resolved config; `sapwood train` on it repeats the run
    status.json      running, finished, stopped or failed, and why
    events.jsonl     one line for each event: {"seq", "t", "step", "kind", "data"}
    samples.jsonl    one line for each sample answer, with the seq of its evaluation
    LOCK             held by the process that trains; HOLDER says who that is

A run whose status says running while nobody holds LOCK has crashed, and can be resumed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import platform
import re
import secrets
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from sapwood.errors import SapwoodError, Stopped, StorageError
from sapwood.machine.system import cores
from sapwood.run.disk import storage_error
from sapwood.run.files import discard_dir, operation, sweep_staging, to_json, write_atomic
from sapwood.run.lines import LineLog, length_while, read_lines
from sapwood.run.lock import LOCK, RunLock
from sapwood.types import Evaluated, Event, Finished, Stepped

SCHEMA = 1
RUN, CONFIG, STATUS = "run.json", "config.yaml", "status.json"
EVENTS, SAMPLES = "events.jsonl", "samples.jsonl"
CHECKPOINTS = "checkpoints"
RECORDED_VERSIONS = ("sapwood", "torch", "transformers", "peft", "xllamacpp")

Status = Literal["running", "finished", "stopped", "failed"]
KINDS: dict[type[Event], str] = {Stepped: "stepped", Evaluated: "evaluated", Finished: "finished"}


class RunStore:
    """A run that this process may write to. Made by `open_run` and `reopen_run`; a context manager.

    Attributes:
        path: the run's folder.
        id: the folder's name.
    """

    def __init__(self, path: Path, lock: RunLock) -> None:
        self.path = path
        self.id = path.name
        self._lock = lock
        self._events = LineLog(path / EVENTS)
        self._samples = LineLog(path / SAMPLES)
        self._seq = _next_seq(path / EVENTS)

    @property
    def lost_lines(self) -> int:
        """Lines that the disk refused. Training goes on without them; ``seq`` shows the gap."""
        return self._events.lost + self._samples.lost

    def record(self, event: Event) -> None:
        """Append an event, and its sample answers to their own file. A refused write never raises.

        The samples are written first, so that a reader who sees the event finds all of them.
        """
        data = event_data(event)
        for index, sample in enumerate(data.pop("samples", ())):
            self._samples.append({"seq": self._seq, "step": event.step, "index": index, **sample})
        self._append(KINDS[type(event)], event.step, data)

    def note(self, kind: Literal["checkpoint", "note"], step: int, **data: Any) -> None:
        """Append something worth knowing that is not an event of the training itself."""
        self._append(kind, step, data)

    def events_length(self) -> int:
        """Bytes of events.jsonl, made durable first: the figure for a checkpoint's manifest."""
        self._samples.sync()
        return self._events.sync()

    def truncate_events(self, length: int) -> None:
        """Forget the events after the first ``length`` bytes, and their samples: the run goes on there."""
        short = length - self._events.size
        self._events.truncate(length)
        self._seq = _next_seq(self.path / EVENTS)
        self._samples.truncate(length_while(self.path / SAMPLES, lambda r: r.get("seq", 0) < self._seq))
        if short > 0:  # no log may stop a resume: weights and moments have their own manifest
            self.note("note", 0, text=f"events.jsonl was {short} bytes shorter than the checkpoint recorded")

    def set_status(self, status: Status, **facts: Any) -> None:
        """Replace status.json, durably: the status, the time, and the facts given now (earlier ones go)."""
        self.write_json(STATUS, {**facts, "status": status, "updated": _now()})

    def write_json(self, name: str, value: Any) -> None:
        """Write ``value`` to a file of that name in the run's folder, atomically."""
        if Path(name).name != name:
            raise ValueError(f"a plain file name is meant, not {name!r}")
        write_atomic(self.path / name, to_json(value))

    def close(self) -> None:
        """Release the run. Closing twice does nothing."""
        if self._lock.held:
            self._events.close()
            self._samples.close()
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, kind: str, step: int, data: Mapping[str, Any]) -> None:
        record = {"seq": self._seq, "t": round(time.time(), 3), "step": step, "kind": kind}
        self._events.append({**record, "data": dict(data)})
        self._seq += 1


def open_run(
    root: Path,
    *,
    name: str | None,
    config_yaml: str,
    facts: Mapping[str, Any],
    parent: str | None = None,
) -> RunStore:
    """Make a new run below ``root`` and hold it.

    Args:
        root: the folder of runs; created if it doesn't exist.
        name: the user's name for the run; without one, the base's.
        config_yaml: the resolved config, as it will be read again.
        facts: JSON data to keep with the run: ``base`` (as the user wrote it), ``total_steps``, the hashes of
            data, template and base.
        parent: id of the run that this one continues.

    Raises:
        StorageError: ``root`` is a file, can't be created, or can't be written to.
    """
    try:
        operation("mkdir", root)
        root.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        mend = "set save.dir to a folder"
        raise StorageError("runs can't be kept in a file", str(root), "it is not a folder", mend) from None
    except OSError as error:
        raise storage_error(error, root) from error
    label = name or _short_name(str(facts.get("base", "")))
    path = _make_folder(root, label)
    with contextlib.ExitStack() as undo:
        undo.callback(_discard, path)
        lock = RunLock(path / LOCK)
        undo.callback(lock.release)
        store = RunStore(path, lock)
        undo.callback(store.close)
        write_atomic(path / CONFIG, config_yaml)
        store.set_status("running")
        about = {"schema": SCHEMA, "id": path.name, "name": label, "created": _now(), "parent": parent}
        about |= {"versions": package_versions(), "machine": _machine(), "facts": dict(facts)}
        store.write_json(RUN, about)  # last: a folder without it is not a run
        undo.pop_all()
    return store


def reopen_run(path: Path) -> RunStore:
    """Hold an existing run again, to resume it. Leftovers of a killed writer are removed; the status stays.

    Raises LockedError naming the process that holds the run, StorageError if ``path`` is not a run.
    """
    if not (path / RUN).is_file():
        mend = "`sapwood runs` lists the runs"
        raise StorageError("not a run", str(path), f"it has no {RUN}", mend)
    lock = RunLock(path / LOCK)
    try:
        sweep_staging(path)
        sweep_staging(path / CHECKPOINTS)
        return RunStore(path, lock)
    except BaseException:
        lock.release()
        raise


def event_data(event: Event) -> dict[str, Any]:
    """An event's fields as JSON data, without ``step``, which each record carries itself."""
    data = {f.name: getattr(event, f.name) for f in dataclasses.fields(event) if f.name != "step"}
    if isinstance(event, Evaluated):
        data["samples"] = [{**dataclasses.asdict(sample), "row": str(sample.row)} for sample in event.samples]
    return data


def package_versions() -> dict[str, str | None]:
    """Versions of what a result depends on; None for what isn't installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in RECORDED_VERSIONS:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


# --- inside -----------------------------------------------------------------------------------------------


def _next_seq(path: Path) -> int:
    seqs = [record["seq"] for record in read_lines(path).records if isinstance(record.get("seq"), int)]
    return max(seqs, default=-1) + 1


def _make_folder(root: Path, label: str) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")  # local time, for a person
    while True:
        path = root / f"{stamp}-{label}-{secrets.token_hex(2)}"
        try:
            operation("mkdir", path)
            path.mkdir()
        except FileExistsError:
            continue  # another run of this second drew the same four digits
        except OSError as error:
            raise storage_error(error, path) from error
        return path


def _discard(path: Path) -> None:
    with contextlib.suppress(StorageError):
        discard_dir(path)


def _short_name(base: str) -> str:
    """``hf:org/Name@main``, ``/models/Name.gguf`` and ``builtin:name`` as ``Name``, fit for a folder."""
    last = re.split(r"[/:\\]", base.rstrip("/\\"))[-1].partition("@")[0].removesuffix(".gguf")
    return re.sub(r"[^\w.-]+", "-", last).strip("-.")[:40] or "run"


def _machine() -> dict[str, Any]:
    import psutil

    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "cpus": cores(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


@contextmanager
def keeping_status(run: RunStore) -> Generator[None]:
    """Keep status.json true: running, then finished, stopped or failed. If the disk refuses the file, the run
    goes on: the lock and the adapter's folder tell the same."""
    run.set_status("running")
    try:
        yield
    except Stopped:
        with contextlib.suppress(StorageError):
            run.set_status("stopped")
        raise
    except BaseException as error:
        reason = str(error) if isinstance(error, SapwoodError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(StorageError):
            run.set_status("failed", reason=reason)
        raise
    with contextlib.suppress(StorageError):
        run.set_status("finished")
