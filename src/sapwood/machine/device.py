"""Where a process computes: found once, at the start of a run, and passed to all that depends on it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sapwood.errors import ConfigError, first_line
from sapwood.machine import memory
from sapwood.machine.remembered import first_pass, keep_kernels, kernels_of
from sapwood.machine.selftest import prove
from sapwood.machine.system import DRIVERS, WSL
from sapwood.native.build import why_not
from sapwood.native.heap import why_no_heap

CONTEXT = 500_000_000  # bytes of a GPU that CUDA itself takes for each process, beside torch's tensors
WORTH_SAYING = 0.05  # share of a GPU that others hold


@dataclass(frozen=True, slots=True)
class Device:
    """The processor, or one of its GPUs. As a text it is torch's name of it: ``cpu``, ``cuda:0``."""

    kind: Literal["cpu", "cuda"] = "cpu"
    index: int = 0

    def __str__(self) -> str:
        return "cpu" if self.is_cpu else f"cuda:{self.index}"

    @property
    def is_cpu(self) -> bool:
        return self.kind == "cpu"

    @property
    def compiled(self) -> bool:
        """Are there kernels of our own for it? They are compiled where this is asked first."""
        return self.is_cpu and why_not() is None

    @property
    def heap(self) -> bool:
        """Do large tensors lie in a heap of our own there (`native.heap`)?"""
        return self.is_cpu and why_no_heap() is None

    @property
    def name(self) -> str:
        import torch

        return "cpu" if self.is_cpu else torch.cuda.get_device_name(self.index)

    @property
    def dense_dtype(self) -> str | None:
        """The number format that a GPU holds a base in, and multiplies in: bf16, or fp16 on one without units
        for that (compute capability below 8.0). A CPU's is measured."""
        import torch

        if self.is_cpu:
            return None
        with torch.cuda.device(self.index):
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"

    def memory(self) -> tuple[int, int]:
        """(what this process holds there, what it can have besides), in bytes. What others hold on a GPU is
        no longer free there; what torch reserved and doesn't use is."""
        if self.is_cpu:
            return memory.resident_bytes(), memory.available_memory()
        import torch

        held, free = torch.cuda.memory_allocated(self.index), torch.cuda.mem_get_info(self.index)[0]
        return held, free + torch.cuda.memory_reserved(self.index) - held

    def ram(self) -> int:
        """Bytes of RAM that can be had besides: on a CPU they are the memory itself."""
        return memory.available_memory()

    def others(self) -> int:
        """Bytes of a GPU that other processes hold: a desktop, a browser, another run. 0 on a CPU, where
        nobody's memory is his alone."""
        if self.is_cpu:
            return 0
        import torch

        free, total = torch.cuda.mem_get_info(self.index)
        return max(0, total - free - torch.cuda.memory_reserved(self.index) - CONTEXT)

    def peak_bytes(self) -> int:
        """Most memory that this process held there at once."""
        if self.is_cpu:
            return memory.peak_bytes()
        import torch

        return torch.cuda.max_memory_allocated(self.index)


CPU = Device()


def maybe_gpu() -> bool:
    """Is there a GPU that torch sees? Where there can't be one, torch isn't imported to say so."""
    if sys.platform == "darwin" or (sys.platform == "linux" and not Path("/dev/nvidiactl").exists()):
        return False
    import torch

    return torch.cuda.is_available()


def device_for(device_map: str, number: int = 0) -> Device:
    """What ``base.device_map`` means here. number: of this process among those of its host; each has its own
    GPU.

    The names that spread a model over several GPUs mean the one GPU if there is one. Raises ConfigError
    if there is none, or several: those are used by several processes; ModelError if one computes
    something else than the CPU (`machine.selftest`).
    """
    import torch

    if device_map == "cpu":
        return CPU
    where = f"base.device_map={device_map}"
    if not torch.cuda.is_available():
        if device_map == "auto":
            return CPU
        why = why_no_gpu() or "this torch sees no CUDA device"
        raise ConfigError(
            "there is no GPU here",
            where,
            why,
            "base.device_map=auto takes the CPU; so does base.device_map=cpu",
        )
    if device_map not in ("auto", "cuda") and torch.cuda.device_count() > 1 and number == 0:
        mend = "torchrun --nproc-per-node=GPUS, with train.shard=base to divide the base among them"
        why = "sapwood doesn't spread the layers of a model over several GPUs"
        raise ConfigError("one process uses one GPU", where, why, mend)
    device = Device("cuda", number)
    keep_kernels(device.name)
    prove(str(device), ("float32", "bfloat16" if device.dense_dtype == "bf16" else "float16"))
    return device


def why_no_gpu() -> str | None:
    """Why a GPU that is in this machine isn't used: a torch without CUDA, or a driver that torch can't use.
    None if one is used, or if there is none."""
    import torch

    if torch.cuda.is_available():
        return None
    if torch.backends.mps.is_available():
        return "Apple's GPU isn't used: sapwood has not been proved there"
    here = next((path for path in DRIVERS if path.exists()), None)
    if here is None:
        return None
    if torch.version.cuda is None:
        return f"{here} is here, but this torch is built for the CPU: install the one with CUDA"
    where = "the driver is Windows': update it there" if here == WSL else "update NVIDIA's driver"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return f"{where}: {first_line(error)}"
    return f"{where}: torch finds no GPU through {here}"


def told(device: Device) -> list[str]:
    """What a person should know of the GPU that is used, or of the one that isn't."""
    if device.is_cpu:
        return [why] if (why := why_no_gpu()) is not None else []
    import torch

    count, others, total = (
        torch.cuda.device_count(),
        device.others(),
        torch.cuda.mem_get_info(device.index)[1],
    )
    notes = [f"{count} GPUs are here, and this process uses {device}"] if count > 1 else []
    if others > WORTH_SAYING * total:
        notes.append(f"other processes hold {others / 1e9:.1f} of {device}'s {total / 1e9:.1f} GB")
    return [*notes, _compiled(device)]


def _compiled(device: Device) -> str:
    """How long the first pass will take: kernels are compiled in it."""
    if (seconds := first_pass(device.name)) is None:
        place = kernels_of(device.name)
        return (
            f"the first pass compiles kernels for {device.name}, maybe for minutes, and keeps them in {place}"
        )
    return f"the first pass took {seconds:.0f} s in the last run on {device.name}; its kernels are kept"
