"""Work that gets killed, in processes forked from a warm parent.

The parent has imported everything and computed nothing: a process that has used torch's threads can't be
forked, its children hang at their first parallel product.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.measured import Known, known, settle

# One list for all: what the first of a process's tests names is what stays imported for the others.
WARM = (
    "sapwood.cli",
    "sapwood.commands.train",
    "sapwood.serve.chat",
    "sapwood.evaluate",
    "matplotlib.figure",
    "sapwood.restart",
    "sapwood.compute.linear.layer",
    "transformers.models.llama.modeling_llama",
    "sapwood.prepare.study",
    "sapwood.train.trial",
    "torch.distributed.fsdp",
    "sapwood.show.plot",
    "matplotlib.backends.backend_agg",
    "tests.forks",
    "tests.crash.work",
    "tests.several",
)


def exit_code(work: Callable[..., object], *arguments: Any, timeout: float = 120) -> int:
    """Run a module-level function in a fork; its exit code, negative for the signal that ended it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(WARM))
    process = context.Process(target=_settled, args=(known(), work, arguments))
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"{work.__name__} was still running after {timeout} s")
    return process.exitcode


def _settled(found: Known, work: Callable[..., object], arguments: Sequence[Any]) -> None:
    settle(found)
    work(*arguments)


def killed_after(
    seconds: float,
    work: Callable[..., object],
    *arguments: Any,
    begun: Callable[[], bool] | None = None,
    timeout: float = 120,
) -> bool:
    """Run a module-level function in a fork and SIGKILL it after ``seconds``, counted from when ``begun`` is
    true if there is such a condition; False where it ended before."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(WARM))
    process = context.Process(target=_settled, args=(known(), work, arguments))
    process.start()
    latest = time.monotonic() + timeout
    while begun is not None and not begun() and process.is_alive() and time.monotonic() < latest:
        time.sleep(0.002)
    process.join(min(seconds, timeout))
    if process.exitcode is None:
        process.kill()
        process.join()
    if process.exitcode == -signal.SIGKILL:
        return True
    if process.exitcode:
        raise RuntimeError(f"{work.__name__} ended by itself with exit code {process.exitcode}")
    return False


def train_and_kill(config: Mapping[str, Any], step: int) -> None:
    """Train until ``step`` is recorded, then die as from a power cut."""
    from sapwood import finetune, parse_config
    from sapwood.types import Event, Stepped

    def kill_here(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    finetune(parse_config(config), kill_here)
