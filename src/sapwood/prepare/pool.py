"""Batches of rows, proven by as many processes as there are cores.

The processes are started afresh (spawn) and not forked. A notebook, a console and torch all have threads. A
fork has only one of its parent's threads, and a lock that another thread held stays locked in the fork. A
start costs a second or two, so there are processes only if data are `LARGE`. Every process computes a batch
by the same function, so the examples don't depend on the number of processes. If a process fails, the parent
computes its batch.
"""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing
import operator
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from sapwood.machine.system import interrupts_blocked
from sapwood.prepare.rows import ProvenBatch, Rules, prove_batch
from sapwood.template.render import Renderer
from sapwood.types import Conversation, Message, RowId

LARGE = 8 << 20  # bytes of data from which on each further process is worth its start and its memory
PATIENCE = 120.0  # seconds for one batch, and for a start; a batch of honest rows takes about one
AHEAD = 2  # batches for each process that are read before the first of them is awaited
MOST = 61  # processes that Windows allows a pool
START = "spawn"  # how a process begins

Batch = list[Conversation]


def prove_batches(
    batches: Iterable[tuple[int, Batch]], renderer: Renderer, rules: Rules, processes: int
) -> Generator[tuple[int, ProvenBatch]]:
    """`prove_batch` for each, in order; the number that comes with a batch goes with its result.

    Close the generator to end the processes.
    """
    if processes < 2:
        yield from ((number, prove_batch(batch, renderer, rules)) for number, batch in batches)
        return
    pool = _Pool(renderer, rules, processes)
    waiting: deque[tuple[int, Batch, Future[ProvenBatch] | None]] = deque()

    def first() -> tuple[int, ProvenBatch]:
        number, batch, future = waiting.popleft()
        return number, pool.result(future) or prove_batch(batch, renderer, rules)

    try:
        for number, batch in batches:
            waiting.append((number, batch, pool.submit(batch)))
            if len(waiting) > AHEAD * processes:
                yield first()
        while waiting:
            yield first()
    finally:
        pool.stop()


class _Pool:
    """Processes until one of them fails; from then on none."""

    def __init__(self, renderer: Renderer, rules: Rules, processes: int) -> None:
        context = multiprocessing.get_context(START)
        self._executor: ProcessPoolExecutor | None = ProcessPoolExecutor(
            min(processes, MOST), context, _begin, (renderer, rules)
        )

    def submit(self, batch: Batch) -> Future[ProvenBatch] | None:
        """None if there are no processes any more, or none could be started."""
        if self._executor is None:
            return None
        try:
            with _bare_start():
                return self._executor.submit(_work, _packed(batch))
        except Exception:  # whatever hinders that process, the parent can do its work
            self.stop()
            return None

    def result(self, future: Future[ProvenBatch] | None) -> ProvenBatch | None:
        """None if a process died, hung or raised anything. The parent computes the batch then, and raises its
        error."""
        if future is None:
            return None
        try:
            return future.result(PATIENCE)
        except Exception:
            self.stop()
            return None

    def stop(self) -> None:
        """End the processes, even if they hang."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        running = [*(executor._processes or {}).values()]  # pyright: ignore[reportPrivateUsage]
        executor.shutdown(wait=False, cancel_futures=True)
        for process in running:
            process.kill()
        for process in running:
            process.join()


@contextmanager
def _bare_start() -> Generator[None]:
    """A process that starts in this block doesn't run the caller's script anew, and leaves Ctrl-C to its
    parent."""
    main = sys.modules["__main__"]
    with interrupts_blocked():
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


# --- in a process of the pool -------------------------------------------------------------------------------

_OWN: dict[str, Any] = {}


def _begin(renderer: Renderer, rules: Rules) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each process has a core
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _OWN.update(renderer=renderer, rules=rules)
    gc.freeze()  # what is there stays; to look through it again and again costs a tenth of the time


def _end_with_parent() -> None:
    """End this process when its parent is gone: if the parent was killed, nobody else would."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(packed: Sequence[Any]) -> ProvenBatch:
    return prove_batch(_unpacked(packed), _OWN["renderer"], _OWN["rules"])


_FIELDS = operator.attrgetter(*(field.name for field in dataclasses.fields(Message)))

# Frozen dataclasses are pickled field by field through Python code, tuples in C.


def _packed(batch: Batch) -> list[Any]:
    return [
        (
            (one.row.source, one.row.index, one.row.line),
            [_FIELDS(message) for message in one.messages],
            one.tools,
            one.text,
            one.weight,
        )
        for one in batch
    ]


def _unpacked(packed: Sequence[Any]) -> Batch:
    return [
        Conversation(RowId(*row), tuple([Message(*message) for message in messages]), tools, text, weight)
        for row, messages, tools, text, weight in packed
    ]
