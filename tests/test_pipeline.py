"""One config in, one adapter out; and kill it wherever you like."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path

import pytest
import torch

from sapwood import finetune, parse_config, resume
from sapwood.config.sections import BaseConfig, RunConfig
from sapwood.errors import ConfigError, DataError, Stopped, StorageError
from sapwood.run.query import find_run, list_runs, read_events, read_samples
from sapwood.serve.generate import Settings, answer_batch
from sapwood.serve.load import open_target
from sapwood.types import Evaluated, Event, Finished, Stepped
from tests.base.tiny import tiny_llama
from tests.forks import exit_code, train_and_kill
from tests.gguf.tiny_gguf import tiny_gguf

STEPS = 6


def make_config(folder: Path, runs: Path | None = None, threads: int = 1) -> RunConfig:
    """A tiny model and a dozen rows in ``folder``; six steps, dropout on, a checkpoint every second step."""
    model = folder / "tiny-llama"
    if not model.exists():
        tiny_llama(folder)
    rows = folder / "rows.jsonl"
    rows.write_text(
        "".join(
            json.dumps(
                {"instruction": f"What about tree {i}?", "output": f"Water tree {i} well. " * (1 + i % 3)}
            )
            + "\n"
            for i in range(14)
        )
    )
    return parse_config(
        {
            "name": "tiny",
            "base": {"model": str(model), "storage": "fp32"},
            "data": {"train": str(rows), "eval": 2, "system": "You keep a nursery."},
            "lora": {"rank": 2, "dropout": 0.2},
            "train": {"epochs": 2, "batch_size": 4, "lr": 1e-2, "threads": threads},
            "eval": {"every": 2, "samples": 2, "max_new_tokens": 4},
            "save": {"every": 2, "dir": str(runs or folder / "runs")},
        }
    )


def adapter_hashes(run: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((run / "adapter").iterdir())
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Event]]:
    """(folder, run, events) of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    seen: list[Event] = []
    adapter = finetune(make_config(folder, threads=2), seen.append)
    return folder, adapter.path.parent, seen


def test_the_run_tells_everything(undisturbed: tuple[Path, Path, list[Event]]) -> None:
    _, run, seen = undisturbed
    assert [type(event).__name__ for event in seen][:2] == ["Evaluated", "Stepped"]
    steps = [event for event in seen if isinstance(event, Stepped)]
    assert [event.step for event in steps] == list(range(1, STEPS + 1))
    assert all(event.num_examples == 4 for event in steps)
    assert [event.step for event in seen if isinstance(event, Evaluated)] == [0, 2, 4, 6]
    assert isinstance(seen[-1], Finished)
    (summary,) = list_runs(run.parent)
    assert (summary.status, summary.step, summary.total_steps) == ("finished", STEPS, STEPS)
    facts = json.loads((run / "run.json").read_text())["facts"]
    assert {"base_fingerprint", "template_fingerprint", "data_sha256", "proof", "machine"} <= facts.keys()
    assert len(read_samples(run)) == 2 * 4
    events, _ = read_events(run)
    assert [e["data"]["loss"] for e in events if e["kind"] == "stepped"] == [e.loss for e in steps]


def test_sample_answers_are_as_many_and_as_long_as_the_config_says(
    undisturbed: tuple[Path, Path, list[Event]],
) -> None:
    samples = [event.samples for event in undisturbed[2] if isinstance(event, Evaluated)]
    assert [len(found) for found in samples] == [2] * 4, "eval.samples"
    longest = 4  # eval.max_new_tokens
    assert all(one.num_tokens == longest or one.stopped for found in samples for one in found)


def test_the_adapter_knows_its_base(undisturbed: tuple[Path, Path, list[Event]]) -> None:
    _, run, seen = undisturbed
    facts = json.loads((run / "adapter" / "sapwood.json").read_text())
    last = [event for event in seen if isinstance(event, Evaluated)][-1]
    assert facts["final_loss"] == last.loss
    assert facts["proof"]["rows"] == 12
    assert "q_proj" in facts["lora"]["targets"]


def test_the_config_of_a_run_repeats_it(undisturbed: tuple[Path, Path, list[Event]]) -> None:
    from sapwood import load_config

    _, run, _ = undisturbed
    again = finetune(load_config(run / "config.yaml"))
    assert again.path.parent != run
    assert adapter_hashes(again.path.parent) == adapter_hashes(run)


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_killed_after_any_step_and_resumed_it_is_the_same_adapter(
    step: int, undisturbed: tuple[Path, Path, list[Event]], tmp_path: Path
) -> None:
    folder, run, seen = undisturbed
    config = make_config(folder, runs=tmp_path, threads=2)
    assert exit_code(train_and_kill, config.model_dump(mode="json"), step) == -signal.SIGKILL
    (crashed,) = list_runs(tmp_path)
    assert crashed.status == "crashed"
    events: list[Event] = []
    adapter = resume(crashed.path, events.append)
    assert adapter_hashes(adapter.path.parent) == adapter_hashes(run)
    lost = next(event.step for event in events if isinstance(event, Stepped)) if step < STEPS else STEPS
    assert lost > step - 2, "at most one save interval is computed again"
    told, _ = read_events(crashed.path)
    assert [e["step"] for e in told if e["kind"] == "stepped"] == list(range(1, STEPS + 1))
    assert [e["data"]["loss"] for e in told if e["kind"] == "evaluated"] == [
        event.loss for event in seen if isinstance(event, Evaluated)
    ]


def test_a_signal_stops_at_the_step_and_loses_nothing(
    undisturbed: tuple[Path, Path, list[Event]], tmp_path: Path
) -> None:
    folder, run, _ = undisturbed
    config = make_config(folder, runs=tmp_path, threads=2)

    def interrupt(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped) as stopped:
        finetune(config, interrupt)
    assert stopped.value.exit_code == 75
    path = find_run(tmp_path, "last")
    assert f"sapwood resume {path}" in str(stopped.value)
    assert list_runs(tmp_path)[0].status == "stopped"
    events: list[Event] = []
    resume(path, events.append)
    assert next(event.step for event in events if isinstance(event, Stepped)) == 4
    assert adapter_hashes(path) == adapter_hashes(run)


def test_resuming_a_finished_run_changes_nothing(undisturbed: tuple[Path, Path, list[Event]]) -> None:
    _, run, _ = undisturbed
    before = adapter_hashes(run)
    events: list[Event] = []
    assert resume(run, events.append).final_loss is not None
    assert events == []
    assert adapter_hashes(run) == before


def test_the_source_may_vanish_once_the_run_began(tmp_path: Path) -> None:
    config = make_config(tmp_path)

    def stop(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        finetune(config, stop)
    (tmp_path / "rows.jsonl").unlink()
    assert resume(find_run(tmp_path / "runs", "last")).path.is_dir()


def test_resume_refuses_what_is_no_longer_the_same(tmp_path: Path) -> None:
    config = make_config(tmp_path)

    def stop(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        finetune(config, stop)
    tiny_llama(tmp_path, seed=9)
    with pytest.raises(StorageError, match="base_fingerprint changed"):
        resume(find_run(tmp_path / "runs", "last"))


def test_a_bad_row_costs_no_run(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"instruction": "What now?", "output": ""}\n')
    with pytest.raises(DataError, match=r"rows.jsonl:15"):
        finetune(config)
    assert not (tmp_path / "runs").exists()


def test_a_gpu_that_is_asked_for_and_not_there_is_no_silent_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = make_config(tmp_path)
    base = config.base.model_copy(update={"device_map": "balanced"})
    with pytest.raises(ConfigError, match="no GPU here"):
        finetune(config.model_copy(update={"base": base}))


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    def fail(event: Event) -> None:
        raise RuntimeError("the watcher tripped")

    with pytest.raises(RuntimeError):
        finetune(make_config(tmp_path), fail)
    (failed,) = list_runs(tmp_path / "runs")
    assert failed.status == "failed"
    assert "tripped" in (failed.path / "status.json").read_text()


@pytest.mark.parametrize("storage", ["gguf", "nf4", "int8"])
def test_a_run_over_packed_weights_resumes_to_the_same_adapter_and_answers(
    storage: str, tmp_path: Path
) -> None:
    config = make_config(tmp_path)
    model, _ = tiny_gguf("llama", tmp_path / "tiny.gguf", kind="Q8_0")
    base = BaseConfig.model_validate({"model": str(model), "storage": storage})
    config = config.model_copy(update={"base": base})
    whole = finetune(config)

    def stop(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 3:
            raise RuntimeError("pulled the plug")

    with pytest.raises(RuntimeError):
        finetune(config, stop)
    again = resume(find_run(tmp_path / "runs", "last"))
    assert adapter_hashes(again.path.parent) == adapter_hashes(whole.path.parent)
    loaded = open_target(str(again.path), tmp_path / "runs")
    assert loaded.base.storage == storage
    answers = answer_batch(loaded.network, loaded.tokenizer, [[5, 6, 7]], (), Settings(max_new_tokens=3))
    assert len(answers[0].ids) == 3
