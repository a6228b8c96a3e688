"""The fast forward and backward == PEFT's own, and PEFT's own whenever the case is not the plain one."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sapwood.adapter.attach import attach_lora
from sapwood.adapter.model import LoraModel
from sapwood.base.storage.frozen import DenseWeight, freeze
from sapwood.compute.dropout import keep_mask
from sapwood.compute.linear import group as linear_group
from sapwood.compute.linear import reference
from sapwood.compute.linear.group import InputGroup
from sapwood.compute.linear.layer import LoraLinear
from sapwood.config.sections import LoraConfig
from sapwood.native.ops import Dropout
from tests.base.tiny import ARCHITECTURES
from tests.parity.cases import lora_model, tiny_base

IDS = torch.arange(3, 23)[None]


def linears(model: LoraModel) -> dict[str, LoraLinear]:
    return {name: m for name, m in model.peft.named_modules() if isinstance(m, LoraLinear)}


def groups(model: LoraModel) -> list[InputGroup]:
    found = {id(m.group): m.group for m in linears(model).values()}
    return [group for group in found.values() if group is not None]


def by_peft(model: LoraModel) -> LoraModel:
    """A copy that computes with PEFT's own forward."""
    other = copy.deepcopy(model)
    for module in linears(other).values():
        module.group = None
    parameters = {n.replace(".default.", "."): p for n, p in other.peft.named_parameters() if p.requires_grad}
    return LoraModel(
        other.peft,
        other.network,
        other.backbone,
        other.head,
        other.clock,
        parameters,
        other.targets,
        other.backend,
    )


def wake(model: LoraModel) -> LoraModel:
    """B is zero at the start, and with it the gradient of A."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.parameters.items():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    return model


def results(model: LoraModel) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradient of every adapter tensor."""
    logits = model.peft(input_ids=IDS.to(model.device), use_cache=False).logits.float()
    logits.square().mean().backward()
    grads = {name: p.grad for name, p in model.parameters.items() if p.grad is not None}
    assert grads.keys() == model.parameters.keys()
    for parameter in model.parameters.values():
        parameter.grad = None
    return logits.detach(), grads


def assert_same(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=tolerance, atol=tolerance)
    for name, grad in expected[1].items():
        scale = float(grad.abs().max())
        assert float((found[1][name] - grad).abs().max()) <= tolerance * max(scale, 1e-3), name


def test_a_bf16_base_multiplied_in_fp32_is_nearer_to_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "MIN_ROWS", 8)
    exact = tiny_base()
    rounded = {name: p.bfloat16().float() for name, p in exact.model.state_dict().items()}
    exact.model.load_state_dict(rounded)  # the same weights for all: only the products differ
    apart: list[float] = []
    expected = results(wake(attach_lora(exact, LoraConfig(dropout=0), seed=1)))[1]
    for products in (torch.float32, torch.bfloat16):
        base = tiny_base()
        base.model.load_state_dict(rounded)
        held = replace(base, model=base.model.bfloat16(), matmul_dtype=products)
        grads = results(wake(attach_lora(held, LoraConfig(dropout=0), seed=1)))[1]
        apart.append(max(float((grads[n] - g).norm() / g.norm()) for n, g in expected.items()))
    assert apart[0] < apart[1] < 0.1


# --- which linears share an input -------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_groups_are_read_from_the_model(arch: str) -> None:
    model = lora_model(arch)
    names = {id(m): name.rpartition(".")[2] for name, m in linears(model).items()}
    found = [tuple(names[id(m)] for m in group.members) for group in groups(model)]
    wide = ("gate_up_proj",) if "glm" in arch else ("gate_proj", "up_proj")
    layer = [("q_proj", "k_proj", "v_proj"), ("o_proj",), wide, ("down_proj",)]
    assert [tuple(sorted(g)) for g in found] == [tuple(sorted(g)) for g in layer * 2]
    assert [group.index for group in groups(model)] == list(range(8))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_forward_and_gradients_equal_pefts(arch: str) -> None:
    model = lora_model(arch)
    assert_same(results(model), results(by_peft(model)))


@pytest.mark.parametrize(
    "settings",
    [
        {"rank": 1},
        {"rank": 16, "alpha": 4},
        {"rank": 8, "method": "rslora"},
        {"targets": ("q_proj", "v_proj")},
        {"targets": ("v_proj",), "rank": 3},
        {"targets": r"model\.layers\.1\..*(q|k|up)_proj"},
    ],
    ids=str,
)
def test_ranks_scales_and_targets(settings: dict[str, Any]) -> None:
    model = wake(attach_lora(tiny_base(), LoraConfig(**({"dropout": 0.0} | settings))))
    assert_same(results(model), results(by_peft(model)))


def test_a_rank_for_each_member() -> None:
    """A group's A's are stacked: ranks and scales may differ, as a rank pattern of PEFT's makes them."""
    model = lora_model()
    first = groups(model)[0].members[0]
    first.lora_A["default"].weight.data = torch.randn(7, 64) * 0.1
    first.lora_B["default"].weight.data = torch.randn(64, 7) * 0.1
    first.scaling["default"] = 0.3
    assert_same(results(model), results(by_peft(model)))


def test_bf16_bases_keep_an_fp32_adapter_and_follow_peft_loosely() -> None:
    base = tiny_base()
    base.model.to(torch.bfloat16)
    model = wake(attach_lora(base, LoraConfig(dropout=0.0)))
    assert {p.dtype for p in model.parameters.values()} == {torch.float32}
    found, expected = results(model), results(by_peft(model))
    torch.testing.assert_close(found[0], expected[0], rtol=0.05, atol=0.15)
    for name, grad in expected[1].items():
        assert found[1][name].dtype == torch.float32
        alike = torch.nn.functional.cosine_similarity(found[1][name].flatten(), grad.flatten(), dim=0)
        assert alike > 0.99, name


# --- dropout ----------------------------------------------------------------------------------------------


def test_dropout_equals_peft_with_the_masks_of_the_clock() -> None:
    """The reference: PEFT's forward, whose dropout multiplies by the same mask, kept by plain autograd."""
    rate = 0.3
    model = lora_model(dropout=rate)
    model.clock.step, model.clock.pack = 5, 2
    reference = by_peft(model)
    index = {name: m.group.index for name, m in linears(model).items() if m.group is not None}

    class Masked(nn.Module):
        def __init__(self, layer: int) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            rows = x.flatten(0, -2)
            keep = keep_mask(*rows.shape, Dropout(rate, model.clock.at(self.layer)))
            return x * keep.view(x.shape) / (1 - rate)

    for name, module in linears(reference).items():
        module.lora_dropout["default"] = Masked(index[name])
    model.peft.train()
    assert_same(results(model), results(reference))


def test_the_numeric_gradient_sees_one_mask() -> None:
    base = nn.Linear(5, 4).double().requires_grad_(False)
    call = reference.Call((DenseWeight(base), DenseWeight(base)), (2.0, 0.5), 0.4, 77, torch.float64)
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 5), (2, 5), (3, 5), (4, 2), (4, 3))
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    eps, weights = 1e-6, [torch.randn(2, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2)]

    def value(*tensors: Tensor) -> Tensor:
        outputs: Any = linear_group._LoraProducts.apply(call, *tensors)
        return sum((y * w).sum() for y, w in zip(outputs, weights, strict=True))  # type: ignore[return-value]

    value(*inputs).backward()
    for at, x in enumerate(inputs):
        assert x.grad is not None
        for place in range(x.numel()):
            moved = []
            for sign in (eps, -eps):
                step = torch.zeros(x.numel(), dtype=torch.float64)
                step[place] = sign
                changed = [t.detach() for t in inputs]
                changed[at] = changed[at] + step.view(x.shape)
                moved.append(float(value(*changed)))
            numeric = (moved[0] - moved[1]) / (2 * eps)
            # the adapter's gradients are fp32, as its parameters are
            assert float(x.grad.flatten()[place]) == pytest.approx(numeric, rel=1e-4, abs=1e-4)


def test_dropout_is_off_in_eval_mode_and_without_grad() -> None:
    model = lora_model(dropout=0.5)
    plain = by_peft(model)
    plain.peft.eval()
    with torch.no_grad():
        expected = plain.peft(input_ids=IDS).logits
        model.peft.train()
        torch.testing.assert_close(model.peft(input_ids=IDS).logits, expected)
    model.peft.eval()
    torch.testing.assert_close(model.peft(input_ids=IDS).logits, expected)
    model.peft.train()
    assert not torch.allclose(model.peft(input_ids=IDS).logits, expected, atol=1e-3)


def test_a_step_has_its_own_masks_and_the_generator_does_not_matter() -> None:
    model = lora_model(dropout=0.5)
    model.peft.train()
    first = results(model)
    torch.rand(3)
    again = results(model)
    assert torch.equal(first[0], again[0])
    assert all(torch.equal(first[1][n], again[1][n]) for n in first[1])
    model.clock.step += 1
    assert not torch.equal(results(model)[0], first[0])


# --- not the plain case -----------------------------------------------------------------------------------


def test_a_disabled_adapter_is_the_base() -> None:
    model = lora_model()
    with torch.no_grad(), model.peft.disable_adapter():
        found = model.peft(input_ids=IDS).logits
    torch.testing.assert_close(found, tiny_base().model(input_ids=IDS).logits, rtol=0, atol=0)
    assert not torch.allclose(model.peft(input_ids=IDS).logits, found, atol=1e-2)


def test_merged_and_unmerged(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lora_model()
    with torch.no_grad():
        expected = model.peft(input_ids=IDS).logits
        model.peft.merge_adapter()
        with monkeypatch.context() as patch:
            patch.delattr(InputGroup, "output")  # the fast path would add the adapter a second time
            torch.testing.assert_close(model.peft(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-4)
        model.peft.unmerge_adapter()
        torch.testing.assert_close(model.peft(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-4)
        merged = model.peft.merge_and_unload()
        assert not any(isinstance(m, LoraLinear) for m in merged.modules())
        torch.testing.assert_close(merged(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-4)


def test_extra_arguments_go_to_peft() -> None:
    model = lora_model()
    module = groups(model)[0].members[0]
    x = torch.randn(2, 3, 64)
    base = module.get_base_layer()(x)
    torch.testing.assert_close(module(x, adapter_names=["__base__", "__base__"]), base)
    mixed = module(x, adapter_names=["__base__", "default"])
    torch.testing.assert_close(mixed[0], base[0])
    torch.testing.assert_close(mixed[1], module(x)[1], rtol=1e-5, atol=1e-5)


# --- the group --------------------------------------------------------------------------------------------


def alone(module: LoraLinear, x: Tensor) -> Tensor:
    """PEFT's forward of one module."""
    group, module.group = module.group, None
    try:
        return module(x)
    finally:
        module.group = group


def test_members_called_with_other_tensors_in_any_order() -> None:
    q, k, v = groups(lora_model())[0].members
    a, b = torch.randn(1, 4, 64), torch.randn(2, 3, 64)
    for module, x in ((q, a), (k, b), (v, a), (q, a), (q, a), (v, b), (k, b), (k, a.clone())):
        torch.testing.assert_close(module(x), alone(module, x), rtol=1e-5, atol=1e-5)


def test_an_input_without_batch_and_one_that_needs_a_gradient() -> None:
    q, k, _ = groups(lora_model())[0].members
    x = torch.randn(5, 64, requires_grad=True)
    (q(x).sum() + k(x).square().sum()).backward()
    found, x.grad = x.grad, None
    (alone(q, x).sum() + alone(k, x).square().sum()).backward()
    assert found is not None and x.grad is not None
    torch.testing.assert_close(found, x.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("grad", [True, False])
def test_nothing_waits_after_a_whole_forward_pass(grad: bool) -> None:
    model = lora_model()
    with torch.set_grad_enabled(grad):
        model.peft(input_ids=IDS, use_cache=False)
    assert all(not group.waiting and group.reading is None for group in groups(model))


def test_nothing_waits_after_a_step_with_gradient_checkpointing() -> None:
    model = lora_model(dropout=0.1)
    model.peft.train()
    model.network.gradient_checkpointing_enable({"use_reentrant": False})
    assert math.isfinite(float(results(model)[0].sum()))
    assert all(not group.waiting and group.reading is None for group in groups(model))


# --- the frozen weight ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_a_dense_weight_is_its_linear(bias: bool) -> None:
    linear = nn.Linear(6, 4, bias=bias)
    frozen = freeze(linear)
    x = torch.randn(5, 6, requires_grad=True)
    y = linear(x)
    torch.testing.assert_close(frozen.forward(x), y)
    g = torch.randn(5, 4)
    y.backward(g)
    torch.testing.assert_close(frozen.input_grad(g), x.grad)
    assert torch.equal(frozen.dense(), linear.weight)
    assert not frozen.dense().requires_grad


def test_a_layer_without_a_frozen_form_is_refused() -> None:
    with pytest.raises(TypeError, match="no frozen form for Embedding"):
        freeze(nn.Embedding(3, 4))
