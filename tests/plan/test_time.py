"""How long a run takes: what is said before it, what its first steps put right, what costs much."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sapwood.commands.demo import as_many_steps_as_fit
from sapwood.config.file import load_config
from sapwood.config.sections import RunConfig
from sapwood.machine.device import CPU
from sapwood.plan import costs as costs_module
from sapwood.plan.choose import choose_plan, settings_line, settled
from sapwood.plan.costs import costly
from sapwood.plan.time import Correction, Estimate, Pace, estimate
from sapwood.prepare.study import Study, study_config
from sapwood.types import Evaluated, Pack, Stepped
from tests.base.tiny import tiny_llama


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("time")
    tiny_llama(folder)
    rows = [{"prompt": f"Tree {i}?", "completion": f"Water tree {i} " * 9} for i in range(64)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def config_of(home: Path, *words: str) -> RunConfig:
    given = [f"base.model={home / 'tiny-llama'}", f"data.train={home / 'rows.jsonl'}", "base.storage=fp32"]
    return load_config(None, [*given, "train.batch_size=16", *words])


@pytest.fixture(scope="module")
def study(home: Path) -> Study:
    return study_config(config_of(home))


def said(study: Study, config: RunConfig) -> tuple[Estimate, list[str]]:
    choice = choose_plan(study, config, CPU)
    expected = estimate(study, settled(config, choice, CPU), CPU)
    return expected, costly(study, config, choice, CPU, expected)


def test_the_demo_makes_as_many_steps_as_fit_and_one_epoch_at_least(home: Path, study: Study) -> None:
    config = config_of(home, "train.epochs=2")
    one, _ = said(study, config)
    assert one.steps == 8
    assert as_many_steps_as_fit(config, study, 60 * one.seconds) == (config, "")
    some, line = as_many_steps_as_fit(config, study, 6.5 * one.seconds_per_step)
    assert (some.train.max_steps, some.train.epochs) == (6, None)
    assert "as many of 8 as this machine makes" in line
    least, _ = as_many_steps_as_fit(config, study, one.seconds_per_step)
    assert least.train.max_steps == 4


def stepped(step: int, seconds: float) -> Stepped:
    return Stepped(step, 1.0, 10, 20, 1e-4, 1.0, seconds, 0)


EXPECTED = Estimate(
    seconds=1000, seconds_per_step=9, steps=100, first=(8, 10, 9), rounds=5, evaluation=20,
    parameters=1, trained=1, fill=1, saved=0,
)  # fmt: skip


def test_the_load_of_others_is_said_beside_the_time() -> None:
    assert EXPECTED.time_line() == (
        "time       about 16m40s (9.0 s a step) without loading and sample answers, "
        "on this machine, which does nothing else now"
    )
    from dataclasses import replace

    beside = replace(EXPECTED, load=0.48).time_line()
    assert "beside the other programs of now, which take 48 % of the processors" in beside


def pack_of(length: int) -> Pack:
    ids = np.zeros(length, np.int32)
    return Pack(ids, ids, (), ids[:0], ids[:0], ())


PACE = Pace(rate=1e9, linear=1_000_000, embedding=0, layers=4, recomputed=0)


def test_a_pass_before_the_first_step_puts_the_estimate_right() -> None:
    correction, pack = Correction(EXPECTED, PACE), pack_of(870)
    said = PACE.step([pack])
    assert said == pytest.approx(4.0, rel=0.01)
    assert correction.worth_a_pass(pack) and not correction.worth_a_pass(pack_of(5_000))
    line = correction.tried(pack, 3 * said)
    assert correction.seconds() == pytest.approx(3 * (100 * 9 + 5 * 20))
    assert line == "time       about 50m00s in all, by one pass"
    assert [correction.seen(stepped(step, 27.0)) for step in (1, 2, 3)] == [None] * 3, "as it was told"
    later = [correction.seen(stepped(step, 9.0)) for step in range(4, 12)]
    assert [line for line in later if line][-1] == "time       about 17m34s in all, by the last 3 steps"


def test_three_steps_put_the_estimate_right() -> None:
    correction = Correction(EXPECTED, PACE)
    assert correction.seen(Evaluated(0, 3.0, 10, 10.0)) is None
    assert correction.seen(stepped(1, 30.0)) is None, "it warms up"
    assert correction.seen(stepped(2, 5.0)) is None
    line = correction.seen(stepped(3, 4.5))
    truth = 10 + 30 + 9.5 + 97 * 4.5 + 4 * 10
    assert correction.seconds() == pytest.approx(truth, rel=0.01)
    assert line == "time       about 8m46s in all, by the first 3 steps"
    assert correction.seen(stepped(4, 5.0)) is None, "once"


def test_a_program_that_ends_or_begins_is_told_by_the_steps_behind_it() -> None:
    correction = Correction(EXPECTED, PACE)
    slow = [correction.seen(stepped(step, 20.0)) for step in range(1, 7)]
    assert [line for line in slow if line] == ["time       about 35m08s in all, by the first 3 steps"]
    fast = [correction.seen(stepped(step, 8.0)) for step in range(7, 30)]
    said = [line for line in fast if line]
    assert said[-1].endswith("by the last 3 steps")
    truth = 6 * 20 + 94 * 8 + 5 * 20
    assert correction.seconds() == pytest.approx(truth, rel=0.05)
    assert len(said) <= 2, "what is near to what was told isn't told again"


def test_threads_that_are_added_make_the_rest_shorter() -> None:
    alone, helped = Correction(EXPECTED, PACE), Correction(EXPECTED, PACE)
    for step in (1, 2, 3):
        alone.seen(stepped(step, 10.0))
        helped.seen(stepped(step, 10.0), sooner=2.0 if step == 3 else 1.0)
    assert helped.seconds() == pytest.approx(30 + (alone.seconds() - 30) / 2)


def test_a_run_that_goes_on_says_nothing_of_its_first_steps() -> None:
    correction = Correction(EXPECTED, PACE)
    assert [correction.seen(stepped(step, 5.0)) for step in (40, 41, 42, 43)] == [None] * 4


def test_what_computes_the_run_is_one_line(home: Path, study: Study) -> None:
    config = config_of(home, "train.threads=1")
    line = settings_line(settled(config, choose_plan(study, config, CPU), CPU))
    assert line.startswith("computes   weights in fp32, products in fp32, 1 thread, no layers computed twice")


def test_settings_that_cost_much_are_named_with_the_figure_and_what_to_type(
    home: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a processor that multiplies all formats alike: on one with bf16 the tests' own fp32 costs much
    monkeypatch.setattr(costs_module, "product_rates", lambda name: {"fp32": 50.0, name: 50.0})
    assert said(study, config_of(home))[1] == []
    _, advice = said(study, config_of(home, "train.gradient_checkpointing=true"))
    assert len(advice) == 1
    assert "computes 2 of 2 layers twice, for nothing" in advice[0]
    assert "less (33 %) with train.gradient_checkpointing=auto" in advice[0]
    monkeypatch.setattr("sapwood.plan.time.PACK", 10_000)
    small = config_of(home, "pack.length=96", "train.micro_batch=1")
    assert "15 passes a step, each with few tokens, where 2 would do" in said(study, small)[1][0]
    assert "with train.micro_batch=null pack.length=1024" in said(study, small)[1][0]


def test_a_format_or_a_number_of_threads_that_is_slow_here_is_named(
    home: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {"dtype": "bf16", "products": "bf16", "threads": 2}
    monkeypatch.setattr(costs_module, "machine_facts", lambda device: facts)
    monkeypatch.setattr(
        costs_module, "product_rates", lambda name: {"fp32": 50.0, name: 50.0 if name == "fp32" else 100.0}
    )
    monkeypatch.setattr(costs_module, "rate_with_threads", lambda name, products, count: 60.0 * count)
    _, advice = said(study, config_of(home, "train.threads=1"))
    assert "base.storage=fp32 multiplies 2.0 times slower here than bf16" in advice[0]
    assert "less (50 %) with base.storage=auto" in advice[0]
    assert "train.threads=1 reaches 50 % of the rate of 2" in advice[1]
