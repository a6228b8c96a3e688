"""What this machine can do, by measuring it: the faster number format, memory used, memory there is."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sapwood.errors import ConfigError

if TYPE_CHECKING:
    import torch

FASTER = 1.15  # bf16 must win by this much: less is within the noise of a busy machine
ROWS, IN, OUT = 512, 576, 1536  # a pack of tokens through one projection of a small model
SECONDS = 0.18  # measured per format, after one product of each shape to warm up
MIN_PRODUCTS = 6
CGROUP = Path("/sys/fs/cgroup")


@cache
def fastest_dtype() -> tuple[torch.dtype, dict[str, Any]]:
    """bf16 where it is at least 1.15 times as fast as fp32 here, else fp32; and the facts to record.

    On a CPU the forward product (x W^T) and the backward one (g W) of one projection are timed in both
    formats, for less than half a second in all; on CUDA bf16 is taken where the device has it. Measured once
    a process.
    """
    import torch

    if torch.cuda.is_available():
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
        return dtype, {"device": torch.cuda.get_device_name(), "dtype": _name(dtype)}
    rates = {_name(dtype): _gflops(dtype) for dtype in (torch.float32, torch.bfloat16)}
    dtype = torch.bfloat16 if rates["bf16"] >= FASTER * rates["fp32"] else torch.float32
    return dtype, {
        "device": "cpu",
        "dtype": _name(dtype),
        "gflops": {name: round(rate, 1) for name, rate in rates.items()},
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def kernel_facts() -> dict[str, Any]:
    """What the last bits of a result depend on besides the versions: device, kernel set and threads."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    capability = torch.backends.cpu.get_cpu_capability()
    return {"device": device, "capability": capability, "threads": torch.get_num_threads()}


def _gflops(dtype: torch.dtype) -> float:
    """Rate of alternating forward and backward products, by their best times: load from others only adds."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, IN, generator=generator).to(dtype)
    g = torch.randn(ROWS, OUT, generator=generator).to(dtype)
    weight = torch.randn(OUT, IN, generator=generator).to(dtype)
    with torch.no_grad():
        seconds = _best(lambda: x @ weight.t()) + _best(lambda: g @ weight)
    return 2 * 2 * ROWS * IN * OUT / seconds / 1e9


def _best(product: Callable[[], Any]) -> float:
    product()  # the first call picks and prepares a kernel
    times: list[float] = []
    until = time.perf_counter() + SECONDS / 2
    while len(times) < MIN_PRODUCTS or (time.perf_counter() < until and len(times) < 50):
        start = time.perf_counter()
        product()
        times.append(time.perf_counter() - start)
    return min(times)


def _name(dtype: torch.dtype) -> str:
    return {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16"}[str(dtype)]


def peak_bytes() -> int:
    """Most memory that this process held at once: on the device where CUDA is in use, else in RAM."""
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available() and torch.cuda.is_initialized():
            return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB


def device_for(device_map: str, usual: str) -> str:
    """The device that ``base.device_map`` means here, ``cpu`` or ``cuda:0``; ``usual``: this process's own.

    The names that spread a model over several GPUs mean the one GPU where there is one. Raises ConfigError
    where there is none, or several: those are used by several processes.
    """
    import torch

    if device_map in ("auto", "cpu"):
        return usual if device_map == "auto" else "cpu"
    where = f"base.device_map={device_map}"
    if not torch.cuda.is_available():
        why = "this torch sees no CUDA device"
        raise ConfigError("there is no GPU here", where, why, "base.device_map=auto takes the CPU, or cpu")
    if device_map != "cuda" and torch.cuda.device_count() > 1 and usual.endswith(":0"):
        mend = "torchrun --nproc-per-node=GPUS, with train.shard=base to divide the base among them"
        raise ConfigError("one process uses one GPU", where, "layers are not spread by hand", mend)
    return usual if usual.startswith("cuda") else "cuda:0"


def resident_bytes() -> int:
    """RAM in bytes that this process holds now."""
    import psutil

    return psutil.Process().memory_info().rss


def total_memory() -> int:
    """RAM in bytes that this process may use: the machine's, or its container's limit where that is lower."""
    import psutil

    return min([psutil.virtual_memory().total, *_cgroup("memory.max", "memory/memory.limit_in_bytes")])


def available_memory() -> int:
    """RAM in bytes that can be had now without swapping, within the container's limit."""
    import psutil

    free = psutil.virtual_memory().available
    limits = _cgroup("memory.max", "memory/memory.limit_in_bytes")
    used = _cgroup("memory.current", "memory/memory.usage_in_bytes")
    if limits and used:
        free = min(free, max(0, limits[0] - used[0] + _reclaimable()))
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space not in (resource.RLIM_INFINITY, -1):  # `ulimit -v`
        free = min(free, max(0, address_space - psutil.Process().memory_info().vms))
    return free


def _cgroup(*names: str) -> list[int]:
    """The first of these files under the control group's folder that holds a number (version 2, then 1)."""
    for name in names:
        try:
            text = (CGROUP / name).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        if text.isdigit():
            return [int(text)]
    return []


def _reclaimable() -> int:
    """File cache that a control group counts as used and gives up when asked."""
    try:
        lines = (CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return 0
    found = dict(line.split(" ", 1) for line in lines if " " in line)
    return int(found.get("inactive_file", 0)) + int(found.get("active_file", 0))
