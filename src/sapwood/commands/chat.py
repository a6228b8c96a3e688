"""``sapwood chat``."""

from __future__ import annotations

import sys
from pathlib import Path

from sapwood.machine.doing import doing
from sapwood.serve.chat import run_chat
from sapwood.serve.generate import Settings
from sapwood.serve.load import open_target


def start_chat(
    target: str,
    runs: Path,
    settings: Settings,
    *,
    system: str | None,
    prompt: str | None,
    compare: bool,
    base: str | None,
    template: str | None,
    as_json: bool,
) -> int:
    with doing(f"loading {target}"):
        loaded = open_target(target, runs, base=base, template=template)
    return run_chat(
        loaded, settings, system=system, prompt=prompt, compare=compare, json=as_json,
        stdin=sys.stdin, stdout=sys.stdout,
    )  # fmt: skip
