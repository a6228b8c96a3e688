"""A GPU that isn't there: torch is asked about it, and answers as it would with one."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from sapwood.compute.attention import flex
from sapwood.machine import remembered
from sapwood.machine.measure import machine_facts


@dataclass(frozen=True, slots=True)
class Card:
    """Bytes: total, free of it, reserved by torch in this process, and of these those that tensors hold."""

    total: int = 8 << 30
    free: int = 7 << 30
    reserved: int = 0
    allocated: int = 0
    bf16: bool = True
    triton: bool = True
    count: int = 1
    name: str = "Pretended"


def plug_in(monkeypatch: pytest.MonkeyPatch, card: Card) -> None:
    """Nothing can be computed there: what is to be done with it is done elsewhere, or noted."""
    answers: dict[str, Any] = {
        "is_available": True, "device_count": card.count, "memory_allocated": card.allocated,
        "memory_reserved": card.reserved, "mem_get_info": (card.free, card.total),
        "is_bf16_supported": card.bf16, "get_device_name": card.name, "device": nullcontext(),
        "max_memory_allocated": card.allocated,
    }  # fmt: skip
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    monkeypatch.setattr(remembered, "cache_dir", lambda: Path(os.devnull) / "cache")  # nothing of it is kept
    monkeypatch.setattr(flex, "installed", lambda: card.triton)
    machine_facts.cache_clear()
