"""Memory for torch's tensors on the CPU that leaves no holes between those that layers keep
(`allocator/heap.cpp`)."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from ctypes import c_int64
from functools import cache
from importlib import import_module
from typing import NamedTuple

from sapwood.machine.system import limits
from sapwood.native.build import HEAP, Unavailable, library, why_not


class HeapFacts(NamedTuple):
    """Bytes that the heap took from the system, and how many of them tensors occupy."""

    held: int
    in_use: int


def why_no_heap() -> str | None:
    """Why the heap can't be used here; None if it can. Changes nothing."""
    reason = why_not(HEAP)
    if reason is None and limits("AS")[0] is not None:
        return "ulimit -v limits addresses, of which it reserves more than it will use"
    return reason


def use_heap() -> None:
    """From now on every large tensor on the CPU comes from the heap, if the heap can be had. Tensors that
    exist stay where they are. A second call changes nothing.
    """
    if why_no_heap() is None:
        with suppress(Unavailable):
            _heap()


def release_heap() -> None:
    """Give memory that no tensor occupies back to the system. Does nothing if the heap isn't used."""
    if _heap.cache_info().currsize:
        _heap().sapwood_heap_release()


def heap_facts() -> HeapFacts:
    """Raises Unavailable."""
    held, in_use = c_int64(), c_int64()
    _heap().sapwood_heap_facts(ctypes.byref(held), ctypes.byref(in_use))
    return HeapFacts(held.value, in_use.value)


@cache
def _heap() -> ctypes.CDLL:
    import_module("torch")  # whose libraries must be there first
    found = library(HEAP)
    if not found.sapwood_heap_use():
        raise Unavailable("no range of addresses is to be had")
    return found
