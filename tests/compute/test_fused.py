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

from sapwood.compute import fused, loss
from sapwood.compute.attention import compiled
from sapwood.compute.backend import REFERENCE, Backend
from sapwood.compute.fused import TRIALS, fused_on, refused, why_not_fused
from sapwood.compute.loss import label_loss
from sapwood.machine.device import CPU, Device
from sapwood.types import Head
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
    monkeypatch.setattr(fused, "rotary", fused.rotary_defined)
    monkeypatch.setattr(fused, "cross_entropy", fused.cross_entropy_defined)


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
    assert Backend.of(GPU).fused == set(TRIALS) - {"norm"}
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
        # GLM turns neighbours and not halves
        turned = [] if name.startswith("glm4") else ["rope_backward"]
        assert found["called"] == sorted(["rms_norm_forward", product, *turned]), (name, found)
        assert found["kept"][0] <= found["kept"][1], (name, found)


def test_the_loss_by_its_kernel_is_the_references_and_holds_less(interpreted: dict[str, Any]) -> None:
    for name, found in interpreted["losses"].items():
        near = 1e-5 if name.endswith("float32") else 5e-3
        assert found["value"] < near and found["gradient"] < near, (name, found)
        assert found["called"] == (not name.startswith("factor behind")), name
        if found["called"]:
            assert found["peak"][0] < found["peak"][1], (name, found)


def test_nothing_that_others_may_hold_is_written_over(interpreted: dict[str, Any]) -> None:
    assert interpreted["written over"] == []


def test_a_loss_that_the_kernel_does_not_know_goes_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that count differently, a head that learns, one in blocks, one in another format, no targets."""
    monkeypatch.setattr(loss, "cross_entropy", lambda *_: pytest.fail("taken"))
    kernels = replace(REFERENCE, fused=frozenset({"loss"}))
    hidden, at, weight = torch.ones(1, 4, 8), torch.arange(4), torch.ones(5, 8)

    def ask(head: Head, at: Tensor = at, weights: Tensor | None = None) -> None:
        assert label_loss(hidden, at, at, head, kernels, weights).num_targets == len(at)

    ask(Head(weight), weights=torch.ones(4))
    ask(Head(weight.clone().requires_grad_()))
    ask(Head(weight, torch.zeros(5).requires_grad_()))
    ask(Head(weight.bfloat16(), matmul_dtype=torch.float32))
    ask(Head(weight), at[:0])
    with pytest.raises(pytest.fail.Exception, match="taken"):
        ask(Head(weight))


def test_angles_whose_halves_differ_are_turned_by_the_model_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "rotary", lambda *_: "by the kernel")
    kernels = replace(REFERENCE, fused=frozenset({"rotary"}))
    turn = compiled._rotary(lambda *_: "by the model", kernels)
    q, k, half = torch.zeros(1, 2, 3, 32), torch.zeros(1, 1, 3, 32), torch.rand(1, 3, 16)
    twice, odd = half.repeat(1, 1, 2), torch.rand(1, 3, 32)
    assert turn(q, k, twice, twice) == "by the kernel"
    assert turn(q, k, odd, twice) == turn(q, k, twice, odd) == "by the model"
    assert turn(q, k, twice.double(), twice) == "by the model"
    assert turn(q, k, twice[..., :16], twice[..., :16]) == "by the model", "a part of each head"
