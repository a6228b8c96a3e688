"""A GPU that is full, wrong, one of two, or Windows'; a driver that is too old: each is said, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._inductor.runtime import cache_dir_utils

from sapwood import finetune, resume
from sapwood.commands.data import checked
from sapwood.compute.attention import seam, varlen
from sapwood.config.file import parse_config
from sapwood.errors import ConfigError, ModelError, OutOfMemoryError, Stopped
from sapwood.machine import device as device_module
from sapwood.machine import remembered, selftest
from sapwood.machine.device import CONTEXT, CPU, Device, device_for, told, why_no_gpu
from sapwood.plan.advice import with_advice
from sapwood.prepare.study import study_config
from sapwood.run.query import find_run, list_runs
from sapwood.types import Evaluated, Stepped, Stop
from tests.compute.slow import attention_by_lengths
from tests.machine.pretended import Card, plug_in
from tests.test_pipeline import make_config

GPU = Device("cuda")


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the self-test sends to the GPU is computed on the CPU."""
    honest = selftest.results
    monkeypatch.setattr(selftest, "results", lambda operation, place, dtype: honest(operation, "cpu", dtype))
    selftest.prove.cache_clear()


def test_a_gpu_that_computes_as_the_cpu_does_is_taken(monkeypatch: pytest.MonkeyPatch, on_cpu: None) -> None:
    plug_in(monkeypatch, Card())
    assert device_for("auto") == GPU


@pytest.mark.parametrize("operation", selftest.OPERATIONS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("dtype", selftest.NEAR)
def test_each_operation_that_is_wrong_there_is_found(
    operation: selftest.Operation, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One gradient of one operation in one format, by a tenth."""
    honest = selftest.results

    def wrong(one: selftest.Operation, place: str, format: str) -> list[torch.Tensor]:
        found = honest(one, "cpu", format)
        if (one, format) == (operation, dtype) and place != "cpu":
            found[-1] = found[-1] * 1.1
        return found

    monkeypatch.setattr(selftest, "results", wrong)
    selftest.prove.cache_clear()
    plug_in(monkeypatch, Card(bf16=dtype != "float16"))
    with pytest.raises(ModelError, match=rf"wrong numbers.*{operation.__name__} in {dtype}: 0.1 apart"):
        device_for("auto")


def test_a_device_without_an_operation_is_refused_by_its_name() -> None:
    found = selftest.faults("meta", ("float32",))  # a device that computes nothing
    assert [text.split(" ")[0] for text in found] == [one.__name__ for one in selftest.OPERATIONS]


def test_a_gpu_that_another_process_fills_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> list[torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(selftest, "results", full)
    selftest.prove.cache_clear()
    plug_in(monkeypatch, Card(free=0))
    with pytest.raises(ModelError, match=r"the GPU is full.*beside other processes.*nvidia-smi"):
        device_for("cuda")


def test_what_others_hold_is_counted_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, Card(total=8 * 10**9, free=4 * 10**9, reserved=10**9, allocated=6 * 10**8))
    assert GPU.memory() == (6 * 10**8, 4 * 10**9 + 4 * 10**8), "what torch reserved is ours to use"
    assert GPU.others() == 3 * 10**9 - CONTEXT
    assert told(GPU)[:-1] == ["other processes hold 2.5 of cuda:0's 8.0 GB"]
    plug_in(monkeypatch, Card(total=8 * 10**9, free=8 * 10**9 - CONTEXT))
    assert told(GPU)[:-1] == []


def test_one_of_two_gpus_is_used_and_said(monkeypatch: pytest.MonkeyPatch, on_cpu: None) -> None:
    plug_in(monkeypatch, Card(count=2, free=8 << 30))
    assert device_for("auto") == GPU
    assert told(GPU)[:-1] == ["2 GPUs are here, and this process uses cuda:0"]


def test_a_gpu_that_others_fill_in_the_middle_is_said_with_what_would_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tree = make_config(tmp_path, tmp_path / "runs").model_dump(mode="json")
    tree["base"] |= {"storage": "bf16"}
    tree["train"] |= {"gradient_checkpointing": 0}
    config = parse_config(tree)
    study = study_config(config)
    run: Any = None  # asked for its checkpoints only
    plug_in(monkeypatch, Card(free=6 << 30))
    with pytest.raises(OutOfMemoryError) as caught, with_advice(run, study, config, GPU):
        plug_in(monkeypatch, Card(free=1 << 30))
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    (problem,) = caught.value.problems
    assert (problem.why or "").startswith("other processes took 5.4 GB of cuda:0 meanwhile; CUDA error")
    assert (problem.mend or "").startswith("cheapest first: ")
    assert (problem.mend or "").count("(about ") == 3


def test_the_first_passs_time_is_said_beforehand_and_its_kernels_are_kept(
    monkeypatch: pytest.MonkeyPatch, on_cpu: None, tmp_path: Path
) -> None:
    plug_in(monkeypatch, Card(free=8 << 30))
    monkeypatch.setattr(remembered, "cache_dir", lambda: tmp_path)
    for variable in (*remembered.FOLDERS, remembered.TUNED):  # put back behind the test
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    device_for("cuda")
    place = tmp_path / "kernels" / f"Pretended-torch-{torch.__version__.replace('+', '-')}"
    assert cache_dir_utils.cache_dir() == str(place / "inductor")
    assert cache_dir_utils.triton_cache_dir(0) == str(place / "triton")
    assert told(GPU) == [
        f"the first pass compiles kernels for Pretended, maybe for minutes, and keeps them in {place}"
    ]
    remembered.first_pass_took(GPU.name, 61.2)
    assert told(GPU) == ["the first pass took 61 s in the last run on Pretended; its kernels are kept"]
    plug_in(monkeypatch, Card(free=8 << 30, name="Another"))
    monkeypatch.setattr(remembered, "cache_dir", lambda: tmp_path)
    assert "compiles kernels for Another" in told(GPU)[-1]
    monkeypatch.setenv("TRITON_CACHE_DIR", "mine")
    device_for("cuda")
    assert cache_dir_utils.triton_cache_dir(0) == "mine", "what the environment says stays"


@pytest.mark.parametrize("wsl", [False, True])
def test_a_driver_that_is_too_old_is_said_and_not_passed_over(
    wsl: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).")

    here(monkeypatch, tmp_path, wsl=wsl)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", init)
    place = "the driver is Windows'" if wsl else "update NVIDIA's driver"
    assert device_for("auto") is CPU
    (note,) = told(CPU)
    assert place in note
    assert "too old (found version 11040)" in note
    with pytest.raises(ConfigError, match=r"no GPU here.*too old"):
        device_for("cuda")


def here(monkeypatch: pytest.MonkeyPatch, folder: Path, *, wsl: bool = False) -> None:
    """A driver is installed, and torch can't use it."""
    driver = folder / "driver"
    driver.touch()
    monkeypatch.setattr(device_module, "DRIVERS", (driver,))
    monkeypatch.setattr(device_module, "WSL", driver if wsl else folder / "none")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_torch_for_the_cpu_beside_a_gpu_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here(monkeypatch, tmp_path)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "this torch is built for the CPU" in str(why_no_gpu())


def test_apples_gpu_is_not_used_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device_for("auto") is CPU
    assert told(CPU) == ["Apple's GPU isn't used: sapwood has not been proved there"]


def test_where_there_is_no_gpu_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device_module, "DRIVERS", ())
    assert told(CPU) == []


# --- a run on a card, computed here -----------------------------------------------------------------------


def losses(
    folder: Path, runs: Path, *, share: bool = True, **base: Any
) -> tuple[list[float], dict[str, Any]]:
    """Of a run of six steps: every loss, and the facts that it recorded. share: do rows share beginnings?"""
    tree = make_config(folder, runs).model_dump(mode="json")
    tree["base"] |= base
    tree["pack"] |= {"share_prefixes": share}
    events: list[Any] = []
    finetune(parse_config(tree), events.append)
    (run,) = list_runs(runs)
    facts = json.loads((run.path / "run.json").read_text())["facts"]
    return [event.loss for event in events if isinstance(event, Stepped | Evaluated)], facts


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_run_takes_a_cards_way_from_its_config_to_its_adapter(
    dtype: str, monkeypatch: pytest.MonkeyPatch, on_cpu: None, tmp_path: Path
) -> None:
    """All that a run decides by its device is decided for the card: format, forms, memory. Its tensors lie on
    the CPU, and attention is the reference's, since FlexAttention has no gradient there. So the losses are
    the bits of a run on the CPU by the references in the card's format."""
    monkeypatch.setattr(Device, "compiled", False)
    expected, _ = losses(tmp_path, tmp_path / "here", storage=dtype, products="stored", device_map="cpu")
    plug_in(monkeypatch, Card(free=3 << 30, bf16=dtype == "bf16"))
    monkeypatch.setattr(Device, "__str__", lambda device: "cpu")
    monkeypatch.setattr(seam, "refusal", lambda query, value: "no gradient on a CPU")
    monkeypatch.setattr(remembered, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(device_module, "keep_kernels", lambda _: None)
    found, facts = losses(tmp_path, tmp_path / "there", storage="auto", device_map="auto")
    assert found == expected
    assert facts["machine"] == {"device": "Pretended", "dtype": dtype}
    assert facts["memory"]["available"] == 3 << 30
    assert facts["memory"]["storage"] == dtype
    assert remembered.first_pass("Pretended") is not None


def test_a_start_and_a_resume_say_what_the_card_lacks_and_how_long_its_first_pass_takes(
    monkeypatch: pytest.MonkeyPatch, on_cpu: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plug_in(monkeypatch, Card(free=3 << 30, bf16=False, triton=False))
    monkeypatch.setattr(Device, "__str__", lambda device: "cpu")
    monkeypatch.setattr(remembered, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(device_module, "keep_kernels", lambda _: None)
    tree = make_config(tmp_path, tmp_path / "runs").model_dump(mode="json")
    tree["base"] |= {"device_map": "cuda"}
    lacks = ("the card has no bf16", "FlexAttention isn't used (Triton isn't installed)")
    with pytest.raises(Stopped):
        finetune(parse_config(tree), lambda event: Stop() if isinstance(event, Stepped) else None)
    assert all(words in caplog.text for words in (*lacks, "the first pass compiles kernels for Pretended"))
    caplog.clear()
    resume(find_run(tmp_path / "runs", "last"))
    assert all(words in caplog.text for words in (*lacks, "the first pass took"))
    found = checked(parse_config(tree)).device
    assert all(any(words in said for said in found) for words in (*lacks, "the first pass took")), found


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_rows_that_share_no_beginning_go_by_their_lengths_on_a_card(
    dtype: str, monkeypatch: pytest.MonkeyPatch, on_cpu: None, tmp_path: Path
) -> None:
    """What torch's kernel computes is computed by its definition. Losses are the reference's within the
    format's rounding."""
    monkeypatch.setattr(Device, "compiled", False)
    expected, _ = losses(tmp_path, tmp_path / "here", share=False, storage=dtype, products="stored")
    calls: list[tuple[int, ...]] = []

    def kernel(query: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        calls.append(tuple(query.shape))
        return attention_by_lengths(query, *given, **named)

    monkeypatch.setattr(varlen, "_kernel", lambda: kernel)
    varlen.why_not.cache_clear()
    plug_in(monkeypatch, Card(free=3 << 30, bf16=dtype == "bf16"))
    monkeypatch.setattr(Device, "__str__", lambda device: "cpu")
    monkeypatch.setattr(seam, "flex_attention", lambda *_, **__: pytest.fail("taken"))
    found, _ = losses(tmp_path, tmp_path / "there", share=False, storage="auto", device_map="auto")
    varlen.why_not.cache_clear()
    assert len(calls) > len(varlen.TRIED_RULES), "not only the trial"
    assert found == pytest.approx(expected, rel=2e-2 if dtype == "bf16" else 2e-3)
