"""What this machine can do, by measuring it: the faster number formats, and threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from sapwood.machine.device import Device
from sapwood.machine.load import BUSY, MOMENT, LoadMeter, load_now
from sapwood.machine.remembered import remember, remembered
from sapwood.types import NUMBER_FORMATS

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
FASTER = 1.1  # what must be won by the less plain of two ways: less is within the noise of a busy machine
NEAR = 0.85  # bf16 holds a base in half the memory of fp32, and is taken unless it is slower than this
ROWS, IN, OUT = 512, 576, 1536  # a pack of tokens through one projection of a small model
SECONDS = 0.15  # measured per format, after one product of each shape to warm up
MIN_PRODUCTS = 6
HOPELESS = 3  # a way this many times slower than another on PROBE rows is measured no further
PROBE = 32  # rows: bf16 on a processor without it takes 0.35 s for ROWS of them, and is then asked once
FORMATS: Mapping[str, str] = {**NUMBER_FORMATS}


def torch_dtype(name: str) -> torch.dtype:
    import torch

    return getattr(torch, FORMATS[name])


def dtype_name(dtype: torch.dtype) -> str:
    """fp32, bf16 or fp16."""
    return next(name for name in FORMATS if torch_dtype(name) == dtype)


@cache
def product_rates(storage_dtype: str) -> dict[str, float]:
    """GFLOP/s of this processor with weights held in ``storage_dtype``, by the format that products are
    computed in: its own, or fp32 into which each weight is converted. A CPU may hold bf16 well and multiply
    fp32 twice as fast."""
    if storage_dtype in ("fp32", "bf16"):  # these are compared with each other
        ways = (("fp32", "fp32"), ("bf16", "bf16"), ("bf16", "fp32"))
    else:
        ways = ((storage_dtype, storage_dtype), (storage_dtype, "fp32"))
    return {way[1]: rate for way, rate in zip(ways, _rates(ways), strict=True) if way[0] == storage_dtype}


def fastest_matmul_dtype(storage_dtype: str, device: Device) -> str:
    """The format to multiply in where weights are held in ``storage_dtype``."""
    if not device.is_cpu:
        return storage_dtype
    rates = product_rates(storage_dtype)
    return "fp32" if rates["fp32"] >= FASTER * rates[storage_dtype] else storage_dtype


@cache
def fastest_threads(storage_dtype: str, matmul_dtype: str) -> int:
    """All threads that torch would use, or half of them where the others don't help."""
    import torch

    every = torch.get_num_threads()
    if every == 1:
        return every
    half = _once(
        f"{storage_dtype} {matmul_dtype} by half of {every} threads",
        lambda: rate_with_threads(storage_dtype, matmul_dtype, every // 2),
    )
    return every if product_rates(storage_dtype)[matmul_dtype] >= FASTER * half else every // 2


@cache
def machine_facts(device: Device) -> dict[str, Any]:
    """What a run records of its machine. ``dtype``: what to hold a base in there: fp32 or bf16, and on
    a GPU without bf16 fp16.

    On a CPU the forward product (x W^T) and the backward one (g W) of one projection are timed in each
    format, and with half of the threads, for about half a second in all; on CUDA it is what the device has.
    Measured once on a machine that is idle (`remembered`), and else once a process. ``load``: the share of
    the processors' time that others took meanwhile.
    """
    import torch

    if device.dense_dtype is not None:
        return {"device": device.name, "dtype": device.dense_dtype}
    meter = LoadMeter.start()
    most = torch.get_num_threads()
    rates = {storage_dtype: product_rates(storage_dtype) for storage_dtype in ("fp32", "bf16")}
    matmul_dtype = fastest_matmul_dtype("bf16", device)
    name = "bf16" if rates["bf16"][matmul_dtype] >= NEAR * rates["fp32"]["fp32"] else "fp32"
    matmul_dtype = matmul_dtype if name == "bf16" else "fp32"
    threads = fastest_threads(name, matmul_dtype)
    # where all was remembered, no time has passed in which others could be seen
    load = meter.share() if time.monotonic() - meter.at >= MOMENT else load_now()
    if load < BUSY:
        remember()
    return {
        "device": "cpu",
        "dtype": name,
        "products": matmul_dtype,
        "gflops": {dtype: round(max(found.values()), 1) for dtype, found in rates.items()},
        "bf16_gflops": {way: round(rate, 1) for way, rate in rates["bf16"].items()},
        "threads": threads,
        "most_threads": most,
        "load": round(load, 2),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def measured_busy(device: Device) -> bool:
    """Did others keep the machine busy when it was measured?"""
    return machine_facts(device).get("load", 0.0) >= BUSY


def measure_when_idle(device: Device) -> bool:
    """Measure anew, with all threads, if others kept the machine busy before and have gone; was it done?"""
    if not measured_busy(device) or load_now() >= BUSY:
        return False
    set_threads(machine_facts(device)["most_threads"])
    for known in (machine_facts, fastest_threads, product_rates, _rates, remembered):
        known.cache_clear()
    machine_facts(device)
    return True


def set_threads(number: int) -> None:
    import torch

    if number != torch.get_num_threads():
        torch.set_num_threads(number)


@contextmanager
def one_thread() -> Generator[None]:
    """For small products: threads that wait for each other cost more than they win."""
    import torch

    before = torch.get_num_threads()
    set_threads(1)
    try:
        yield
    finally:
        set_threads(before)


def kernel_facts(device: Device) -> dict[str, Any]:
    """What a result's last bits depend on besides the versions: device, kernel set, threads, and whether the
    kernels are compiled ones."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    threads = torch.get_num_threads()
    return {
        "device": device.name,
        "capability": capability,
        "threads": threads,
        "compiled": device.compiled,
    }


def rate_with_threads(storage_dtype: str, matmul_dtype: str, threads: int) -> float:
    """GFLOP/s with so many threads, whatever is set."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _gflops(storage_dtype, matmul_dtype)
    finally:
        torch.set_num_threads(before)


def _gflops(storage_dtype: str, matmul_dtype: str) -> float:
    """With the threads of now: not the rate that is remembered."""
    return _measured(((storage_dtype, matmul_dtype),))[0]


@cache
def _rates(ways: tuple[tuple[str, str], ...]) -> list[float]:
    return _once(", ".join(map(" by ".join, ways)), lambda: _measured(ways))


def _once(name: str, measure: Callable[[], T]) -> T:
    """What is remembered of it, or else is measured now."""
    known = remembered()
    if name not in known:
        known[name] = measure()
    return known[name]


def _measured(ways: tuple[tuple[str, str], ...]) -> list[float]:
    """GFLOP/s of alternating forward and backward products for each (storage_dtype, matmul_dtype)."""
    import torch

    from sapwood.native.workspace import converted

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, IN, generator=generator)
    g = torch.randn(ROWS, OUT, generator=generator)
    weight = torch.randn(OUT, IN, generator=generator)

    def pair(way: tuple[str, str], rows: int) -> Callable[[], object]:
        stored, wide = map(torch_dtype, way)
        a, b, w = x[:rows].to(wide), g[:rows].to(wide), weight.to(stored)
        return lambda: [a @ converted(w, wide).t(), b @ converted(w, wide)]

    def by_way(chosen: Sequence[tuple[str, str]], rows: int, seconds: float) -> dict[tuple[str, str], float]:
        times = best_seconds(*(pair(way, rows) for way in chosen), seconds=seconds)
        return {way: rows * 2 * 2 * IN * OUT / took / 1e9 for way, took in zip(chosen, times, strict=True)}

    with torch.no_grad():
        rates = by_way(ways, PROBE, 0.0)
        near = [way for way in ways if HOPELESS * rates[way] > max(rates.values())]
        rates |= by_way(near, ROWS, SECONDS)
    return [rates[way] for way in ways]


def best_seconds(*products: Callable[[], object], seconds: float = SECONDS) -> list[float]:
    """Shortest seconds of each, within about ``seconds`` for each. They take turns, so that load from others
    meets all of them alike; and load only adds."""
    for product in products:
        product()  # the first call picks and prepares a kernel
    times: list[list[float]] = [[] for _ in products]
    until = time.perf_counter() + seconds * len(products)
    while len(times[0]) < MIN_PRODUCTS or (time.perf_counter() < until and len(times[0]) < 50):
        for product, own in zip(products, times, strict=True):
            start = time.perf_counter()
            product()
            own.append(time.perf_counter() - start)
    return [min(own) for own in times]
