"""Tensors from the heap: never two in one place, no holes, and memory that comes back."""

from __future__ import annotations

import os
import random
import resource
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from sapwood.machine.memory import resident_bytes
from sapwood.native.heap import heap_facts, release_heap, use_heap, why_no_heap
from tests.forks import exit_code

pytestmark = pytest.mark.skipif(why_no_heap() is not None, reason=str(why_no_heap()))

LARGE = 256 << 10  # bytes


@pytest.fixture(autouse=True)
def used() -> Iterator[int]:
    """Bytes in use before the test; as many after it."""
    use_heap()
    before = heap_facts().in_use
    yield before
    assert heap_facts().in_use == before


def room(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8)


def test_large_tensors_come_from_it_and_small_ones_do_not(used: int) -> None:
    small, large = room(1000), room(LARGE + 1)
    assert heap_facts().in_use == used + LARGE + resource.getpagesize()
    assert all(t.data_ptr() % 64 == 0 for t in (small, large))


def test_what_layers_keep_leaves_no_holes(used: int) -> None:
    """Thirty layers, each with tensors that pass and a smaller one that is kept; then packs of other lengths,
    in memory that is there already."""
    kept, at_start = list[Tensor](), heap_facts().held
    for length in (100, 93, 107, 88):
        kept.clear()
        for _ in range(30):
            passing = [room(length * 16_000 + extra) for extra in (0, 8192, 70_000)]
            kept.append(room(length * 4_000))
            del passing
    largest = 107 * (30 * 4_000 + 3 * 16_000)
    assert heap_facts().held - at_start < 1.3 * largest
    kept.clear()


def churn(seed: int) -> None:
    """Tensors that come and go in disorder; each holds what was written to it."""
    generator, alive = random.Random(seed), dict[int, Tensor]()
    for turn in range(600):
        if alive and generator.random() < 0.5:
            number, tensor = alive.popitem()
            assert bool((tensor == number % 251).all())
        else:
            size = int(LARGE * 2 ** generator.uniform(-2, 4))
            alive[turn] = room(size).fill_(turn % 251)
        if turn % 100 == 0:
            release_heap()
            alive = dict(generator.sample(sorted(alive.items(), key=lambda item: item[0]), len(alive)))
    assert all(bool((tensor == number % 251).all()) for number, tensor in alive.items())


def test_no_tensor_lies_in_another() -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(churn, range(3)))


def test_a_tensor_may_grow_and_outlive_what_made_it() -> None:
    tensor = torch.arange(LARGE)
    tensor.resize_(4 * LARGE)
    view = tensor[:LARGE].numpy()
    del tensor
    assert int(view[-1]) == LARGE - 1


def test_freed_memory_goes_back_when_asked() -> None:
    tensor = torch.ones(50 << 20)
    with_it = resident_bytes()
    del tensor
    release_heap()
    assert resident_bytes() < with_it - (150 << 20)


def test_too_much_is_refused_in_torchs_words() -> None:
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        room(1 << 50)
    assert room(LARGE).numel() == LARGE


def forked() -> int:
    """The exit code of a fork that allocates; it ends itself where it hangs."""
    process = os.fork()
    if not process:
        signal.alarm(20)
        for _ in range(100):
            room(LARGE)
        os._exit(70)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_can_allocate() -> None:
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            room(LARGE)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        assert [forked() for _ in range(20)] == [70] * 20
    finally:
        stop.set()
        thread.join()


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, resource.RLIM_INFINITY))
    os._exit(70 if "ulimit -v" in (why_no_heap() or "") else 71)


def test_a_limit_of_addresses_is_respected() -> None:
    assert exit_code(limited) == 70
