"""How many threads compute which steps. A run's last bits depend on that number. So a change is recorded
before a step is made with it, and a resumed run changes at the same step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sapwood.machine.device import Device
from sapwood.machine.measure import machine_facts, measure_when_idle, rate_with_threads, set_threads
from sapwood.run.identity import read_about
from sapwood.run.store import RUN, RunStore

STEPS = 3  # after which a number of threads that was measured on a busy machine is measured again
KEY = "threads"  # in run.json: {step after which they change: number}


class Threads:
    """watch: the run's threads were chosen while others kept the machine busy."""

    def __init__(self, run: RunStore, number: int | None, device: Device, *, watch: bool) -> None:
        self._run, self._device = run, device
        self._changes = {int(step): int(count) for step, count in read_about(run.path).get(KEY, {}).items()}
        self._now = number
        self._watch = watch and number is not None and not self._changes

    def begin(self, step: int) -> None:
        """Called before the step that follows ``step``: takes as many threads as that step has in an
        undisturbed run."""
        past = [self._changes[at] for at in sorted(self._changes) if at <= step]
        if past:
            self._set(past[-1])

    def stepped(self, step: int, tell: Callable[[str], None]) -> float:
        """Called after each step. Returns how many times faster the next steps will be, because of their
        threads."""
        if self._watch and step >= STEPS:
            self._watch = False
            return self._decide(step, tell)
        if step in self._changes:
            self._set(self._changes[step])
        return 1.0

    def _decide(self, step: int, tell: Callable[[str], None]) -> float:
        before, then = self._now, _formats(self._device)
        if not measure_when_idle(self._device):
            return 1.0
        if (now := _formats(self._device)) != then:
            tell(f"the machine is idle now, and fastest with {now}; this run stays with {then}, as it began")
        found: int = machine_facts(self._device)["threads"]
        if found != before:
            about: dict[str, Any] = read_about(self._run.path)
            self._changes[step] = found
            self._run.write_json(RUN, {**about, KEY: {str(at): n for at, n in self._changes.items()}})
            tell(f"the machine is idle now: {found} threads from step {step + 1} on, {before} until here")
        self._set(found)
        return _rate(self._device, found) / _rate(self._device, before or found)

    def _set(self, number: int) -> None:
        self._now = number
        set_threads(number)


def _rate(device: Device, threads: int) -> float:
    facts = machine_facts(device)
    return rate_with_threads(facts["dtype"], facts["products"], threads)


def _formats(device: Device) -> str:
    facts = machine_facts(device)
    return f"{facts['dtype']} weights and {facts['products']} products"
