"""The processes of a run: which one this is, its share of a step, and how they agree.

`torchrun` (or whatever sets the same variables: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) starts several
processes of one command. They meet here, over gloo between CPUs and NCCL between GPUs. One process is the
plain case: its `World` talks to nobody and imports nothing.

Sums are made by ourselves, in the order of ranks. The all-reduce of a library chooses its own order, and
DistributedDataParallel even another one after its first step, when it rebuilds its buckets: with three
processes the first step after a resume would then differ in its last bits from the same step of an
undisturbed run. Here there are no buckets, and a sum has the same order at every step.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sapwood.errors import ConfigError, LostProcessError, SapwoodError, brief
from sapwood.machine.device import Device, device_for
from sapwood.train.processes.heartbeat import SPOKEN, Heartbeat

if TYPE_CHECKING:
    from torch import Tensor

MEET = timedelta(minutes=10)  # for all processes to start
WAIT = timedelta(days=1)  # for one another, later: whether they live is told by the heartbeat
FIRST_WORD = timedelta(seconds=5)  # for the first process to say how a run ended, before another says it


@dataclass(frozen=True, slots=True)
class World:
    """rank: this process, from 0; the first one writes the run, prints and answers the probes.
    size: how many there are. local_rank, local_size: the same among those of this host."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def device(self, device_map: str = "auto") -> Device:
        """The device of this process, as ``base.device_map`` says: each process of a host has a GPU of its
        own."""
        return device_for(device_map, self.local_rank)

    def resume(self, run: Path) -> str:
        """The command that goes on with ``run`` in as many processes."""
        command = f"sapwood resume {run}"
        return command if self.size == 1 else f"torchrun --nproc-per-node {self.local_size} -m {command}"

    def share(self, sizes: Sequence[int], *, lockstep: bool = False) -> list[tuple[int, float]]:
        """What this process computes of a step's packs, as (index, factor): each pack has the factor 1 in
        one process. With ``lockstep`` all processes make as many passes, as a divided base asks: who has
        fewer repeats the smallest pack with the factor 0."""
        shares = divide(sizes, self.size)
        mine = [(index, 1.0) for index in shares[self.rank]]
        if lockstep:
            smallest = min(range(len(sizes)), key=sizes.__getitem__)
            mine += [(smallest, 0.0)] * (max(map(len, shares)) - len(mine))
        return mine

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, added in the order of ranks: the same bits in
        each of them. Every process sums one slice, so that the traffic is that of a ring: 2 (n - 1) / n of
        the tensors' bytes each way."""
        if self.size == 1:
            return
        import torch
        from torch import distributed

        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        parts = torch.nn.functional.pad(flat, (0, -len(flat) % self.size)).view(self.size, -1)
        mine = torch.empty_like(parts)  # row r: what rank r has of my slice
        with partners():
            distributed.all_to_all_single(mine, parts)
            total = mine[0]
            for row in mine[1:]:
                total += row
            distributed.all_gather(list(parts.unbind()), total)
        offset, whole = 0, parts.view(-1)
        for tensor in tensors:
            tensor.copy_(whole[offset : offset + tensor.numel()].view_as(tensor))
            offset += tensor.numel()

    def totals(self, *values: float) -> list[float]:
        """Sums of plain numbers over all processes, in double precision and in the order of ranks."""
        if self.size == 1:
            return list(values)
        import torch
        from torch import distributed

        mine = torch.tensor(values, dtype=torch.float64)
        rows = [torch.empty_like(mine) for _ in range(self.size)]
        with partners():
            distributed.all_gather(rows, mine)
        total = rows[0]
        for row in rows[1:]:
            total = total + row
        return total.tolist()

    def any(self, flag: bool) -> bool:
        """True in all processes if ``flag`` is true in one: a signal may reach only some processes."""
        return self.totals(float(flag))[0] > 0

    def tell(self, content: bytes = b"") -> bytes:
        """The first process's value, in all processes."""
        if self.size == 1:
            return content
        import torch
        from torch import distributed

        size = torch.tensor([len(content)])
        with partners():
            distributed.broadcast(size, 0)
            if not self.leads:
                content = bytes(int(size))
            if content:
                words = torch.frombuffer(bytearray(content), dtype=torch.uint8)
                distributed.broadcast(words, 0)
                content = words.numpy().tobytes()
        return content

    @contextmanager
    def turn(self) -> Generator[None]:
        """One process of a host after the other: what a process holds for a while is never held twice at
        once."""
        counts = self.totals(*(self.local_size * (rank == self.rank) for rank in range(self.size)))
        for number in range(int(max(counts))):
            if number == self.local_rank:
                yield
            self.totals(0.0)  # returns when all processes are here


ALONE = World()


def divide(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Indices of ``sizes`` in ``parts`` lists whose sums are near each other: the largest first, each to
    the list that has least. A pure function: every process finds the same."""
    lists: list[list[int]] = [[] for _ in range(parts)]
    load = [0] * parts
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        least = load.index(min(load))
        lists[least].append(index)
        load[least] += sizes[index]
    return [sorted(indices) for indices in lists]


@contextmanager
def join() -> Generator[World]:
    """Meet the other processes, if there are any. Inside, an error of any of them ends all; one of them says
    what happened, and the others leave without a word."""
    if os.environ.get("WORLD_SIZE", "1") in ("", "1"):
        yield ALONE
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # no stack traces of torch beside our message
    world, store = _meet()
    if not world.leads:
        logging.getLogger("sapwood").setLevel(logging.CRITICAL)
    with Heartbeat(store.clone(), world.rank, world.size):
        try:
            with _connected(world, store):
                yield world
        except BaseException as error:
            if not _may_speak(world, store):
                raise SystemExit(error.exit_code if isinstance(error, SapwoodError) else 1) from None
            raise


@contextmanager
def partners() -> Generator[None]:
    """An error of the connection, as our own error. torch raises the same classes for a lost connection and
    for faults of a program, so the error's words decide."""
    try:
        yield
    except RuntimeError as error:
        from torch import distributed

        text = " ".join(str(error).split())
        if not isinstance(error, distributed.DistError) and not any(w in text for w in _CONNECTION):
            raise
        told = brief(re.sub(r"^\[[^]]*\] *", "", text))  # without the place in torch's own source
        why = f"the connection to it broke: {told}"
        mend = "start `sapwood resume RUN` with as many processes"
        raise LostProcessError("another process of this run ended", why=why, mend=mend) from None


_CONNECTION = ("gloo", "Connection closed", "Connection reset", "Broken pipe", "ncclRemoteError")


def _meet() -> tuple[World, Any]:
    from torch import distributed

    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if not 0 <= rank < size:
            raise ValueError(f"RANK={rank} of WORLD_SIZE={size}")
        if local_size == size:  # one host: nothing listens on its network
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        store, _, _ = next(distributed.rendezvous("env://", timeout=MEET))
    except (KeyError, ValueError, RuntimeError) as error:
        why = brief(error)
        mend = "torchrun --nproc-per-node N -m sapwood train CONFIG"
        raise ConfigError("the processes can't meet", "RANK, WORLD_SIZE, MASTER_ADDR", why, mend) from None
    return World(rank, size, local_rank, local_size), store


@contextmanager
def _connected(world: World, store: Any) -> Generator[None]:
    import torch
    from torch import distributed

    device = world.device()
    if not device.is_cpu:
        torch.cuda.set_device(device.index)
    with partners():
        distributed.init_process_group(
            "gloo" if device.is_cpu else "cpu:gloo,cuda:nccl",
            store=store, rank=world.rank, world_size=world.size, timeout=WAIT,
        )  # fmt: skip
    yield
    distributed.destroy_process_group()  # after an error the connections end with the process


def _may_speak(world: World, store: Any) -> bool:
    """True in one process only. The first one knows most, what was saved and where, so it is waited for."""
    from torch import distributed

    try:
        if not world.leads:
            with contextlib.suppress(distributed.DistStoreError):  # nobody has spoken in that time
                store.wait([SPOKEN], FIRST_WORD)
        chosen = store.add(SPOKEN, 1) == 1
    except RuntimeError:  # whoever kept the store is gone: the first process, if torchrun doesn't
        return world.rank <= 1
    if chosen and world.leads and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        if distributed.is_initialized():
            distributed.destroy_process_group()  # ends the others' waiting
        time.sleep(1)  # the store ends with this process: they must hear first that it has spoken
    return chosen
