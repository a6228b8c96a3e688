"""Verb to function. What a verb needs is imported when it is called, so that help answers at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from sapwood.errors import SapwoodError
from sapwood.machine.system import busy_processes

app = typer.Typer(
    name="sapwood",
    help="Fine-tune a chat model with LoRA: proven labels, fast on the machine you have, exact resume.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
model_app = typer.Typer(
    help="Pull a model, list what is known, or look at one.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(model_app, name="model")
data_app = typer.Typer(help="Make data files readable.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

Config = Annotated[Path, typer.Argument(help="YAML file; `sapwood init` writes one", metavar="CONFIG")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="section.key=value, wins over the file", metavar="[KEY=VALUE]…")
]
Json = Annotated[bool, typer.Option("--json", help="facts as JSON on stdout, nothing else")]
Runs = Annotated[Path, typer.Option("--runs", help="folder that holds the runs")]
Spill = Annotated[
    Path | None,
    typer.Option("--spill-dir", help="folder for the finished adapter where the run's disk is full"),
]
RUNS = Path("runs")
DEBUG = "--debug"
BUSY = 0.4  # running processes a core, before this one, from which a machine counts as busy


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="print the version and leave")] = False,
    debug: Annotated[bool, typer.Option(DEBUG, help="show tracebacks; accepted anywhere")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"sapwood {installed('sapwood')}")
        raise typer.Exit


@app.command()
def demo(
    runs: Runs = RUNS,
    steps: Annotated[int | None, typer.Option(help="stop after so many optimizer steps")] = None,
) -> None:
    """Pull the built-in model, train it on the built-in dataset, show before and after."""
    from sapwood.commands.demo import run_demo

    run_demo(runs, steps)


@app.command()
def check(config: Config, overrides: Overrides = None, json: Json = False) -> None:
    """Everything up to step 0: the proof, the counts, an estimate of memory and time."""
    from sapwood.commands.data import check_config

    check_config(config, overrides or [], as_json=json)


@app.command()
def show(
    config: Config,
    overrides: Overrides = None,
    row: Annotated[int | None, typer.Option(help="0-based number of a row in the data")] = None,
    count: Annotated[int, typer.Option("-n", help="how many examples")] = 1,
    worst: Annotated[
        bool, typer.Option("--worst", help="the longest, the least learnt, the most characters a token")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="write one self-contained page instead")] = None,
) -> None:
    """The tokens that the model sees, and which of them it learns."""
    from sapwood.commands.data import show_tokens

    show_tokens(config, overrides or [], row=row, count=count, worst=worst, html=html)


@app.command()
def train(config: Config, overrides: Overrides = None, spill: Spill = None, json: Json = False) -> None:
    """Train an adapter."""
    from sapwood.commands.train import train_config

    train_config(config, overrides or [], spill=spill, as_json=json)


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="a run's id, name, folder, or `last`")] = "last",
    runs: Runs = RUNS,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", help="key that may differ from the start; it is recorded", metavar="KEY"),
    ] = None,
    spill: Spill = None,
    json: Json = False,
) -> None:
    """Go on with an interrupted run; the result is the one it would have had."""
    from sapwood.commands.train import resume_run

    resume_run(run, runs, allow=allow or [], spill=spill, as_json=json)


@app.command()
def verify(
    run: Annotated[str, typer.Argument(help="a run's id, name, folder, or `last`")] = "last",
    runs: Runs = RUNS,
    repair: Annotated[
        bool, typer.Option("--repair", help="set damaged parts aside, so that `sapwood resume` goes on")
    ] = False,
    json: Json = False,
) -> None:
    """Read every byte of a run and hold it against what was written."""
    from sapwood.commands.verify import verify_run

    verify_run(run, runs, repair=repair, as_json=json)


@app.command(name="runs")
def list_runs(
    names: Annotated[list[str] | None, typer.Argument(metavar="[RUN]…", help="compare these")] = None,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """List the runs, or compare some."""
    from sapwood.commands.train import show_runs

    show_runs(names or [], runs, as_json=json)


@app.command(name="eval")
def evaluate(
    run: Annotated[str, typer.Argument(help="a run's id, name, folder, or `last`")] = "last",
    data: Annotated[Path | None, typer.Option(help="rows to measure on; without it, those held out")] = None,
    answers: Annotated[int, typer.Option(help="questions that both models answer")] = 16,
    max_new_tokens: Annotated[int, typer.Option(help="longest answer")] = 128,
    seed: Annotated[int, typer.Option(help="of the bootstrap")] = 0,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """Compare a run's adapter with its base on the same rows, with a confidence interval."""
    from sapwood.commands.eval import eval_run

    eval_run(run, runs, data, answers=answers, max_new_tokens=max_new_tokens, seed=seed, as_json=json)


@app.command()
def track(
    run: Annotated[str, typer.Argument(help="a run's id, name, folder, or `last`")] = "last",
    to: Annotated[
        list[str] | None, typer.Option("--to", help="swanlab, tensorboard, wandb, trackio, mlflow")
    ] = None,
    cloud: Annotated[bool, typer.Option("--cloud", help="send it; the key is in the environment")] = False,
    project: Annotated[str | None, typer.Option(help="what the tracker calls the collection")] = None,
    follow: Annotated[bool, typer.Option(hidden=True)] = False,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """Tell a tracker of a run, or of what it hasn't been told yet."""
    from sapwood.commands.track import follow_run, track_run

    settings = [f"track.to=[{', '.join(to)}]"] if to else []
    settings += ["track.mode=cloud"] if cloud else []
    settings += [f"track.project={project}"] if project else []
    if follow:
        follow_run(Path(run), settings)
    else:
        track_run(run, runs, settings, as_json=json)


@app.command()
def chat(
    target: Annotated[
        str, typer.Argument(help="a run, an adapter folder, or a base model", metavar="RUN|ADAPTER")
    ] = "last",
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="one question, one answer")] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="the base's answer beside the adapter's")
    ] = False,
    system: Annotated[str | None, typer.Option(help="system prompt; the run's own without it")] = None,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token")] = 0.0,
    top_p: Annotated[float, typer.Option(help="sample from this share of the probability")] = 1.0,
    top_k: Annotated[int, typer.Option(help="sample from so many tokens; 0 for all")] = 0,
    repetition_penalty: Annotated[float, typer.Option(help="above 1 discourages what was said")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="longest answer")] = 256,
    seed: Annotated[int, typer.Option(help="of the sampling")] = 0,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """Talk to a trained model, rendered exactly as it was trained."""
    from sapwood.commands.chat import start_chat
    from sapwood.serve.generate import Settings

    settings = Settings(
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k,
        repetition_penalty=repetition_penalty, seed=seed,
    )  # fmt: skip
    raise typer.Exit(
        start_chat(target, runs, settings, system=system, prompt=prompt, compare=compare, as_json=json)
    )


@app.command()
def combine(
    targets: Annotated[list[str], typer.Argument(help="runs or adapter folders", metavar="RUN|ADAPTER…")],
    out: Annotated[Path, typer.Option(help="folder of the new adapter")],
    weights: Annotated[str | None, typer.Option(help="0.7,0.3: one for each; equal shares without")] = None,
    how: Annotated[
        str, typer.Option(help="cat (the exact sum), svd (of one's rank), linear, ties, dare-ties …")
    ] = "cat",
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """Several LoRA adapters of one base as one: their weighted sum."""
    from sapwood.commands.combine import combine_adapters

    combine_adapters(targets, out, weights=weights, how=how, runs=runs, as_json=json)


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="a run, or an adapter folder", metavar="RUN|ADAPTER")],
    to: Annotated[str, typer.Option(help="merged, gguf-adapter, gguf or ollama")],
    file_type: Annotated[str, typer.Option("--type", help="of a whole GGUF model: F16 or Q8_0")] = "F16",
    base: Annotated[
        str | None, typer.Option("--base", help="merged: also try this base, in full precision")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="folder to create; default: exports/ in the run's folder")
    ] = None,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """Write what was trained in the form that another program runs, checked against what was trained."""
    from sapwood.commands.export import export_target

    export_target(run, runs, to=to, file_type=file_type, onto=base, out=out, as_json=json)


@app.command()
def push(
    run: Annotated[str, typer.Argument(help="a run, or an adapter folder", metavar="RUN|ADAPTER")],
    repo: Annotated[str, typer.Argument(help="ORG/NAME on Hugging Face", metavar="REPO")],
    dry: Annotated[
        bool, typer.Option("--dry-run", help="show every file and the card; send nothing")
    ] = False,
    private: Annotated[bool, typer.Option("--private", help="nobody else may see it")] = False,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """Publish a finished adapter on Hugging Face. The token is read from HF_TOKEN."""
    from sapwood.commands.push import push_run

    push_run(run, repo, runs, dry=dry, private=private, as_json=json)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="file to write")] = Path("sapwood.yaml"),
    data: Annotated[str, typer.Option(help="your file of examples")] = "builtin:nursery",
    model: Annotated[str, typer.Option(help="base model")] = "builtin:smollm2",
    force: Annotated[bool, typer.Option("--force", help="replace an existing file")] = False,
) -> None:
    """Write a commented config with every key at its default."""
    from sapwood.commands.init import write_config

    write_config(path, data=data, model=model, force=force)


@app.command()
def doctor(runs: Runs = RUNS, json: Json = False) -> None:
    """Look at this machine: hardware, versions, hub reach, disk, what fits."""
    from sapwood.commands.doctor import examine

    examine(runs, as_json=json)


@model_app.command("pull")
def model_pull(
    model: Annotated[str, typer.Argument(help="builtin:NAME, hf:ORG/NAME[@REV], ms:…")] = "builtin:smollm2",
    accept_license: Annotated[
        bool, typer.Option("--accept-license", help="you have read and accept the model's terms")
    ] = False,
) -> None:
    """Fetch a model into the cache, verified."""
    from sapwood.commands.model import pull

    pull(model, accept_license=accept_license)


@model_app.command("list")
def model_list(json: Json = False) -> None:
    """Models that are known by name, and which are here."""
    from sapwood.commands.model import show_list

    show_list(as_json=json)


@model_app.command("info")
def model_info(model: Annotated[str, typer.Argument()] = "builtin:smollm2", json: Json = False) -> None:
    """What a model is: architecture, size, context, stop tokens, template."""
    from sapwood.commands.model import show_info

    show_info(model, as_json=json)


@data_app.command("convert")
def data_convert(
    source: Annotated[Path, typer.Argument(help="a pickled DataFrame of known origin", metavar="FILE.pkl")],
    target: Annotated[Path | None, typer.Argument(help="default: FILE.jsonl", metavar="[TARGET]")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace an existing file")] = False,
) -> None:
    """Write the rows of a pickled DataFrame as JSONL, read in a process that can do nothing else."""
    from sapwood.data.files.convert import convert_pickle

    target = target or source.with_suffix(".jsonl")
    typer.echo(f"wrote {convert_pickle(source, target, force=force):,} rows to {target}")


def yield_to_others() -> None:
    """On a busy machine, let waiting threads sleep: one that spins takes the time of the one that works, and
    a step takes ten times as long. On an idle one spinning is faster. Must be said before torch is loaded."""
    if busy_processes() > BUSY * (os.cpu_count() or 1):
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def main() -> NoReturn:
    """Entry point. A SapwoodError is printed as its message and left with its exit code."""
    yield_to_others()
    debug = DEBUG in sys.argv
    try:
        app([argument for argument in sys.argv[1:] if argument != DEBUG])
    except SapwoodError as error:
        if debug:
            raise
        for line in str(error).splitlines():
            print(f"sapwood: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("sapwood: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read stdout has left
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        what = f"unexpected {type(error).__name__}: {error}"
        print(f"sapwood: {what} · this is a fault of sapwood · {DEBUG} shows where", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
