from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from sapwood.errors import ConfigError
from sapwood.machine import measure as machine
from sapwood.train.processes.world import ALONE, World


def test_the_faster_format_follows_from_the_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    dtype, facts = machine.fastest_dtype.__wrapped__()
    rates = facts["gflops"]
    assert rates["fp32"] > 0
    assert set(facts["bf16_gflops"]) == {"bf16", "fp32"}
    assert facts["dtype"] == ("bf16" if dtype == torch.bfloat16 else "fp32")
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
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "product_rates", rates.__getitem__)
    _, facts = machine.fastest_dtype.__wrapped__()
    assert (facts["dtype"], facts["products"]) == (dtype, products)


@pytest.mark.parametrize(("half", "expected"), [(99.0, 4), (60.0, 8)], ids=["no help", "help"])
def test_threads_that_do_not_help_are_left_alone(
    half: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(machine, "product_rates", lambda _: {"bf16": 100.0})
    monkeypatch.setattr(machine, "_gflops", lambda *_: half)
    assert machine.fastest_threads.__wrapped__("bf16", "bf16") == expected
    assert asked == [4, 8], "threads are put back"


def test_measured_once_a_process() -> None:
    assert machine.fastest_dtype() is machine.fastest_dtype()


def test_peak_counts_what_was_touched() -> None:
    before = machine.peak_bytes()
    block = bytearray(before + (64 << 20))  # larger than all that this process ever held
    assert machine.peak_bytes() >= len(block)


def test_memory_figures_agree_with_the_system() -> None:
    assert 0 < machine.available_memory() <= machine.total_memory() <= psutil.virtual_memory().total


def test_a_control_group_lowers_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 500\nactive_file 100000\ninactive_file 200000\n")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert machine.total_memory() == 1_000_000
    assert machine.available_memory() == 400_000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.total_memory() == psutil.virtual_memory().total
    (tmp_path / "memory.stat").unlink()
    (tmp_path / "memory.max").write_text("1000000\n")
    assert machine.available_memory() == 100_000


def test_importing_loads_no_torch() -> None:
    check = "import sys, sapwood.machine.measure as m; m.peak_bytes(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


SPREAD = ("balanced", "balanced_low_0", "sequential")


def test_a_device_map_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.device_for("auto", "cpu") == machine.device_for("cpu", "cpu") == "cpu"
    for name in ("cuda", *SPREAD):
        with pytest.raises(ConfigError, match=f"no GPU here.*{name}.*no CUDA device.*auto takes the CPU"):
            machine.device_for(name, "cpu")


def test_each_process_has_its_gpu_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    assert World(3, 4, local_rank=1).device == ("cuda:1" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (ALONE.device, World(3, 4, local_rank=1).device) == ("cuda:0", "cuda:1")
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (40, 80))
    assert machine.memory_at(ALONE.device) == (3, 40)
    assert machine.memory_at("cpu")[0] > 100e6


def test_a_device_map_with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert machine.device_for("cpu", "cuda:0") == "cpu"
    assert {machine.device_for(name, "cuda:0") for name in ("auto", "cuda", *SPREAD)} == {"cuda:0"}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert machine.device_for("cuda", "cuda:1") == "cuda:1"
    with pytest.raises(ConfigError, match=r"one process uses one GPU.*torchrun"):
        machine.device_for("balanced", "cuda:0")
