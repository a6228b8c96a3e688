"""The longest pack first: it fails early, and leaves no trace."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import pytest
import torch

from sapwood import finetune, parse_config
from sapwood.errors import OutOfMemoryError
from sapwood.machine.shortage import out_of_memory
from sapwood.run.query import list_runs
from sapwood.train.loop import pack_examples, train
from sapwood.train.rehearse import longest_pack, rehearse
from sapwood.train.schedule import Cursor, members, plan_steps
from sapwood.types import Pack
from tests.crash.work import tiny_config
from tests.forks import exit_code
from tests.train.runs import adapter, data, same_bits, six_steps, start, timeless

SETTINGS = six_steps()


def test_it_is_the_longest_of_all_steps() -> None:
    examples = data().train
    schedule, cursor, lengths = plan_steps(len(examples), SETTINGS.train), Cursor(), list[int]()
    for _ in range(schedule.total_steps):
        chosen, cursor = members(schedule, SETTINGS.train.seed, cursor)
        lengths += [len(pack.ids) for pack in pack_examples([examples[i] for i in chosen], SETTINGS)]
    assert len(longest_pack(data(), SETTINGS).ids) == max(lengths) > min(lengths)


def test_it_changes_nothing() -> None:
    model, state = start(SETTINGS)
    before, numbers = adapter(model), torch.get_rng_state()
    pack, seconds = rehearse(model, data(), SETTINGS, lambda pack: True)
    assert len(pack.ids) == len(longest_pack(data(), SETTINGS).ids)
    assert seconds is not None and seconds > 0
    assert same_bits(adapter(model), before)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(parameter.grad is None for parameter in model.parameters.values())
    assert not state.optimizer.state
    rehearsed = [timeless(event) for event in train(model, data(), state, SETTINGS)]
    model, state = start(SETTINGS)
    assert rehearsed == [timeless(event) for event in train(model, data(), state, SETTINGS)]


def test_a_second_pass_is_made_only_if_it_is_wanted() -> None:
    model, _ = start(SETTINGS)
    asked = list[Pack]()
    assert rehearse(model, data(), SETTINGS)[1] is None
    pack, seconds = rehearse(model, data(), SETTINGS, lambda pack: bool(asked.append(pack)))
    assert seconds is None and [len(one.ids) for one in asked] == [len(pack.ids)]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried"
        ),
    ],
)
def test_every_way_to_say_it_is_one_error(error: Exception) -> None:
    with pytest.raises(OutOfMemoryError, match="a step doesn't fit in memory"), out_of_memory("a step"):
        raise error


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes"), out_of_memory("a step"):
        raise RuntimeError("shapes don't match")


def train_with_little_memory(config: dict[str, object], spare: int) -> None:
    """Leaves with 70 where the run says that memory is short, and names three changes."""
    from sapwood.train import rehearse as module

    settings = parse_config(config)
    moved = module.batch_of

    def limited(*arguments: object) -> object:
        batch = moved(*arguments)  # type: ignore[arg-type]
        status = Path("/proc/self/status").read_text()
        used = int(status.split("VmData:")[1].split()[0]) << 10
        resource.setrlimit(resource.RLIMIT_DATA, (used + spare, resource.RLIM_INFINITY))
        return batch

    module.batch_of = limited  # type: ignore[assignment]
    try:
        finetune(settings)
    except OutOfMemoryError as error:
        mend = error.problems[0].mend
        os._exit(70 if mend.startswith("cheapest first: ") and mend.count("(about ") == 3 else 71)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the limit is Linux's")
def test_too_little_memory_is_told_before_the_first_step(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, pack={"length": 4096}, train={"batch_size": 64}, data={"eval": 0})
    rows = [{"instruction": f"{i}?", "output": "tree " * 4000} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    spare = 1 << 20
    assert exit_code(train_with_little_memory, config.model_dump(mode="json"), spare) == 70
    (run,) = list_runs(tmp_path / "runs")
    assert (run.status, run.step) == ("failed", 0)
