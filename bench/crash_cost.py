"""What safety costs: the share of a normal run's wall time that goes into checkpoints, status, events and the
rehearsal of the longest pack. Without CONFIG the demo.

    python bench/crash_cost.py [CONFIG] [key=value …]
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from common import arguments, machine, report  # before sapwood: it names this tree
from sapwood import pipeline
from sapwood.config.file import load_config
from sapwood.config.sections import RunConfig
from sapwood.run import store
from sapwood.train import checkpoint, saving

PARTS: tuple[tuple[str, Any, str], ...] = (
    ("checkpoints", saving, "save_checkpoint"),
    ("of which read back", checkpoint, "verify_dir"),
    ("event log", store.RunStore, "record"),
    ("event log made durable", store.RunStore, "events_length"),
    ("status", store.RunStore, "set_status"),
    ("own copy of the data", pipeline, "save_study"),
    ("longest pack first", pipeline, "rehearse"),
    ("free space", pipeline, "require_room"),
    ("final adapter", pipeline, "save_adapter"),
)


def measure(config: RunConfig) -> dict[str, float]:
    """Seconds of each part, and of the whole run."""
    seconds: Counter[str] = Counter()

    def timed(part: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(inner)
        def call(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return inner(*arguments, **named)
            finally:
                seconds[part] += time.perf_counter() - started

        return call

    for part, home, name in PARTS:
        setattr(home, name, timed(part, getattr(home, name)))
    started = time.perf_counter()
    pipeline.finetune(config)
    return {**seconds, "whole run": time.perf_counter() - started}


def main() -> int:
    parser = arguments(__doc__, rows=0)
    parser.add_argument("words", nargs="*", help="a config, and settings as on sapwood's command line")
    given = parser.parse_args()
    facts, words = machine(), list(given.words)
    with tempfile.TemporaryDirectory(prefix="sapwood-cost-") as runs:
        own = [f"save.dir={runs}", *(["train.max_steps=2"] if given.smoke else [])]
        if words and "=" not in words[0]:
            config = load_config(Path(words[0]), [*words[1:], *own])
        else:
            with as_file(files("sapwood") / "assets" / "demo.yaml") as demo:
                config = load_config(demo, [*words, *own])
        seconds = measure(config)
    whole = seconds["whole run"]
    safety = sum(seconds[part] for part, _, _ in PARTS if part in seconds and part != "of which read back")
    for part, spent in seconds.items():
        print(f"{part:<24} {spent:8.3f} s  {100 * spent / whole:6.2f} %")
    print(f"{'safety in all':<24} {safety:8.3f} s  {100 * safety / whole:6.2f} %")
    report("crash_cost", given, facts, {"rows": [{"share": safety / whole, "seconds": seconds}]})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
