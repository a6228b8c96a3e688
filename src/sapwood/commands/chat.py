"""``sapwood chat`` and ``sapwood serve``: asking what was trained, in the terminal or through any client."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sapwood.endpoint.library import Library
    from sapwood.endpoint.server import Options
    from sapwood.serve.settings import Settings


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
    from sapwood.endpoint.voice import open_voice
    from sapwood.serve.chat import run_chat

    with open_voice(target, runs, base=base, template=template) as voice:
        return run_chat(
            voice, settings, system=system, prompt=prompt, compare=compare, json=as_json,
            stdin=sys.stdin, stdout=sys.stdout,
        )  # fmt: skip


def start_server(options: Options, *, as_json: bool) -> None:
    """Open everything, prove it, say where it is, and serve until Ctrl-C or SIGTERM."""
    from sapwood.endpoint.server import run_server

    logging.basicConfig(level=logging.WARNING, format="sapwood: %(message)s")
    run_server(options, lambda library, url: _tell(library, url, options, as_json=as_json))


def _tell(library: Library, url: str, options: Options, *, as_json: bool) -> None:
    from sapwood.endpoint.api.rules import is_loopback
    from sapwood.endpoint.described import described

    if as_json:
        models = [{"id": one.name, "parent": one.parent, **described(one)} for one in library.models]
        told = {"url": f"{url}/v1", "models": models, "refused": library.refused, "notes": library.notes}
        print(json.dumps(told, ensure_ascii=False), flush=True)
        return
    for served in library.models:
        proof = served.verdict.line() if served.verdict is not None and served.parent else ""
        print(f"model      {served.name}  {proof}".rstrip())
    for name, why in library.refused.items():
        print(f"refused    {name}: {why}")
    for note in library.notes:
        print(f"note       {note}")
    if not is_loopback(options.host):
        print(f"exposed    {options.host}: whoever reaches it and has the key may ask and load adapters")
    print(f"serving    {url}/v1   (Ctrl-C ends it)")
    print("use        " + snippet(url, library.models[-1].name), flush=True)


def snippet(url: str, model: str) -> str:
    """What to type for a first answer. It is bounded: a model that learnt little may never end one."""
    asked = [{"role": "user", "content": "Hello"}]
    body = json.dumps({"model": model, "max_tokens": 64, "messages": asked})
    return f"curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"
