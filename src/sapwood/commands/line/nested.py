"""``sapwood model`` and ``sapwood data``: verbs below a verb."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sapwood.commands.line.help import Verb, group
from sapwood.commands.line.options import Json

model_app = group(help="Pull a model, list what is known, or look at one.", no_args_is_help=True)
data_app = group(help="Make data files readable.", no_args_is_help=True)


@model_app.command("pull", cls=Verb)
def model_pull(
    model: Annotated[str, typer.Argument(help="builtin:NAME, hf:ORG/NAME[@REV], ms:…")] = "builtin:smollm2",
    accept_license: Annotated[
        bool, typer.Option("--accept-license", help="you have read and accept the model's terms")
    ] = False,
) -> None:
    """Fetch a model into the cache, verified."""
    from sapwood.commands.model import pull

    pull(model, accept_license=accept_license)


@model_app.command("list", cls=Verb)
def model_list(json: Json = False) -> None:
    """Built-in models, which of them are here, and what the hubs' caches hold."""
    from sapwood.commands.model import show_list

    show_list(as_json=json)


@model_app.command("info", cls=Verb)
def model_info(
    model: Annotated[
        str, typer.Argument(help="builtin:NAME, hf:ORG/NAME, ms:…, a folder or a .gguf file")
    ] = "builtin:smollm2",
    json: Json = False,
) -> None:
    """What a model is: architecture, size, context, stop tokens, template."""
    from sapwood.commands.model import show_info

    show_info(model, as_json=json)


@data_app.command("convert", cls=Verb)
def data_convert(
    source: Annotated[Path, typer.Argument(help="a pickled DataFrame of known origin", metavar="FILE.pkl")],
    target: Annotated[
        Path | None, typer.Argument(help="file to write (default: FILE.jsonl)", metavar="[TARGET]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace an existing file")] = False,
) -> None:
    """Write the rows of a pickled DataFrame as JSONL, read in a process that can do nothing else."""
    from sapwood.data.files.convert import convert_pickle
    from sapwood.errors import row_count

    target = target or source.with_suffix(".jsonl")
    typer.echo(f"wrote {row_count(convert_pickle(source, target, force=force))} to {target}")
