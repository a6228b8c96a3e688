"""The table of forms is true: what it names exists, and no other code of ours computes these operations."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest
import torch

from sapwood.compute import backend, fused
from sapwood.compute.attention import flex
from sapwood.compute.backend import REFERENCE, Backend
from sapwood.compute.fused import refused
from sapwood.machine.device import CPU, Device

FORMS = re.findall(r"\b(?:compute|native|base)\.[a-z0-9_.]+\.\w+", backend.__doc__ or "")
SRC = Path(backend.__file__).parents[1]
# What joins products to autograd, and computes none itself
CARRIERS = {"_LoraProducts", "_LabelLoss", "_Product", "_PackedProduct"}


def test_every_form_exists_and_there_are_at_most_sixteen() -> None:
    for form in FORMS:
        module, _, name = form.rpartition(".")
        assert hasattr(import_module(f"sapwood.{module}"), name), form
    assert len(FORMS) == len(set(FORMS)) <= 16


def test_every_function_with_a_backward_pass_of_its_own_is_in_the_table() -> None:
    found = {
        node.name
        for path in SRC.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef) and "torch.autograd.Function" in map(ast.unparse, node.bases)
    }
    assert found - CARRIERS <= {form.rpartition(".")[2] for form in FORMS}


def test_a_device_has_its_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "compiled", property(lambda device: device.is_cpu))
    assert Backend.of(CPU) == Backend(CPU, native=True)
    monkeypatch.setattr(flex, "installed", lambda: True)
    monkeypatch.setattr(fused, "installed", lambda: False)
    refused.cache_clear()
    assert Backend.of(Device("cuda")) == Backend(Device("cuda"), flex=True)
    monkeypatch.setattr(flex, "installed", lambda: False)
    assert Backend.of(Device("cuda")) == Backend(Device("cuda")), "nothing can be compiled without Triton"
    monkeypatch.setattr(Device, "compiled", False)
    assert Backend.of(CPU) == REFERENCE
    assert [b.name for b in (REFERENCE, Backend(CPU, native=True), Backend(CPU, flex=True))] == [
        "reference", "native", "flex"
    ]  # fmt: skip


def test_what_the_kernels_do_not_take_goes_to_the_reference() -> None:
    native, bf16 = Backend(CPU, native=True), torch.bfloat16
    assert native.takes(64, 32, rank=8) and native.takes(16, saved_dtype=bf16) and native.takes()
    assert native.takes(16, matmul_dtype=bf16)
    assert not native.takes(64, 30)
    assert not native.takes(64, rank=300)
    assert not native.takes(64, matmul_dtype=torch.float16)
    assert not native.takes(64, matmul_dtype=bf16, saved_dtype=torch.float32)
    assert not REFERENCE.takes(64)
