"""``sapwood demo``: the whole path on the built-in model and dataset, and what it changed."""

from __future__ import annotations

import gc
import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from sapwood.commands.train import run_config
from sapwood.config.file import load_config
from sapwood.config.sections import RunConfig
from sapwood.machine.device import device_for
from sapwood.machine.doing import doing
from sapwood.run import query
from sapwood.run.files import to_json, write_atomic
from sapwood.show.figures import duration
from sapwood.types import Sample

if TYPE_CHECKING:
    from sapwood.prepare.study import Study

HELD_OUT_ANSWERS = 40
TRAINING = 120.0  # seconds of the three minutes that the demo takes; loading and answers take the others


def run_demo(runs: Path, steps: int | None) -> None:
    """Train, then show base and adapter side by side, and how many held-out answers end by themselves."""
    started = time.monotonic()
    overrides = [f"save.dir={runs}", *([f"train.max_steps={steps}"] if steps else [])]
    with as_file(files("sapwood") / "assets" / "demo.yaml") as path:
        config = load_config(path, overrides)
    adapter = run_config(config, settle=None if steps else as_many_steps_as_fit)
    run = adapter.path.parent
    answers = held_out_answers(run, config)
    stopped = sum(answer.stopped for answer in answers)
    figures, peak = query.summarise(run), device_for(config.base.device_map).peak_bytes()
    facts = {
        "seconds": round(time.monotonic() - started, 1),
        "peak_bytes": peak,
        "base_loss": figures.base_eval_loss,
        "loss": figures.last_eval_loss,
        "answers": len(answers),
        "stopped_by_themselves": stopped,
    }
    write_atomic(run / "demo.json", to_json(facts))
    print(f"{stopped} of {len(answers)} held-out answers ended by the model's own stop token")
    print(f"{facts['seconds']:.0f} s in all, peak memory {peak / 1e9:.2f} GB")


def as_many_steps_as_fit(config: RunConfig, study: Study, seconds: float = TRAINING) -> tuple[RunConfig, str]:
    """The config with fewer steps if this machine makes no more of them in ``seconds``, but with one epoch at
    least; and a line that says so."""
    from sapwood.plan.choose import choose_plan, settled
    from sapwood.plan.time import estimate
    from sapwood.train.schedule import plan_steps

    device, whole = device_for(config.base.device_map), plan_steps(len(study.data.train), config.train)
    expected = estimate(study, settled(config, choose_plan(study, config, device), device), device)
    steps = max(whole.steps_per_epoch, int(seconds / expected.seconds_per_step))
    if steps >= whole.total_steps:
        return config, ""
    train = config.train.model_copy(update={"epochs": None, "max_steps": steps})
    fits = f"as many of {whole.total_steps} as this machine makes in about {duration(seconds)}"
    return config.model_copy(update={"train": train}), f"           {fits}, or one epoch"


def held_out_answers(run: Path, config: RunConfig) -> tuple[Sample, ...]:
    """The trained model's answers to all held-out prompts, from the adapter as it was saved."""
    from sapwood.answers.probes import ids_of, samples_of
    from sapwood.answers.speaker import speaking
    from sapwood.prepare.probe import choose_probes
    from sapwood.prepare.study import read_data
    from sapwood.serve.load import find_target, load_found
    from sapwood.serve.settings import Settings

    gc.collect()  # the trained model is done: its room is the next one's
    with doing("loading the adapter as it was saved"):
        found = find_target(str(run), run.parent)
        loaded = load_found(found)
        _, held_out = read_data(config, loaded.renderer)
    probes = choose_probes(held_out, loaded.renderer, HELD_OUT_ANSWERS)
    settings = Settings(max_new_tokens=2 * config.eval.max_new_tokens)
    with speaking(loaded, found.held, ids_of(probes), settings) as speaker:
        return samples_of(speaker, probes, "the adapter")
