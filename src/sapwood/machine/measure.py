"""What this machine can do, by measuring it: the faster number formats, threads, memory used, memory there
is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sapwood.errors import ConfigError
from sapwood.machine.system import kernel_file, limits, peak_resident

if TYPE_CHECKING:
    import torch

FASTER = 1.1  # what must be won by the less plain of two ways: less is within the noise of a busy machine
NEAR = 0.85  # bf16 holds a base in half the memory of fp32, and is taken unless it is slower than this
ROWS, IN, OUT = 512, 576, 1536  # a pack of tokens through one projection of a small model
SECONDS = 0.15  # measured per format, after one product of each shape to warm up
MIN_PRODUCTS = 6
CGROUP = Path("/sys/fs/cgroup")
FORMATS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def torch_dtype(name: str) -> torch.dtype:
    import torch

    return getattr(torch, FORMATS[name])


@cache
def product_rates(storage: str) -> dict[str, float]:
    """GFLOP/s with weights held in ``storage``, by the format that products are computed in: its own, or
    fp32 into which each weight is converted. A CPU may hold bf16 well and multiply fp32 twice as fast."""
    if storage in ("fp32", "bf16"):  # these are compared with each other
        ways = (("fp32", "fp32"), ("bf16", "bf16"), ("bf16", "fp32"))
        return {way[1]: rate for way, rate in zip(ways, _rates(ways), strict=True) if way[0] == storage}
    ways = ((storage, storage), (storage, "fp32"))
    return {way[1]: rate for way, rate in zip(ways, _rates(ways), strict=True)}


def fastest_products(storage: str) -> str:
    """The format to multiply in where weights are held in ``storage``."""
    import torch

    if torch.cuda.is_available():
        return storage
    rates = product_rates(storage)
    return "fp32" if rates["fp32"] >= FASTER * rates[storage] else storage


@cache
def fastest_threads(storage: str, products: str) -> int:
    """All threads that torch would use, or half of them where the others don't help."""
    import torch

    every = torch.get_num_threads()
    if every == 1 or torch.cuda.is_available():
        return every
    try:
        torch.set_num_threads(every // 2)
        half = _gflops(storage, products)
    finally:
        torch.set_num_threads(every)
    return every if product_rates(storage)[products] >= FASTER * half else every // 2


@cache
def fastest_dtype() -> tuple[torch.dtype, dict[str, Any]]:
    """What to hold a base in, fp32 or bf16; and the facts to record.

    On a CPU the forward product (x W^T) and the backward one (g W) of one projection are timed in each
    format, and with half of the threads, for about half a second in all; on CUDA bf16 is taken where the
    device has it. Measured once a process.
    """
    import torch

    if torch.cuda.is_available():
        name = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        return torch_dtype(name), {"device": torch.cuda.get_device_name(), "dtype": name}
    rates = {storage: product_rates(storage) for storage in ("fp32", "bf16")}
    products = fastest_products("bf16")
    name = "bf16" if rates["bf16"][products] >= NEAR * rates["fp32"]["fp32"] else "fp32"
    products = products if name == "bf16" else "fp32"
    return torch_dtype(name), {
        "device": "cpu",
        "dtype": name,
        "products": products,
        "gflops": {storage: round(max(found.values()), 1) for storage, found in rates.items()},
        "bf16_gflops": {way: round(rate, 1) for way, rate in rates["bf16"].items()},
        "threads": fastest_threads(name, products),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def set_threads(number: int) -> None:
    import torch

    if number != torch.get_num_threads():
        torch.set_num_threads(number)


def kernel_facts() -> dict[str, Any]:
    """What a result's bits depend on besides the versions: device, kernel set, threads, and whether there are
    compiled kernels: dropout draws other masks without them."""
    import torch

    from sapwood.native.build import why_not

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    capability = torch.backends.cpu.get_cpu_capability()
    threads = torch.get_num_threads()
    return {"device": device, "capability": capability, "threads": threads, "compiled": why_not() is None}


def _gflops(storage: str, products: str) -> float:
    """With the threads of now: not the rate that is remembered."""
    return _rates.__wrapped__(((storage, products),))[0]


@cache
def _rates(ways: tuple[tuple[str, str], ...]) -> list[float]:
    """GFLOP/s of alternating forward and backward products for each (storage, format of products)."""
    import torch

    from sapwood.native.workspace import converted

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, IN, generator=generator)
    g = torch.randn(ROWS, OUT, generator=generator)
    weight = torch.randn(OUT, IN, generator=generator)

    def pair(storage: str, products: str) -> Callable[[], object]:
        held, wide = torch_dtype(storage), torch_dtype(products)
        a, b, w = x.to(wide), g.to(wide), weight.to(held)  # activations stay in the format of products
        return lambda: [a @ converted(w, wide).t(), b @ converted(w, wide)]

    with torch.no_grad():
        return [
            2 * 2 * ROWS * IN * OUT / seconds / 1e9 for seconds in best_seconds(*(pair(*way) for way in ways))
        ]


def best_seconds(*products: Callable[[], object]) -> list[float]:
    """Shortest seconds of each. They take turns, so that load from others meets all of them alike; and load
    only adds."""
    for product in products:
        product()  # the first call picks and prepares a kernel
    times: list[list[float]] = [[] for _ in products]
    until = time.perf_counter() + SECONDS * len(products)
    while len(times[0]) < MIN_PRODUCTS or (time.perf_counter() < until and len(times[0]) < 50):
        for product, own in zip(products, times, strict=True):
            start = time.perf_counter()
            product()
            own.append(time.perf_counter() - start)
    return [min(own) for own in times]


def peak_bytes() -> int:
    """Most memory that this process held at once: on the device where CUDA is in use, else in RAM."""
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available() and torch.cuda.is_initialized():
            return torch.cuda.max_memory_allocated()
    return peak_resident()


def own_device(number: int = 0) -> str:
    """Where a process computes unless it is told otherwise: on the GPU of that number, or on the CPU where
    there is none."""
    import torch

    return f"cuda:{number}" if torch.cuda.is_available() else "cpu"


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


def memory_at(device: str) -> tuple[int, int]:
    """(what this process holds, what it can have besides) on that device, in bytes."""
    if device == "cpu":
        return resident_bytes(), available_memory()
    import torch

    return torch.cuda.memory_allocated(device), torch.cuda.mem_get_info(device)[0]


def total_memory() -> int:
    """RAM in bytes that this process may use: the machine's, or its container's limit where that is lower."""
    import psutil

    return min([psutil.virtual_memory().total, *_cgroup("memory.max", "memory/memory.limit_in_bytes")])


def available_memory() -> int:
    """RAM in bytes that can be had now without swapping, within the container's limit."""
    import psutil

    free = psutil.virtual_memory().available
    bounds = _cgroup("memory.max", "memory/memory.limit_in_bytes")
    used = _cgroup("memory.current", "memory/memory.usage_in_bytes")
    if bounds and used:
        free = min(free, max(0, bounds[0] - used[0] + _reclaimable()))
    address_space, _ = limits("AS")  # `ulimit -v`
    if address_space is not None:
        free = min(free, max(0, address_space - psutil.Process().memory_info().vms))
    return free


def _cgroup(*names: str) -> list[int]:
    """The first of these files under the control group's folder that holds a number (version 2, then 1)."""
    for name in names:
        text = "".join(kernel_file(CGROUP / name)).strip()
        if text.isdigit():
            return [int(text)]
    return []


def _reclaimable() -> int:
    """File cache that a control group counts as used and gives up when asked."""
    lines = kernel_file(CGROUP / "memory.stat")
    found = dict(line.split(" ", 1) for line in lines if " " in line)
    return int(found.get("inactive_file", 0)) + int(found.get("active_file", 0))
