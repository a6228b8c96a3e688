"""Measures which lines run in a process that a test starts.

Python imports a module of this name at every start, from the folders of PYTHONPATH. Tests of the page name
this folder there while the suite is measured. What was seen is written to the folder in which slipcover
merges what its workers saw. A process that is killed at once writes nothing. The command lines that the page
starts aren't measured: other tests run them, and changing the code of all of sapwood takes seconds each time.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import uuid
from multiprocessing import util
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "sapwood"


def measure(folder: str) -> None:
    import slipcover

    seen = slipcover.Slipcover()
    slipcover.ImportManager(seen, slipcover.FileMatcher(sources=[SOURCE])).__enter__()

    def write() -> None:
        coverage = seen.get_coverage()
        root = SOURCE.parents[1]
        files = {os.path.relpath(name, root): found for name, found in coverage["files"].items()}
        name = f"coverage-gw-{os.getpid()}-{uuid.uuid4().hex}.json"
        Path(folder, name).write_text(json.dumps({**coverage, "files": files}), encoding="ascii")

    def forked(_: object) -> None:
        seen.signal_child_process()
        # A process of `multiprocessing` ends without `atexit`.
        util.Finalize(None, write, exitpriority=-100)

    def ended(number: int, _: object) -> None:
        write()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    atexit.register(write)
    signal.signal(signal.SIGTERM, ended)
    util.register_after_fork(seen, forked)


def is_of_the_page(words: list[str]) -> bool:
    """Whether a process is the page's server or one of its helpers."""
    return "ui" in words or any(word.startswith("sapwood.page") for word in words)


if (found := os.environ.get("SLIPCOVER_COVERAGE_DIR")) and is_of_the_page(sys.orig_argv):
    measure(found)
