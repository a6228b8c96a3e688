"""liger-kernel's kernels are taken where they compute what their definitions say, and by nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sapwood.compute import fused
from sapwood.compute.backend import REFERENCE, Backend
from sapwood.compute.fused import TRIALS, fused_on, refused, why_not_fused
from sapwood.machine.device import CPU, Device
from tests.machine.pretended import Card, plug_in

GPU = Device("cuda")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is installed, as far as anybody asks."""
    monkeypatch.setattr(fused, "installed", lambda: True)
    refused.cache_clear()


@pytest.fixture(autouse=True)
def forgotten() -> Any:
    yield
    refused.cache_clear()


def by_torch(monkeypatch: pytest.MonkeyPatch, *, factor: float = 1.0) -> None:
    """In the place of the kernels, their definitions; ``factor`` is a fault in one gradient of `gated`."""

    def gated(gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
        return fused.gated_defined(gate, up, gelu)

    def back(grad: Tensor, gate: Tensor, up: Tensor, gelu: bool) -> tuple[Tensor, ...]:
        inputs = [one.detach().requires_grad_() for one in (gate, up)]
        with torch.enable_grad():
            of_gate, of_up = torch.autograd.grad(gated(*inputs, gelu), inputs, grad)
        return of_gate, of_up * factor

    monkeypatch.setattr(fused, "rms_norm", fused.norm_defined)
    monkeypatch.setattr(fused, "gated", gated)
    monkeypatch.setattr(fused, "gated_backward", back)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_computes_its_definition_is_taken(
    dtype: str, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_torch(monkeypatch)
    assert refused("cpu", (dtype,)) == {}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_wrong_gradient_leaves_one_operation_to_the_reference(
    dtype: str, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_torch(monkeypatch, factor=1.1)
    assert refused("cpu", (dtype,)) == {"gated": f"{dtype}: 0.1 apart"}
    by_torch(monkeypatch, factor=float("nan"))
    refused.cache_clear()
    assert refused("cpu", (dtype,)) == {"gated": f"{dtype}: nan apart"}


def test_a_kernel_that_cannot_be_compiled_is_left_out_with_its_reason(
    here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Tensor:
        raise OSError("no C compiler\nat all")

    by_torch(monkeypatch)
    monkeypatch.setattr(fused, "rms_norm", fail)
    assert refused("cpu", ("float32",)) == {"norm": "float32: no C compiler"}


def test_a_card_has_them_where_the_library_is(here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked in fp32 and in the card's format; on a CPU nobody asks."""
    asked: list[tuple[str, tuple[str, ...]]] = []
    monkeypatch.setattr(
        fused, "refused", lambda place, dtypes: asked.append((place, dtypes)) or {"norm": "?"}
    )
    plug_in(monkeypatch, Card(bf16=False))
    assert Backend.of(GPU).fused == {"gated"}
    assert fused_on(CPU) == frozenset() and why_not_fused(CPU) == {}
    assert asked == [("cuda:0", ("float32", "float16"))]


def test_without_the_library_all_is_left_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "find_spec", lambda name: None)
    plug_in(monkeypatch, Card())
    assert fused_on(GPU) == frozenset()
    assert why_not_fused(GPU) == dict.fromkeys(TRIALS, "liger-kernel isn't installed")


def test_what_the_kernels_do_not_take_goes_to_the_reference() -> None:
    backend = replace(REFERENCE, fused=frozenset({"norm"}))
    x = torch.zeros(2, 8)
    assert backend.fuses("norm", x, x)
    assert not REFERENCE.fuses("norm", x, x)
    assert not backend.fuses("gated", x, x)
    assert not backend.fuses("norm", x, x.bfloat16()), "two formats"
    assert not backend.fuses("norm", x.double(), x.double())
    wide = torch.empty(1, 65_537, device="meta")
    assert not backend.fuses("norm", wide, wide)
    assert not replace(backend, device=GPU).fuses("norm", x, x), "the model hasn't moved yet"


@pytest.fixture(scope="module")
def interpreted() -> dict[str, Any]:
    if not fused.installed():
        pytest.skip("liger-kernel and Triton aren't installed: pip install '.[cuda]'")
    command = [sys.executable, "-m", "tests.compute.interpreted"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_library_computes_its_definitions(interpreted: dict[str, Any]) -> None:
    assert interpreted["refused"] == {"float32": {}, "float16": {}}


def test_models_with_its_kernels_give_the_references_values_and_gradients(
    interpreted: dict[str, Any],
) -> None:
    for name, found in interpreted["models"].items():
        near = 1e-5 if name.endswith("float32") else 5e-3
        assert found["logits"] < near and found["gradient"] < near, (name, found)
        product = "geglu_backward" if name.startswith("gemma") else "swiglu_backward"
        assert found["called"] == sorted(["rms_norm_forward", product]), (name, found)
        assert found["kept"][0] <= found["kept"][1], (name, found)
