"""Numbers that stop being numbers, wherever they come from, never reach a file."""

from __future__ import annotations

import json
import math
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_post_hook

from sapwood import finetune, pipeline
from sapwood.adapter.attach import attach_lora
from sapwood.adapter.model import LoraModel
from sapwood.errors import NumericsError
from sapwood.run.query import list_runs, read_events
from sapwood.train.checkpoint import checkpoints, save_checkpoint
from sapwood.train.loop import MOST_SKIPPED, train
from sapwood.train.optim import TrainState
from sapwood.types import Evaluated, Stepped
from tests.crash.work import tiny_config
from tests.train.runs import adapter, data, same_bits, six_steps, start

BAD = (math.nan, math.inf, -math.inf)
PLACES = ("base", "adapter", "gradient", "moment")
CASES = 25 if "SAPWOOD_CRASH_ALL" in os.environ else 8  # for each place; `make crash` has all
SETTINGS = six_steps(eval={"every": 3})


def spoil(place: str, model: LoraModel, state: TrainState, rng: random.Random) -> Any:
    """Put one bad number somewhere. Returns what takes a hook out again."""
    value = rng.choice(BAD)
    parameters = list(model.parameters.values())
    target = rng.choice(parameters)
    where = rng.randrange(target.numel())
    if place == "gradient":

        def ruin(gradient: torch.Tensor) -> torch.Tensor:
            ruined = gradient.clone()
            ruined.view(-1)[where] = value
            return ruined

        return target.register_hook(ruin)
    if place == "base":
        target = rng.choice([p for p in model.network.parameters() if not p.requires_grad and p.dim() == 1])
    elif place == "moment":
        target = state.optimizer.state[target]["exp_avg"]
    with torch.no_grad():
        target.view(-1)[rng.randrange(target.numel())] = value
    return None


@pytest.mark.parametrize("place", PLACES)
def test_a_bad_number_never_reaches_a_checkpoint(place: str, tmp_path: Path) -> None:
    """Put in after a random step: the run stops with an error, and every file is finite."""
    for case in range(CASES):
        rng = random.Random(f"{place}{case}")
        folder, at = tmp_path / str(case), rng.randint(1, 3)
        model, state = start(SETTINGS)
        last: dict[str, torch.Tensor] = {}
        with pytest.raises(NumericsError):  # noqa: PT012: the loop is what is tested
            for event in train(model, data(), state, SETTINGS):
                if not isinstance(event, Stepped):
                    continue
                save_checkpoint(folder, model, state, keep=2, events_length=0)
                last = adapter(model)
                if event.step == at:
                    spoil(place, model, state, rng)
        kept = checkpoints(folder)
        assert kept and kept[-1].name == f"step-{at:06d}"
        for path in kept:
            for name in ("adapter_model", "optimizer"):
                tensors = load_file(path / f"{name}.safetensors")
                assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
        assert same_bits(load_file(kept[-1] / "adapter_model.safetensors"), last)


def test_a_bad_gradient_leaves_the_adapter_as_it_was() -> None:
    model, state = start(SETTINGS)
    before = adapter(model)
    hook = spoil("gradient", model, state, random.Random(1))
    with pytest.raises(NumericsError, match="gradient norm"):
        list(train(model, data(held_out=0), state, SETTINGS))
    hook.remove()
    assert same_bits(adapter(model), before)
    assert state.step == 0


def ruin_gradients(model: LoraModel, when: Callable[[], bool]) -> Any:
    def ruin(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * (math.inf if when() else 1.0)

    return next(iter(model.parameters.values())).register_hook(ruin)


def test_a_bad_step_is_skipped_and_counted_where_the_config_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil_the_third(*arguments: Any) -> Any:
        model = attach_lora(*arguments)
        ruin_gradients(model, lambda: model.clock.step == 2)
        return model

    monkeypatch.setattr(pipeline, "attach_lora", spoil_the_third)
    path = finetune(tiny_config(tmp_path, train={"on_nan": "skip"}, data={"eval": 0})).path
    (run,) = list_runs(tmp_path / "runs")
    assert (run.status, run.step, run.skipped_steps) == ("finished", 8, 1)
    (event,) = [event for event in read_events(run.path)[0] if event["data"].get("skipped")]
    assert (event["step"], event["data"]["loss"]) == (3, None)
    assert re.search(r"gradient norm .* at step 3: skipped, rows .*rows\.jsonl:\d+", event["data"]["skipped"])
    assert all(torch.isfinite(t).all() for t in load_file(path / "adapter_model.safetensors").values())


def test_skipping_ends_where_every_step_is_bad() -> None:
    settings = six_steps(train={"on_nan": "skip", "epochs": 8})
    model, state = start(settings)
    before = adapter(model)
    hook = ruin_gradients(model, lambda: True)
    with pytest.raises(NumericsError, match=f"at step {MOST_SKIPPED}"):
        list(train(model, data(held_out=0), state, settings))
    hook.remove()
    assert same_bits(adapter(model), before)


def test_a_held_out_loss_that_is_no_number_is_refused() -> None:
    model, state = start(SETTINGS)
    events = train(model, data(), state, SETTINGS)
    assert isinstance(next(events), Evaluated)
    for _ in range(3):
        assert isinstance(next(events), Stepped)
    with torch.no_grad():
        next(iter(model.parameters.values())).fill_(math.nan)
    with pytest.raises(NumericsError, match="held-out loss nan after step 3") as caught:
        next(events)
    assert caught.value.exit_code == 6
    assert state.evaluated == 0


def test_a_broken_base_is_named_before_the_first_step() -> None:
    model, state = start(SETTINGS)
    model.network.model.norm.weight.data[3] = math.nan
    with pytest.raises(NumericsError, match=r"held-out loss nan after step 0 .* the base is damaged"):
        next(train(model, data(), state, SETTINGS))


def test_the_run_says_why_and_names_its_last_good_checkpoint(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    steps = [0]

    def ruin_later(optimizer: Any, args: Any, kwargs: Any) -> None:
        steps[0] += 1
        if steps[0] == 3:
            with torch.no_grad():
                optimizer.param_groups[0]["params"][0].view(-1)[0] = math.nan

    handle = register_optimizer_step_post_hook(ruin_later)
    try:
        with pytest.raises(NumericsError) as caught:
            finetune(config)
    finally:
        handle.remove()
    assert "last good checkpoint: step-000002" in str(caught.value)
    (run,) = list_runs(tmp_path / "runs")
    assert run.status == "failed"
    assert "step-000002" in json.loads((run.path / "status.json").read_text())["reason"]
    assert not (run.path / "adapter").exists()
    assert all(event["kind"] != "finished" for event in read_events(run.path)[0])
