"""What the real llama.cpp says after the prompts with which an export is checked (by way of `engine`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sapwood.engine.ask import Asked, asked
from sapwood.engine.process import Setup, require_llama_cpp
from sapwood.export.check import Outside, Top
from sapwood.export.traces import TOP, Trace
from sapwood.machine.doing import doing

WHY = "a GGUF export is checked in llama.cpp itself before it is published"
ROOM = 64  # tokens of context beside the longest trace


@doing("checking in llama.cpp")
def hear_llama(
    traces: Sequence[Trace],
    stop_ids: Sequence[int],
    model: Path,
    adapter: Path | None,
    template: bool = False,
) -> Outside:
    """What llama.cpp says after the traces. ``template``: the chat template in the file makes the prompts.

    Raises ExportError with llama.cpp's own last words if it refuses a file.
    """
    require_llama_cpp(WHY)
    room = max(len(trace.ids) + len(trace.answer) for trace in traces) + ROOM
    with asked(Setup(model, (adapter,) if adapter else (), room)) as llama:
        ids = [_prompt(llama, trace, template) for trace in traces]
        stops = {id: llama.stops(traces[0].ids, id) for id in stop_ids}
        told = [[_numbers(llama.next(ids, TOP)) for ids in trace.beginnings()] for trace in traces]
    return Outside(ids, told, stops)


def _prompt(llama: Asked, trace: Trace, template: bool) -> list[int]:
    if not template:
        return llama.tokenize(trace.text)
    return llama.prompt([{"role": m.role, "content": m.content} for m in trace.messages])


def _numbers(top: Sequence[tuple[Any, Any]]) -> Top:
    """JSON has no NaN: llama.cpp says null for it, and the check fails on it."""
    return [(int(id), math.nan if log_p is None else float(log_p)) for id, log_p in top]
