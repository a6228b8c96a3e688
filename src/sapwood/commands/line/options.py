"""Arguments and options that several verbs take."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from sapwood.commands.line.completion import offer_config, offer_runs, offer_settings
from sapwood.machine.doing import doing

Config = Annotated[
    Path,
    typer.Argument(
        help="YAML file, as `sapwood init` writes one; or your data",
        metavar="CONFIG|DATA",
        autocompletion=offer_config,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="section.key=value, wins over the file", metavar="[KEY=VALUE…]", autocompletion=offer_settings
    ),
]
Run = Annotated[str, typer.Argument(help="a run's id, name, folder, or `last`", autocompletion=offer_runs)]
Json = Annotated[bool, typer.Option("--json", help="facts as JSON on stdout, nothing else")]
Runs = Annotated[Path, typer.Option("--runs", help="folder that holds the runs", metavar="DIR")]
Moved = Annotated[
    str | None,
    typer.Option(
        "--base",
        help="name or folder of the adapter's base, if it has moved",
        metavar="MODEL",
    ),
]
Template = Annotated[
    str | None,
    typer.Option("--template", help="chat template, for an adapter that another program made", metavar="T"),
]
Spill = Annotated[
    Path | None,
    typer.Option(
        "--spill-dir", help="folder for the finished adapter if the run's disk is full", metavar="DIR"
    ),
]
RUNS, USUAL = Path("runs"), Path("sapwood.yaml")


def importing() -> AbstractContextManager[object]:
    """Surrounds the imports of a verb: torch and transformers take seconds, and the first time many
    seconds."""
    return doing("importing torch")
