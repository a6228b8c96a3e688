"""Where PiSSA, LoftQ and the soft prompts begin, and that the start is a function of the seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sapwood.adapter.attach import attach_lora
from sapwood.adapter.model import LoraModel, adapter_tensors
from sapwood.base.inspect import inspect_base
from sapwood.base.load import load_base
from sapwood.config.kinds import Method
from sapwood.config.sections import BaseConfig, LoraConfig
from tests.base.tiny import tiny_llama
from tests.parity.cases import tiny_base

IDS = torch.arange(3, 23)[None]


def test_pissa_takes_the_largest_part_out_of_the_base_and_gives_the_same_answers() -> None:
    plain = tiny_base()
    weights = {n: p.clone() for n, p in plain.model.named_parameters() if "q_proj" in n}
    with torch.no_grad():
        expected = plain.model(input_ids=IDS).logits
        model = attach_lora(plain, LoraConfig(method="pissa", rank=4, alpha=8), seed=1)
        torch.testing.assert_close(model.peft(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-5)
    for name, weight in weights.items():
        rest = model.network.get_submodule(name.removesuffix(".weight")).base_layer.weight
        best = torch.linalg.svdvals(weight)[4:].norm()  # what no matrix of rank 4 can take away
        assert float(rest.norm()) == pytest.approx(float(best), rel=1e-3)


def quantised(folder: Path, method: Method, rank: int) -> tuple[LoraModel, float]:
    """An adapter on the nf4 form of one tiny model, and how far base and adapter together are from the
    original weights."""
    config = BaseConfig(model=str(folder), storage="nf4", compute_dtype="fp32")
    spec = inspect_base(config)
    original = load_base(spec, BaseConfig(model=str(folder), storage="fp32")).model
    model = attach_lora(load_base(spec, config), LoraConfig(method=method, rank=rank, alpha=8), seed=1)
    error = 0.0
    with torch.no_grad():
        for name, module in model.network.named_modules():
            if hasattr(module, "frozen"):
                a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
                found = module.frozen.dense() + module.scaling["default"] * b @ a
                error += float((original.get_submodule(name).weight - found).square().sum())
    return model, error


def test_loftq_starts_nearer_to_the_original_the_larger_its_rank(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path)
    _, plain = quantised(folder, "lora", 4)
    model, small = quantised(folder, "loftq", 4)
    _, large = quantised(folder, "loftq", 16)
    assert large < 0.8 * small < 0.8 * plain
    again, _ = quantised(folder, "loftq", 4)
    tensors = adapter_tensors(model)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in adapter_tensors(again).items())


@pytest.mark.parametrize("method", ["prompt", "p-tuning", "prefix", "pissa"])
def test_a_start_is_a_function_of_the_seed_and_moves_no_generator(method: Method) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (
        adapter_tensors(attach_lora(tiny_base(), LoraConfig(method=method, rank=2), seed=seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    if method != "pissa":  # which finds the same singular vectors, near enough, whatever it begins with
        assert any(not torch.equal(first[name], other[name]) for name in first)
