"""Verbs that take what was trained: measured, asked, put together, carried elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sapwood.commands.line.completion import offer_runs
from sapwood.commands.line.options import RUNS, Json, Moved, Run, Runs, Template, importing


def evaluate(
    run: Annotated[
        str,
        typer.Argument(
            help="a run, or an adapter folder with --data", metavar="RUN|ADAPTER", autocompletion=offer_runs
        ),
    ] = "last",
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="rows to measure on (default: those held out)")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="questions, one a line: both models answer, nothing is measured"),
    ] = None,
    answers: Annotated[int, typer.Option(help="questions that both models answer", metavar="N")] = 16,
    max_new_tokens: Annotated[int, typer.Option(help="tokens of an answer, at most", metavar="N")] = 128,
    seed: Annotated[int, typer.Option(help="number that fixes the draws of the bootstrap", metavar="N")] = 0,
    base: Moved = None,
    template: Template = None,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """Compare a run's adapter with its base on the same rows, with a confidence interval."""
    with importing():
        from sapwood.commands.eval import answer_prompts, eval_run

    if prompts is not None:
        answer_prompts(
            run, runs, prompts, base=base, template=template, max_new_tokens=max_new_tokens, as_json=json
        )
        return
    eval_run(
        run, runs, data, base=base, template=template, answers=answers, max_new_tokens=max_new_tokens,
        seed=seed, as_json=json,
    )  # fmt: skip


def track(
    run: Run = "last",
    to: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            help="swanlab, tensorboard, wandb, trackio, mlflow (default: track.to)",
            metavar="TRACKER",
        ),
    ] = None,
    cloud: Annotated[bool, typer.Option("--cloud", help="send it; the key is in the environment")] = False,
    project: Annotated[
        str | None, typer.Option(help="the tracker's project that the run belongs to", metavar="NAME")
    ] = None,
    follow: Annotated[bool, typer.Option(hidden=True)] = False,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """Send a run, or what is new in it, to a tracker."""
    from sapwood.commands.track import follow_run, track_run

    settings = [f"track.to=[{', '.join(to)}]"] if to else []
    settings += ["track.mode=cloud"] if cloud else []
    settings += [f"track.project={project}"] if project else []
    if follow:
        follow_run(Path(run), settings)
    else:
        track_run(run, runs, settings, as_json=json)


def chat(
    target: Annotated[
        str,
        typer.Argument(
            help="a run, an adapter folder, or a base model", metavar="RUN|ADAPTER", autocompletion=offer_runs
        ),
    ] = "last",
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="one question, one answer", metavar="TEXT")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="the base's answer beside the adapter's")
    ] = False,
    system: Annotated[
        str | None, typer.Option(help="system prompt (default: the run's own)", metavar="TEXT")
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="factor; 0 always takes the likeliest token", metavar="X")
    ] = 0.0,
    top_p: Annotated[
        float,
        typer.Option(
            help="sample from the likeliest tokens, up to this share of the probability", metavar="X"
        ),
    ] = 1.0,
    top_k: Annotated[
        int, typer.Option(help="sample from so many of the likeliest tokens; 0: from all", metavar="N")
    ] = 0,
    repetition_penalty: Annotated[
        float, typer.Option(help="factor; above 1 discourages tokens that were said", metavar="X")
    ] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="tokens of an answer, at most", metavar="N")] = 256,
    seed: Annotated[int, typer.Option(help="number that fixes the sampling", metavar="N")] = 0,
    base: Moved = None,
    template: Template = None,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """Talk to a trained model, rendered exactly as it was trained."""
    with importing():
        from sapwood.commands.chat import start_chat
    from sapwood.serve.settings import Settings

    settings = Settings(
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k,
        repetition_penalty=repetition_penalty, seed=seed,
    )  # fmt: skip
    raise typer.Exit(
        start_chat(
            target,
            runs,
            settings,
            system=system,
            prompt=prompt,
            compare=compare,
            base=base,
            template=template,
            as_json=json,
        )
    )


def serve(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            help="runs, adapters, a folder of them, a base; NAME=… names it",
            metavar="[RUN…]",
            autocompletion=offer_runs,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="address to listen on; another than this needs a key", metavar="HOST")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="port to listen on; 0: any that is free", min=0, max=65535, metavar="N")
    ] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key", help="key that a request must bring (default: SAPWOOD_API_KEY)", metavar="KEY"
        ),
    ] = None,
    cors: Annotated[
        list[str] | None, typer.Option(help="origin whose pages may ask, * for any", metavar="ORIGIN")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="another name that the server has", metavar="NAME")
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option(help="answers at once (default: 2 a core, 4 to 8)", min=1, max=256, metavar="N"),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(help="tokens of a prompt and its answer (default: 4096)", min=16, metavar="N"),
    ] = None,
    queue: Annotated[int, typer.Option(help="requests that may wait", min=0, metavar="N")] = 256,
    wait: Annotated[float, typer.Option(help="seconds that each may wait", min=0.1, metavar="X")] = 60.0,
    max_body: Annotated[int, typer.Option(help="bytes of one request", min=1024, metavar="N")] = 4 << 20,
    temperature: Annotated[
        float,
        typer.Option(help="factor, for requests that name none; 0 answers as chat does", min=0, metavar="X"),
    ] = 0.0,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="write what is asked to stderr")] = False,
    base: Moved = None,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """Serve trained models and their base to any client of OpenAI's or Anthropic's API."""
    from sapwood.machine.extras import require

    libraries = ("starlette", "uvicorn", "sse_starlette", "prometheus_client", "aiohttp", "llguidance")
    require("serve", "xllamacpp", *libraries)
    from sapwood.engine.process import Started

    spare = Started.now()  # it imports llama.cpp while we import the rest; it ends with us
    from sapwood.commands.chat import start_server
    from sapwood.endpoint.api.rules import Manners
    from sapwood.endpoint.library import Limits
    from sapwood.endpoint.server import Options

    options = Options(
        targets or ["last"], runs, base, host, port, api_key, allow_host or [], cors or [],
        Limits(parallel, context, queue, wait),
        Manners(temperature=temperature, most_bytes=max_body, log_prompts=log_prompts), spare,
    )  # fmt: skip
    start_server(options, as_json=json)


def combine(
    targets: Annotated[
        list[str],
        typer.Argument(help="runs or adapter folders", metavar="RUN|ADAPTER…", autocompletion=offer_runs),
    ],
    out: Annotated[Path, typer.Option(help="folder of the new adapter", metavar="DIR")],
    weights: Annotated[
        str | None,
        typer.Option(help="one number for each, for example 0.7,0.3 (default: equal shares)", metavar="LIST"),
    ] = None,
    how: Annotated[
        str, typer.Option(help="cat (the exact sum), svd (of one's rank), linear, ties, dare-ties …")
    ] = "cat",
    base: Moved = None,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """Join LoRA adapters of one base into one: their weighted sum."""
    with importing():
        from sapwood.commands.adapters.combine import combine_adapters

    combine_adapters(targets, out, weights=weights, how=how, base=base, runs=runs, as_json=json)


def export(
    run: Annotated[
        str,
        typer.Argument(help="a run, or an adapter folder", metavar="RUN|ADAPTER", autocompletion=offer_runs),
    ],
    to: Annotated[str, typer.Option(help="merged, gguf-adapter, gguf or ollama", metavar="FORM")],
    file_type: Annotated[
        str,
        typer.Option(
            "--type",
            help="number format of a whole GGUF model: F16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, IQ4_XS …",
            metavar="TYPE",
        ),
    ] = "F16",
    base: Moved = None,
    template: Template = None,
    onto: Annotated[
        str | None,
        typer.Option("--onto", help="merged: also try this base, in full precision", metavar="MODEL"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="folder to create (default: exports/ in the run's folder)", metavar="DIR"),
    ] = None,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """Write a trained model for another program, and check that it answers as it was trained to."""
    with importing():
        from sapwood.commands.export import export_target

    export_target(
        run, runs, to=to, file_type=file_type, base=base, template=template, onto=onto, out=out, as_json=json
    )


def push(
    run: Annotated[
        str,
        typer.Argument(help="a run, or an adapter folder", metavar="RUN|ADAPTER", autocompletion=offer_runs),
    ],
    repo: Annotated[str, typer.Argument(help="ORG/NAME on Hugging Face", metavar="REPO")],
    dry: Annotated[
        bool, typer.Option("--dry-run", help="show every file and the card; send nothing")
    ] = False,
    private: Annotated[bool, typer.Option("--private", help="nobody else may see it")] = False,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """Publish a finished adapter on Hugging Face. The token is read from HF_TOKEN."""
    with importing():
        from sapwood.commands.push import push_run

    push_run(run, repo, runs, dry=dry, private=private, as_json=json)
