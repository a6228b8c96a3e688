"""Experts in GGUF files: what an adapter learns of them, and types of blocks, held against real llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sapwood.adapter.pairs import lora_pairs
from sapwood.base.inspect import inspect_base
from sapwood.base.storage.gguf_experts import GgufExperts
from sapwood.base.storage.storages import unpacked_bytes, weight_bytes
from sapwood.config.sections import BaseConfig, LoraConfig
from sapwood.errors import ConfigError, ExportError
from sapwood.export import gguf_adapter
from sapwood.export.quantise import FileType
from sapwood.export.ship import Kind, Order, export
from sapwood.gguf.file import read_gguf
from sapwood.gguf.names import is_stack
from sapwood.gguf.table.families import FAMILIES, architecture_of
from sapwood.gguf.table.family import has_experts
from sapwood.serve.load import Loaded
from tests.export.tuned import tuned_on
from tests.gguf.tiny_gguf import tiny_gguf

MIXTURES = [  # whose experts are stacks that PEFT knows
    name for name, family in FAMILIES.items() if has_experts(family) and not family.one_below
]
DOWN = "ffn_down_exps"
EXPERTS = LoraConfig(rank=4, alpha=8, targets=("q_proj", "experts"))
BESIDE_LATENT = LoraConfig(rank=4, alpha=8, targets=("o_proj", "experts"))  # the one with an adapter there
BESIDE_KIMI = LoraConfig(rank=4, alpha=8, targets=("gate_proj", "experts"))  # none in its attention has one


@pytest.fixture(scope="module", params=MIXTURES)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    path, _ = tiny_gguf(request.param, tmp_path_factory.mktemp("experts") / "base.gguf", kind="F16")
    family = FAMILIES[request.param]
    beside = BESIDE_KIMI if "attn_output" in family.unadapted else BESIDE_LATENT
    return tuned_on(path, beside if family.latent else EXPERTS)


@pytest.mark.parametrize("kind", ["gguf-adapter", "gguf"])
def test_llama_cpp_says_what_was_learnt_of_experts(trained: Loaded, kind: Kind, tmp_path: Path) -> None:
    if kind == "gguf-adapter" and DOWN in FAMILIES[architecture_of(trained.base.spec.text)].unadapted:
        with pytest.raises(ExportError, match=rf"{DOWN} without adapters.*--to gguf writes the whole"):
            export(trained, Order(kind), tmp_path / "out")
        return
    done = export(trained, Order(kind), tmp_path / "out")
    assert done.check.same_ids == done.check.prompts and 0 < done.check.difference <= done.check.limit
    written = read_gguf(next(done.path.glob("*.gguf"))).tensors
    assert any(is_stack(name.partition(".weight")[0]) for name in written)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    path, _ = tiny_gguf("qwen3moe", tmp_path_factory.mktemp("qwen") / "base.gguf", kind="F16")
    return tuned_on(path, EXPERTS, strength=0.3)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K_M"])
def test_experts_are_written_in_blocks_and_routers_are_not(
    qwen: Loaded, kind: FileType, tmp_path: Path
) -> None:
    done = export(qwen, Order("gguf", kind), tmp_path / "out")
    types = {name: tensor.type for name, tensor in read_gguf(done.path / "model.gguf").tensors.items()}
    assert types["blk.0.ffn_gate_inp.weight"] == "F32"
    assert types["blk.0.ffn_up_exps.weight"] in ("Q8_0", "Q5_0")


@pytest.fixture(
    scope="module",
    params=[
        ("qwen2moe", "F16"),
        ("qwen2moe", "Q8_0"),
        ("gpt-oss", "MXFP4"),
        ("llama4", "Q8_0"),
        ("dbrx", "Q8_0"),
    ],
    ids=" ".join,
)
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    arch, kind = request.param
    return tiny_gguf(arch, tmp_path_factory.mktemp("packed") / "base.gguf", kind=kind)[0]


def test_packed_experts_compute_what_dense_ones_do(packed: Path) -> None:
    """The logits, and the gradient of an adapter that lies before the experts."""
    ids, found = torch.arange(5, 45)[None], []
    for config in (held(packed), BaseConfig(model=str(packed), storage="fp32")):
        trained = tuned_on(packed, LoraConfig(rank=4, alpha=8, targets=r".*(q_proj|Wqkv)"), config=config)
        assert trained.model is not None
        fill_all(trained.model.parameters)
        packs = [module for module in trained.network.modules() if isinstance(module, GgufExperts)]
        assert len(packs) == (2 if config.storage == "gguf" else 0)
        logits = trained.network(ids).logits
        logits.square().mean().backward()
        found.append([logits, *(p.grad for p in trained.model.parameters.values())])
    for own, wanted in zip(*found, strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["gguf-adapter", "gguf"])
def test_llama_cpp_says_what_was_trained_over_packed_experts(
    packed: Path, kind: Kind, tmp_path: Path
) -> None:
    trained = tuned_on(packed, config=held(packed))
    type: FileType = "Q8_0" if "Q8_0" in {t.type for t in read_gguf(packed).tensors.values()} else "F16"
    check = export(trained, Order(kind, type), tmp_path / "out").check
    assert check.same_ids == check.prompts and 0 < check.difference <= check.limit


def test_packed_experts_are_not_trained(packed: Path) -> None:
    with pytest.raises(ConfigError, match=r"lora\.targets experts needs base\.storage fp32 or .*, not gguf"):
        tuned_on(packed, EXPERTS, config=held(packed))


@pytest.mark.parametrize("storage", ["fp32", "gguf"])
def test_a_router_beside_experts_in_one_matrix_is_left_out(storage: Any, tmp_path: Path) -> None:
    path, _ = tiny_gguf("dbrx", tmp_path / "base.gguf", kind="Q8_0")
    trained = tuned_on(path, config=BaseConfig(model=str(path), storage=storage, compute_dtype="fp32"))
    assert trained.model is not None
    assert {p.module.rpartition(".")[2] for p in lora_pairs(trained.model)} == {"Wqkv", "out_proj"}
    with pytest.raises(ConfigError, match="no linear layer is called 'experts'"):
        tuned_on(path, LoraConfig(rank=4, alpha=8, targets=("Wqkv", "experts")))


def test_a_plan_counts_experts_as_they_are_held(tmp_path: Path) -> None:
    """Mixtral's stay in the file's blocks, and one matrix of 128 x 64 is unpacked at a time."""
    path, model = tiny_gguf("mixtral", tmp_path / "base.gguf", kind="Q8_0")
    config = held(path)
    spec = inspect_base(config)
    matrices = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    assert weight_bytes(spec, config) < 1.2 * matrices * 34 / 32
    assert unpacked_bytes(spec, config) == 128 * 64 * 4


def test_a_plan_counts_columns_of_another_order_as_unpacked(tmp_path: Path) -> None:
    """They can't stay in blocks; and layers that guess ahead are never held."""
    path, _ = tiny_gguf("qwen35", tmp_path / "base.gguf", kind="Q8_0")
    more: dict[str, Any] = {f"blk.2.{name}.weight": np.ones((999, 64), np.float32) for name in ("a", "b")}
    more |= {"qwen35.block_count": 3, "qwen35.nextn_predict_layers": 1}
    longer, _ = tiny_gguf("qwen35", tmp_path / "longer.gguf", kind="Q8_0", keys=more)
    config = held(path)
    spec, network = inspect_base(config), tuned_on(path, config=config).network
    kept = {id(p): p for p in network.parameters() if not p.requires_grad}
    assert weight_bytes(spec, config) == sum(p.nbytes for p in kept.values())
    assert weight_bytes(inspect_base(held(longer)), held(longer)) == weight_bytes(spec, config)


@torch.no_grad()
def fill_all(parameters: dict[str, torch.nn.Parameter]) -> None:
    """A begins in the number format of the base's blocks, so it is set here, like B."""
    generator = torch.Generator().manual_seed(5)
    for parameter in parameters.values():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def held(path: Path) -> BaseConfig:
    return BaseConfig(model=str(path), storage="gguf", compute_dtype="fp32")


def gate_for_up(names: Any, values: Any, *rest: Any) -> list[Any]:
    return right_apart(names, values, *rest)[::-1]


right_apart = gguf_adapter.apart


def test_an_adapter_whose_gate_and_up_are_exchanged_fails_the_check(
    qwen: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_adapter, "apart", gate_for_up)
    with pytest.raises(ExportError, match="log probabilities differ"):
        export(qwen, Order("gguf-adapter"), tmp_path / "out")


def test_experts_of_another_order_fail_the_check(
    qwen: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def turned(pair: Any, *rest: Any) -> Any:
        return [
            gguf_adapter.GgufPair(p.name, p.a, p.b[::-1].copy()) if p.b.ndim == 3 else p
            for p in right_parts(pair, *rest)
        ]

    right_parts = gguf_adapter._parts
    monkeypatch.setattr(gguf_adapter, "_parts", turned)
    with pytest.raises(ExportError, match="log probabilities differ"):
        export(qwen, Order("gguf-adapter"), tmp_path / "out")
