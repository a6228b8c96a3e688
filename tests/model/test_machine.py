from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from sapwood.errors import ConfigError
from sapwood.model import machine


def test_the_faster_format_follows_from_the_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    dtype, facts = machine.fastest_dtype.__wrapped__()
    rates = facts["gflops"]
    assert rates["fp32"] > 0
    assert rates["bf16"] > 0
    assert (dtype == torch.bfloat16) == (rates["bf16"] >= machine.FASTER * rates["fp32"])
    assert facts["dtype"] == ("bf16" if dtype == torch.bfloat16 else "fp32")
    assert facts["threads"] == torch.get_num_threads()


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
    check = (
        "import sys, sapwood.model.machine as m; assert m.peak_bytes() > 0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


SPREAD = ("balanced", "balanced_low_0", "sequential")


def test_a_device_map_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.device_for("auto", "cpu") == machine.device_for("cpu", "cpu") == "cpu"
    for name in ("cuda", *SPREAD):
        with pytest.raises(ConfigError, match=f"no GPU here.*{name}.*no CUDA device.*auto takes the CPU"):
            machine.device_for(name, "cpu")


def test_a_device_map_with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert machine.device_for("cpu", "cuda:0") == "cpu"
    assert {machine.device_for(name, "cuda:0") for name in ("auto", "cuda", *SPREAD)} == {"cuda:0"}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert machine.device_for("cuda", "cuda:1") == "cuda:1"
    with pytest.raises(ConfigError, match=r"one process uses one GPU.*torchrun"):
        machine.device_for("balanced", "cuda:0")
