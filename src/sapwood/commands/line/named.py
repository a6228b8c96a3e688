"""Runs, adapters and models that a command line names. An unknown name is told at once: opening them would
first import torch, which takes seconds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

OWN = ("serve",)  # names by itself what it can't serve, and serves the others


def refuse_unknown(command: Any, params: dict[str, Any]) -> None:
    """Look at the arguments that are a RUN or an ADAPTER. Raises ConfigError or ModelError."""
    if "runs" not in params or command.name in OWN:
        return
    for parameter in command.params:
        if parameter.param_type_name != "argument":
            continue
        kinds = set(re.findall("[A-Z]+", str(parameter.metavar or parameter.name.upper())))
        if kinds & {"RUN", "ADAPTER"}:
            for name in _values(params[parameter.name]):
                _refuse(name, params["runs"], may_be_run="RUN" in kinds)


def _values(given: Any) -> Iterable[str]:
    if given is None:
        return []
    return map(str, given) if isinstance(given, list | tuple) else [str(given)]


def _refuse(name: str, runs: Path, *, may_be_run: bool) -> None:
    from sapwood.base.sources import refuse_unknown_source
    from sapwood.errors import ModelError
    from sapwood.run.query import find_run

    if Path(name).exists():
        return
    if not may_be_run:
        raise ModelError("no adapter lies there", name, "no such folder or file")
    if ":" in name:
        refuse_unknown_source(name)
    else:
        find_run(runs, name)
