"""Packed matrices, linears and embeddings == torch's own over the same weights unpacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from torch import Tensor, nn

from sapwood.base import gguf_weights
from sapwood.base.inspect import inspect_base
from sapwood.base.load import load_base
from sapwood.base.storage import gguf_linear
from sapwood.base.storage.frozen import freeze
from sapwood.base.storage.gguf_linear import GgufEmbedding, GgufLinear, PackedMatrix, rows_last
from sapwood.compute.loss import label_loss
from sapwood.config.sections import BaseConfig
from sapwood.errors import ConfigError, ModelError
from sapwood.types import Base
from tests.base.tiny import ARCHITECTURES, tiny_llama
from tests.compute.slow import FASTEST
from tests.gguf.tiny_gguf import tiny_gguf

IDS = torch.arange(3, 103)[None]


def packed(rows: int = 48, columns: int = 64, kind: str = "Q4_1", seed: int = 0) -> tuple[Tensor, Tensor]:
    """Blocks, and the matrix [rows, columns] that they hold."""
    values = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    code = GGMLQuantizationType[kind]
    data = quantize(values, code)
    return rows_last(data, kind), torch.from_numpy(dequantize(data, code))


@pytest.fixture(params=[1 << 26, 1000], ids=["whole", "in parts"])
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_linear, "AT_ONCE", request.param)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("bias", [False, True])
def test_value_and_gradient_are_a_linears(bias: bool) -> None:
    blocks, dense = packed()
    reference = nn.Linear(64, 48, bias=bias)
    reference.weight.data = dense
    own = GgufLinear("Q4_1", blocks, torch.float32, reference.bias if bias else None)
    assert isinstance(own, nn.Linear)
    assert (own.in_features, own.out_features) == (64, 48)
    generator = torch.Generator().manual_seed(4)
    xs = [torch.randn(2, 5, 64, generator=generator).requires_grad_() for _ in range(1)]
    grads: list[Tensor] = []
    for module in (own, reference):
        x = xs[0].detach().clone().requires_grad_()
        y = module(x)
        (y * torch.linspace(-1, 1, 48)).sum().backward()
        assert x.grad is not None
        grads += [y.detach(), x.grad]
    torch.testing.assert_close(grads[0], grads[2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grads[1], grads[3], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("at_once")
def test_the_frozen_weight_follows_its_input_and_its_matrix() -> None:
    blocks, dense = packed()
    weight = freeze(GgufLinear("Q4_1", blocks, torch.bfloat16))
    x = torch.randn(7, 64, generator=torch.Generator().manual_seed(1))
    g = torch.randn(7, 48, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(weight.forward(x), x @ dense.T, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weight.input_grad(g), g @ dense, rtol=1e-5, atol=1e-5)
    assert torch.equal(weight.dense(), dense.bfloat16())
    assert weight.forward(x.bfloat16()).dtype == torch.bfloat16


def test_rows_come_by_slice_and_by_index() -> None:
    blocks, dense = packed()
    matrix = PackedMatrix("Q4_1", blocks, torch.float32)
    assert matrix.shape == dense.shape
    assert torch.equal(matrix[3:9], dense[3:9])
    assert torch.equal(matrix[:], dense)
    chosen = torch.tensor([5, 0, 47, 5])
    kept = matrix[chosen]
    matrix[0:48]  # the next slice takes the place of the one before, never of an index
    assert torch.equal(kept, dense[chosen])


def test_an_embedding_looks_up_and_scales() -> None:
    blocks, dense = packed()
    ids = torch.tensor([[1, 7, 1]])
    assert torch.equal(GgufEmbedding("Q4_1", blocks, torch.float32)(ids), dense[ids])
    scaled = GgufEmbedding("Q4_1", blocks, torch.bfloat16, scale=8.06)(ids)
    assert torch.equal(scaled, dense[ids].bfloat16() * torch.tensor(8.06).bfloat16())


def test_blocks_belong_to_their_module_and_are_never_cast() -> None:
    blocks, _ = packed()
    linear = GgufLinear("Q4_1", blocks, torch.float32).to(torch.bfloat16)
    assert linear.packed.blocks is linear.weight
    assert linear.weight.dtype == torch.uint8


# --- whole models -----------------------------------------------------------------------------------------


def load(path: Path, storage: str, dtype: str = "fp32") -> Base:
    config = BaseConfig.model_validate({"model": str(path), "storage": storage, "compute_dtype": dtype})
    return load_base(inspect_base(config), config)


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "F16"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_packed_model_answers_as_the_unpacked_one(tmp_path: Path, arch: str, kind: str) -> None:
    path, _ = tiny_gguf(arch, tmp_path / "m.gguf", kind=kind)
    own, dense = load(path, "gguf"), load(path, "fp32")
    assert own.storage == "gguf"
    assert not any(parameter.requires_grad for parameter in own.model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(own.model(IDS).logits, dense.model(IDS).logits, rtol=1e-5, atol=1e-5)
    matrices = [m for m in own.model.modules() if isinstance(m, nn.Linear | nn.Embedding)]
    assert all(isinstance(m, GgufLinear | GgufEmbedding) for m in matrices)


@pytest.mark.parametrize("tied", [True, False])
def test_a_packed_head_gives_the_loss_of_a_dense_one(tmp_path: Path, tied: bool) -> None:
    path, _ = tiny_gguf("llama", tmp_path / "m.gguf", kind="Q8_0", tie_word_embeddings=tied)
    heads: list[Any] = [load(path, storage).head for storage in ("gguf", "fp32")]
    targets = torch.randint(0, 600, (40,), generator=torch.Generator().manual_seed(0))
    found: list[Tensor] = []
    for head in heads:
        hidden = torch.randn(1, 40, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        loss = label_loss(hidden, torch.arange(40), targets, head, FASTEST).total
        loss.backward()
        assert hidden.grad is not None
        found += [loss.detach(), hidden.grad]
    torch.testing.assert_close(found[0], found[2])
    torch.testing.assert_close(found[1], found[3])


def test_tied_blocks_are_held_once(tmp_path: Path) -> None:
    path, _ = tiny_gguf("qwen3", tmp_path / "m.gguf", kind="Q8_0")
    model = load(path, "gguf").model
    assert model.lm_head.packed.blocks is model.get_input_embeddings().packed.blocks
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_biases_stay_with_packed_linears(tmp_path: Path) -> None:
    path, _ = tiny_gguf("llama", tmp_path / "m.gguf", kind="Q8_0", attention_bias=True)
    with torch.no_grad():
        found, expected = (load(path, storage).model(IDS).logits for storage in ("gguf", "fp32"))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_what_cannot_stay_packed_is_refused_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="gguf needs a GGUF file"):
        load(tiny_llama(tmp_path), "gguf")
    path, _ = tiny_gguf("llama", tmp_path / "m.gguf", kind="Q8_0")
    monkeypatch.setattr(gguf_weights, "unknown_types", lambda file: ["IQ1_S"])
    with pytest.raises(ModelError, match=r"IQ1_S can't stay packed.*bf16 unpacks"):
        load(path, "gguf")
