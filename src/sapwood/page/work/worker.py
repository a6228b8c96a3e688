"""The process behind a `page.work.desk.Desk`: ``python -m sapwood.page.work.worker NAME``.

Questions come as lines on stdin, one at a time is worked on, replies go to what was stdout. What a library
prints goes nowhere. The process ends when stdin does. So no process is left behind when the page's server is
killed.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Generator
from typing import Any

from sapwood.errors import SapwoodError
from sapwood.machine.system import step_back
from sapwood.page.work.desk import gone_as

Work = Callable[..., Generator[Any, None, Any]]
TABLES = {"desk": "sapwood.page.work.proof", "voice": "sapwood.page.work.voice"}
NICE = 5  # a training matters more


class Stops:
    """Which questions nobody waits for any more."""

    def __init__(self) -> None:
        self._numbers: set[int] = set()

    def add(self, number: int) -> None:
        self._numbers.add(number)

    def has(self, number: int) -> bool:
        return number in self._numbers


def main(name: str) -> None:
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    step_back(NICE)
    asked: queue.Queue[dict[str, Any]] = queue.Queue()
    stops = Stops()
    threading.Thread(target=_listen, args=(asked, stops), daemon=True).start()
    table: dict[str, Work] = importlib.import_module(TABLES[name]).TASKS
    while True:
        question = asked.get()
        number = int(question["id"])
        if not stops.has(number):
            _work(table, question, number, stops, out)


def _work(table: dict[str, Work], question: dict[str, Any], number: int, stops: Stops, out: Any) -> None:
    def reply(**told: Any) -> None:
        out.write(json.dumps({"id": number, **told}, ensure_ascii=False, default=str).encode() + b"\n")

    try:
        working = table[question["do"]](**question["with"])
        try:
            while True:
                piece = next(working)
                if stops.has(number):
                    working.close()
                    return
                reply(piece=piece)
        except StopIteration as end:
            reply(done=end.value)
    except SapwoodError as error:
        reply(problems=[gone_as(problem) for problem in error.problems])
    except Exception as error:
        traceback.print_exc()
        reply(problems=[{"what": f"{type(error).__name__}: {error}", "where": str(question["do"])}])


def _listen(asked: queue.Queue[dict[str, Any]], stops: Stops) -> None:
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if "stop" in message:
            stops.add(message["stop"])
        else:
            asked.put(message)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
