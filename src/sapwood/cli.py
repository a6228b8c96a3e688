"""Verb to function. What a verb needs is imported when it is called, so that help answers at once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from sapwood.commands.line import results
from sapwood.commands.line.completion import offer_runs, offer_topics
from sapwood.commands.line.entry import run
from sapwood.commands.line.help import Verb, first_steps, group
from sapwood.commands.line.nested import data_app, model_app
from sapwood.commands.line.options import (
    RUNS,
    USUAL,
    Config,
    Json,
    Moved,
    Overrides,
    Run,
    Runs,
    Spill,
    Template,
    importing,
)

app = group(
    name="sapwood",
    help="Fine-tune a chat model with LoRA: proven labels, fast on the machine you have, exact resume.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(model_app, name="model")
app.add_typer(data_app, name="data")
verb = partial(app.command, cls=Verb)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", help="print the version and leave")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="results and errors only; anywhere")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="more on the way; anywhere")] = False,
    no_color: Annotated[
        bool, typer.Option("--no-color", help="plain text, as NO_COLOR=1 asks for; anywhere")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks; anywhere")] = False,
) -> None:
    if version:
        import sapwood

        typer.echo(f"sapwood {sapwood.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(first_steps(context.command), nl=False)


@verb(name="help")
def explain(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="a verb, or a key of the config", metavar="[VERB|KEY]", autocompletion=offer_topics
        ),
    ] = None,
) -> None:
    """Explain a verb or a key of the config, or list all verbs."""
    at: Any = context.parent or context
    command: Any = at.command
    for name in names or ():
        if name not in getattr(command, "commands", {}):
            from sapwood.commands.line.keys import key_help, near_key
            from sapwood.errors import ConfigError

            if told := key_help(name):
                typer.echo(told)
                return
            raise ConfigError(f"no verb is called {name!r}, and no key", "help", mend=near_key(name))
        command = command.commands[name]
        at = command.context_class(command, info_name=name, parent=at)
    typer.echo(command.get_help(at))


@verb()
def demo(
    runs: Runs = RUNS,
    steps: Annotated[
        int | None,
        typer.Option(
            help="stop after so many optimizer steps (default: as many as fit into three minutes)",
            metavar="N",
        ),
    ] = None,
) -> None:
    """Pull the built-in model, train it on the built-in dataset, show before and after."""
    with importing():
        from sapwood.commands.demo import run_demo

    run_demo(runs, steps)


@verb()
def check(config: Config = USUAL, overrides: Overrides = None, json: Json = False) -> None:
    """Check the data, and estimate memory and time; no weight is loaded, nothing is trained."""
    with importing():
        from sapwood.commands.data import check_config
    from sapwood.commands.line.config import named_config

    check_config(*named_config(config, overrides or []), as_json=json)


@verb()
def show(
    config: Config = USUAL,
    overrides: Overrides = None,
    row: Annotated[int | None, typer.Option(help="0-based number of a row in the data", metavar="N")] = None,
    count: Annotated[int, typer.Option("-n", help="number of examples", metavar="N")] = 1,
    worst: Annotated[
        bool,
        typer.Option("--worst", help="the rows worth a look: longest, fewest learnt tokens, odd characters"),
    ] = False,
    html: Annotated[
        Path | None, typer.Option(help="write one self-contained page instead", metavar="FILE")
    ] = None,
) -> None:
    """The tokens that the model sees, and which of them it learns."""
    with importing():
        from sapwood.commands.data import show_tokens
    from sapwood.commands.line.config import named_config

    path, words = named_config(config, overrides or [])
    show_tokens(path, words, row=row, count=count, worst=worst, html=html)


@verb()
def train(
    config: Config = USUAL,
    overrides: Overrides = None,
    spill: Spill = None,
    page: Annotated[bool, typer.Option("--ui", help="open the local page beside it")] = False,
    json: Json = False,
) -> None:
    """Train an adapter."""
    from sapwood.commands.line.config import named_config

    with importing():
        from sapwood.commands.train import train_config

    path, words = named_config(config, overrides or [])
    if page:
        from sapwood.config.file import load_config
        from sapwood.page.server import open_beside

        open_beside(Path(load_config(path, words).save.dir))
    train_config(path, words, spill=spill, as_json=json)


@verb()
def resume(
    run: Run = "last",
    runs: Runs = RUNS,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", help="key that may differ from the start; it is recorded", metavar="KEY"),
    ] = None,
    spill: Spill = None,
    json: Json = False,
) -> None:
    """Go on with an interrupted run; the result is the one it would have had."""
    with importing():
        from sapwood.commands.train import resume_run

    resume_run(run, runs, allow=allow or [], spill=spill, as_json=json)


@verb()
def verify(
    run: Annotated[
        str,
        typer.Argument(
            help="a run's id, name, folder, or `last`; or an adapter",
            metavar="RUN|ADAPTER",
            autocompletion=offer_runs,
        ),
    ] = "last",
    runs: Runs = RUNS,
    repair: Annotated[
        bool, typer.Option("--repair", help="set damaged parts aside, so that `sapwood resume` goes on")
    ] = False,
    base: Moved = None,
    template: Template = None,
    json: Json = False,
) -> None:
    """Read every file of a run, and compare it with the hashes that were recorded."""
    with importing():
        from sapwood.commands.verify import verify_run

    verify_run(run, runs, repair=repair, base=base, template=template, as_json=json)


@verb()
def adopt(
    adapter: Annotated[Path, typer.Argument(help="what PEFT, mlx-lm or llama.cpp has", metavar="ADAPTER")],
    base: Moved = None,
    template: Template = None,
    system: Annotated[
        str | None, typer.Option(help="system prompt that it was trained with", metavar="TEXT")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="rows that it should know: its loss on them must be lower"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="folder to create (default: beside the weights)", metavar="DIR"),
    ] = None,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """Check an adapter of another program, and write the sapwood.json that it lacks."""
    with importing():
        from sapwood.commands.adapters.adopt import adopt_adapter

    adopt_adapter(
        adapter, runs, base=base, template=template, system=system, data=data, out=out, as_json=json
    )


@verb(name="runs")
def list_runs(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN…]", help="compare these", autocompletion=offer_runs),
    ] = None,
    sort: Annotated[
        str, typer.Option(metavar="BY", help="date, name, status, loss, held-out, speed or time")
    ] = "date",
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write the figures as CSV; - is stdout")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="draw the curves into one PNG")] = None,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """List the runs, or compare some."""
    from sapwood.commands.runs import show_runs

    show_runs(names or [], runs, sort=sort, csv=csv, plot=plot, as_json=json)


verb(name="eval")(results.evaluate)
for result in (results.track, results.chat, results.serve, results.combine, results.export, results.push):
    verb()(result)


@verb()
def init(
    path: Annotated[Path, typer.Argument(help="file to write")] = USUAL,
    overrides: Overrides = None,
    data: Annotated[
        str, typer.Option(help="your examples: a file, a folder or hf:ORG/NAME", metavar="FILE")
    ] = "builtin:nursery",
    model: Annotated[
        str | None,
        typer.Option(
            help="base model (default: one that suits the data's language and the memory)", metavar="MODEL"
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="every key, with its help")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace an existing file")] = False,
) -> None:
    """Look at a file of examples, and write a config for it."""
    from sapwood.commands.init import write_config

    words = overrides or []
    if "=" in str(path) and not path.exists():
        path, words = USUAL, [str(path), *words]
    write_config(path, words, data=data, model=model, every=every, force=force)


@verb(name="import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            help="a tutorial, script, notebook, config, command line or PEFT folder", metavar="FILE"
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="config to write", metavar="FILE")] = Path(
        "sapwood.yaml"
    ),
    lang: Annotated[
        str, typer.Option("--lang", help="language of the report: en or zh", metavar="LANG")
    ] = "en",
    html: Annotated[
        Path | None,
        typer.Option(help="write the report as one self-contained page too", metavar="FILE"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace an existing file")] = False,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="check it if the rows are at hand")
    ] = True,
    json: Json = False,
) -> None:
    """Turn a tutorial, script or config of another tool into a config; say what was wrong in it."""
    from sapwood.commands.migrate import import_file
    from sapwood.errors import ConfigError

    if lang not in ("en", "zh"):
        raise ConfigError(f"no report in {lang!r}", "--lang", mend="choose en or zh")
    import_file(file, out, zh=lang == "zh", html=html, force=force, check=check, as_json=json)


@verb()
def ui(
    runs: Runs = RUNS,
    folder: Annotated[
        list[Path] | None,
        typer.Option(
            "--folder", help="folder whose files the page may open (default: this one)", metavar="DIR"
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="port of this machine (default: a free one)", metavar="N")
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="only show: nothing can be started or stopped")
    ] = False,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="open it in a browser")] = True,
) -> None:
    """The local page: data, runs, answers; start, stop, compare, talk, ship."""
    from sapwood.page.opening import Opening
    from sapwood.page.server import serve

    serve(Opening(runs, tuple(folder or [Path()]), port, read_only, browser))


@verb()
def report(
    run: Run = "last",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="file to write (default: report.html in the run's folder)", metavar="FILE"
        ),
    ] = None,
    lang: Annotated[str, typer.Option("--lang", help="language: en or zh", metavar="LANG")] = "en",
    runs: Runs = RUNS,
) -> None:
    """A run as one HTML file that opens from disk: curves, answers, proof, config."""
    from sapwood.page.drawn.report import write_report

    write_report(run, runs, out, lang)


@verb()
def doctor(runs: Runs = RUNS, json: Json = False) -> None:
    """Look at this machine: hardware, versions, hub reach, disk, what fits."""
    with importing():
        from sapwood.commands.doctor import examine

    examine(runs, as_json=json)


def main() -> NoReturn:
    """Entry point: every fault is one clear message and an exit code."""
    run(app)


if __name__ == "__main__":
    main()
