from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest
import torch

from sapwood.base import load as load_module
from sapwood.base.inspect import skeleton
from sapwood.compute.backend import Backend
from sapwood.config.file import parse_config
from sapwood.errors import ConfigError
from sapwood.machine import device as device_module
from sapwood.machine import measure, memory
from sapwood.machine import remembered as remembered_module
from sapwood.machine.device import CPU, Device, device_for
from sapwood.machine.load import LoadMeter
from sapwood.machine.measure import kernel_facts, machine_facts
from sapwood.plan.choose import choose_plan, settled
from sapwood.plan.memory import workload
from sapwood.prepare.study import study_config
from sapwood.train.processes import follow
from sapwood.train.processes.world import ALONE, World
from tests.base.tiny import tiny_llama
from tests.compute.test_linear import groups
from tests.machine.pretended import Card, plug_in

FREE = 40 * 10**9  # bytes of the pretended GPU


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with one, as far as torch is asked about it."""
    plug_in(monkeypatch, Card(total=2 * FREE, free=FREE, allocated=3, reserved=3))
    monkeypatch.setattr(device_module, "prove", lambda *_: None)  # nothing can be computed there


def test_the_faster_format_follows_from_the_rates() -> None:
    facts = measure.machine_facts.__wrapped__(CPU)
    rates = facts["gflops"]
    assert rates["fp32"] > 0
    assert set(facts["bf16_gflops"]) == {"bf16", "fp32"}
    assert facts["dtype"] in {"fp32", "bf16"}
    assert facts["products"] in {"fp32", facts["dtype"]}
    assert 1 <= facts["threads"] <= torch.get_num_threads()


@pytest.mark.parametrize(
    ("rates", "dtype", "products"),
    [
        ({"fp32": {"fp32": 100}, "bf16": {"bf16": 200, "fp32": 90}}, "bf16", "bf16"),
        ({"fp32": {"fp32": 100}, "bf16": {"bf16": 50, "fp32": 95}}, "bf16", "fp32"),
        ({"fp32": {"fp32": 100}, "bf16": {"bf16": 5, "fp32": 60}}, "fp32", "fp32"),
    ],
    ids=["bf16 is fast", "bf16 is held, fp32 multiplied", "conversions are slow"],
)
def test_choices_of_machines_that_are_not_here(
    rates: dict[str, dict[str, float]], dtype: str, products: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "product_rates", rates.__getitem__)
    facts = measure.machine_facts.__wrapped__(CPU)
    assert (facts["dtype"], facts["products"]) == (dtype, products)


@pytest.mark.parametrize(("half", "expected"), [(99.0, 4), (60.0, 8)], ids=["no help", "help"])
def test_threads_that_do_not_help_are_left_alone(
    half: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(measure, "product_rates", lambda _: {"bf16": 100.0})
    monkeypatch.setattr(measure, "_gflops", lambda *_: half)
    monkeypatch.setattr(measure, "remembered", dict)
    assert measure.fastest_threads.__wrapped__("bf16", "bf16") == expected
    assert asked == [4, 8], "threads are put back"


def test_measured_once_a_process() -> None:
    assert measure.machine_facts(CPU) is measure.machine_facts(CPU)


def test_peak_counts_what_was_touched() -> None:
    before = memory.peak_bytes()
    block = bytearray(before + (64 << 20))  # larger than all that this process ever held
    assert memory.peak_bytes() >= len(block)


def test_memory_figures_agree_with_the_system() -> None:
    assert 0 < memory.available_memory() <= memory.total_memory() <= psutil.virtual_memory().total


def test_a_control_group_lowers_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 500\nactive_file 100000\ninactive_file 200000\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.total_memory() == 1_000_000
    assert memory.available_memory() == 400_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.total_memory() == psutil.virtual_memory().total
    (tmp_path / "memory.stat").unlink()
    (tmp_path / "memory.max").write_text("1000000\n")
    assert memory.available_memory() == 100_000


def test_importing_loads_no_torch() -> None:
    check = "import sys, sapwood.machine.measure, sapwood.machine.device as d; d.CPU.peak_bytes()"
    check += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


SPREAD = ("balanced", "balanced_low_0", "sequential")


def test_a_device_map_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_for("auto") is device_for("cpu") is CPU
    for name in ("cuda", *SPREAD):
        with pytest.raises(ConfigError, match=f"no GPU here.*{name}.*no CUDA device.*auto takes the CPU"):
            device_for(name)


def test_each_process_has_its_gpu_where_there_are_some(gpu: None) -> None:
    assert (str(ALONE.device()), str(World(3, 4, local_rank=1).device())) == ("cuda:0", "cuda:1")
    assert World(3, 4, local_rank=1).device("cpu") is CPU
    assert ALONE.device().memory() == (3, FREE)
    assert CPU.memory()[0] > 100e6


def test_a_device_map_with_gpus(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_for("cpu") is CPU
    assert {device_for(name) for name in ("auto", "cuda", *SPREAD)} == {Device("cuda", 0)}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_for("cuda", 1) == Device("cuda", 1)
    with pytest.raises(ConfigError, match=r"one process uses one GPU.*torchrun"):
        device_for("balanced")


@pytest.mark.parametrize(("device_map", "on_gpu"), [("cpu", False), ("auto", True), ("cuda", True)])
def test_plan_packs_and_model_agree_on_a_machine_with_a_gpu(
    device_map: str, on_gpu: bool, gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The GPU is pretended: what is to be done there is done here, and noted."""
    asked, heaps = list[str](), list[bool]()
    monkeypatch.setattr(load_module, "use_heap", lambda: heaps.append(True))
    monkeypatch.setattr(follow, "move", lambda network, device: asked.append(str(device)))
    monkeypatch.setattr(Device, "heap", property(lambda device: device.is_cpu))
    monkeypatch.setattr(Device, "compiled", property(lambda device: device.is_cpu))
    folder = tiny_llama(tmp_path)
    rows = (f'{{"prompt": "{i}?", "completion": "Yes."}}\n' for i in range(9))
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    config = parse_config(
        {
            "base": {"model": str(folder), "storage": "fp32", "products": "stored", "device_map": device_map},
            "data": {"train": str(tmp_path / "rows.jsonl")},
            "train": {"threads": torch.get_num_threads()},
        }
    )
    study, device = study_config(config), ALONE.device(config.base.device_map)
    network = skeleton(study.spec)
    work = workload(study, config, network, device)
    choice = choose_plan(study, config, device)
    _, model = follow.build(study.spec, settled(config, choice, device), ALONE, device)
    assert device.is_cpu != on_gpu
    assert (choice.plan.available == 3 + FREE) == on_gpu, "of the memory there"
    assert heaps == ([] if on_gpu else [True]), "the plan counts a heap where one is enabled"
    assert work.pack.widest_scores == 0, "neither form's kernels keep scores"
    assert model.backend == Backend(device, native=not on_gpu, flex=on_gpu)
    assert asked == [str(device)] == [model.device]
    assert {group.compiled for group in groups(model)} == {not on_gpu}
    assert kernel_facts(device)["device"] == ("Pretended" if on_gpu else "cpu")
    assert machine_facts(device)["dtype"] in (("bf16",) if on_gpu else ("bf16", "fp32"))


def test_only_one_file_asks_whether_there_is_a_gpu() -> None:
    source = Path(measure.__file__).parents[1]
    asking = [path for path in source.rglob("*.py") if "cuda.is_available" in path.read_text("utf-8")]
    assert [path.relative_to(source).as_posix() for path in asking] == ["machine/device.py"]


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generator[list[str]]:
    """What is measured while a test runs; the cache is empty and the machine idle."""
    made: list[str] = []

    def measured(ways: tuple[tuple[str, str], ...]) -> list[float]:
        made.append(str(ways))
        return [100.0 + len(made) for _ in ways]

    monkeypatch.setenv("SAPWOOD_CACHE", str(tmp_path))
    monkeypatch.setattr(measure, "_measured", measured)
    monkeypatch.setattr(measure, "load_now", lambda: 0.0)
    monkeypatch.setattr(remembered_module, "load_now", lambda: 0.0)
    monkeypatch.setattr(LoadMeter, "share", lambda self: 0.0)
    forget()
    yield made
    forget()


def forget() -> None:
    """As a new process begins."""
    known = (measure.machine_facts, measure.fastest_threads, measure.product_rates, measure._rates)
    for one in (*known, remembered_module.remembered):
        one.cache_clear()


def test_what_was_measured_on_an_idle_machine_is_not_measured_again(
    measurements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measure.machine_facts(CPU)
    count = len(measurements)
    forget()
    assert measure.machine_facts(CPU) == first and len(measurements) == count > 0
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    forget()
    measure.machine_facts(CPU)
    assert len(measurements) == 2 * count, "under other settings it is another machine"


def test_a_busy_machine_is_measured_anew_and_not_remembered(
    measurements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = measure.machine_facts(CPU)
    with monkeypatch.context() as others:
        others.setattr(measure, "load_now", lambda: 0.5)
        others.setattr(remembered_module, "load_now", lambda: 0.5)
        others.setattr(LoadMeter, "share", lambda self: 0.5)
        forget()
        busy = measure.machine_facts(CPU)
    assert busy["load"] == 0.5 and busy["gflops"] != idle["gflops"]
    forget()
    assert measure.machine_facts(CPU) == idle, "what was measured before is remembered"


def test_a_cache_that_cannot_be_read_or_written_is_no_error(
    measurements: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure.machine_facts(CPU)
    (file,) = (tmp_path / "measured").iterdir()
    file.write_text("{")
    forget()
    assert measure.machine_facts(CPU)["threads"] >= 1
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("SAPWOOD_CACHE", str(tmp_path / "taken"))
    forget()
    assert measure.machine_facts(CPU)["threads"] >= 1
