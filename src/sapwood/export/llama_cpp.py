"""Real llama.cpp, asked questions in a process of its own (`llama_child`)."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sapwood.errors import ExportError
from sapwood.export.check import Outside, Top
from sapwood.export.llama_child import ANSWERS, QUESTIONS
from sapwood.export.traces import TOP, Trace
from sapwood.machine.doing import doing
from sapwood.machine.extras import install

Question = dict[str, Any]
ROOM = 64  # tokens of context beside the longest trace


def require_llama_cpp() -> None:
    """Raises ExportError, before anything is computed, where llama.cpp isn't installed."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise ExportError(
            "llama.cpp isn't installed",
            "xllamacpp",
            "a GGUF export is checked in llama.cpp itself before it is published",
            install("export"),
        )


def hear_llama(
    traces: Sequence[Trace],
    stop_ids: Sequence[int],
    model: Path,
    adapter: Path | None,
    template: bool = False,
) -> Outside:
    """What llama.cpp says after the traces. ``template``: the chat template in the file makes the prompts."""
    room = max(len(trace.ids) + len(trace.answer) for trace in traces) + ROOM
    questions = [_prompt(trace, template) for trace in traces]
    questions += [{"ask": "stops", "ids": traces[0].ids, "id": id} for id in stop_ids]
    nexts = [{"ask": "next", "ids": ids, "top": TOP} for trace in traces for ids in trace.beginnings()]
    answers = ask(model, adapter, room, questions + nexts)
    ids, rest = answers[: len(traces)], answers[len(traces) :]
    stops, rest = rest[: len(stop_ids)], rest[len(stop_ids) :]
    return Outside(ids, _by_trace(traces, rest), dict(zip(stop_ids, stops, strict=True)))


def _prompt(trace: Trace, template: bool) -> Question:
    if not template:
        return {"ask": "tokenize", "text": trace.text}
    return {"ask": "prompt", "messages": [{"role": m.role, "content": m.content} for m in trace.messages]}


@doing("checking in llama.cpp")
def ask(model: Path, adapter: Path | None, context: int, questions: Sequence[Question]) -> list[Any]:
    """Load ``model`` (with ``adapter``) and answer `llama_child.Llama`'s questions. Raises ExportError with
    llama.cpp's own last words where it refuses a file."""
    require_llama_cpp()
    with tempfile.TemporaryDirectory(prefix="sapwood-llama-") as temporary:
        folder = Path(temporary)
        todo = {"model": str(model), "adapter": str(adapter) if adapter else None, "context": context}
        (folder / QUESTIONS).write_text(json.dumps(todo | {"questions": list(questions)}), encoding="utf-8")
        command = [sys.executable, "-m", "sapwood.export.llama_child", temporary]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if (folder / ANSWERS).is_file():
            return json.loads((folder / ANSWERS).read_text(encoding="utf-8"))
    said = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
    why = " / ".join(said[-3:])[-600:] or f"exit code {ended.returncode}"
    raise ExportError("llama.cpp can't run it", str(adapter or model), why)


def _by_trace(traces: Sequence[Trace], answers: Sequence[Any]) -> list[list[Top]]:
    """JSON has no NaN: llama.cpp says null for it, and the check fails on it."""
    left = iter(answers)

    def top() -> Top:
        return [(int(id), math.nan if log_p is None else float(log_p)) for id, log_p in next(left)]

    return [[top() for _ in trace.beginnings()] for trace in traces]
