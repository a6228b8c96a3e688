"""Whole models in the types that people run, by llama.cpp's own quantiser, checked in llama.cpp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sapwood.base.inspect import inspect_base
from sapwood.base.load import load_base
from sapwood.config.sections import BaseConfig
from sapwood.errors import ExportError
from sapwood.export import quantise
from sapwood.export.merge import held_out_loss
from sapwood.export.quantise import FileType, Quantiser, require_quantiser, type_of
from sapwood.export.ship import Order, export
from sapwood.gguf.file import read_gguf
from sapwood.serve.load import Loaded
from sapwood.types import Example, RowId
from tests.base.tiny import tiny_model_dir
from tests.export.tuned import tuned_on


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Rows of 256 numbers, which blocks of K types need."""
    wide = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    return tuned_on(tiny_model_dir("llama", tmp_path_factory.mktemp("wide"), **wide), strength=0.1)


@pytest.mark.parametrize(
    ("kind", "head", "others"),
    [
        ("Q4_K_M", "Q6_K", "Q4_K"),
        ("Q6_K", "Q6_K", "Q6_K"),
        ("IQ4_XS", "Q6_K", "IQ4_XS"),
        ("Q5_0", "Q6_K", "Q5_0"),
    ],
)
def test_a_model_in_a_type_says_in_llama_cpp_what_rounding_explains(
    kind: FileType, head: str, others: str, trained: Loaded, tmp_path: Path
) -> None:
    done = export(trained, Order("gguf", kind), tmp_path / "out")
    types = {name: tensor.type for name, tensor in read_gguf(done.path / "model.gguf").tensors.items()}
    assert types["token_embd.weight"] == head and types["blk.0.attn_q.weight"] == others  # the head is tied
    assert not done.check.problems and done.check.difference <= done.check.limit
    assert done.check.format_difference > 1e-4


def test_the_loss_of_held_out_rows_in_a_type_is_that_of_the_file(trained: Loaded, tmp_path: Path) -> None:
    """Beside the loss as trained; and as the file's own numbers give it, read back."""
    numbers = np.random.default_rng(1).integers(5, 250, (3, 24)).astype(np.int32)
    held = [Example(RowId("rows.jsonl", i), ids, np.arange(24) > 8) for i, ids in enumerate(numbers)]
    gaps: dict[FileType, float] = {}
    for kind in ("F16", "Q4_K_M"):
        done = export(trained, Order("gguf", kind, held=held), tmp_path / kind)
        path = str(done.path / "model.gguf")
        config = BaseConfig(model=path, storage="fp32")
        in_file = held_out_loss(load_base(inspect_base(config), config).model, held)
        said, before = done.facts["held_out_loss"], done.facts["trained_held_out_loss"]
        assert before == held_out_loss(trained.network, held)
        assert said == pytest.approx(in_file, abs=0.01)
        assert done.notes == [
            f"held-out loss {said:.4f} in {kind}, {before:.4f} as trained ({said - before:+.4f}, 3 rows)"
        ]
        gaps[kind] = abs(said - before)
    assert gaps["F16"] < 1e-3 < gaps["Q4_K_M"]


def test_what_the_rule_of_llama_cpp_gives_each_tensor() -> None:
    def of(tensor: str, columns: int = 256, kind: FileType = "Q4_K_M", tied: bool = False) -> str:
        return type_of(kind, tensor, (512, columns), 32, tied)

    assert of("output") == "Q6_K" and of("token_embd") == "Q4_K" and of("token_embd", tied=True) == "Q6_K"
    assert [of(f"blk.{i}.attn_v") for i in (0, 3, 4, 5, 6, 28)] == [
        "Q6_K", "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q6_K"
    ]  # fmt: skip
    assert of("blk.0.attn_qkv") == "Q5_K" and of("blk.0.attn_qkv", kind="Q5_K_M") == "Q6_K"
    assert of("blk.0.attn_qkv", kind="Q6_K") == "Q6_K" and of("position_embd") == "F32"
    assert of("blk.0.attn_q") == "Q4_K" and of("blk.0.attn_q", 576) == "Q5_0" and of("output", 576) == "Q8_0"
    assert of("blk.0.attn_q", 100) == "F16" and of("blk.0.attn_q", kind="Q8_0") == "Q8_0"
    assert type_of("Q4_K_M", "blk.0.attn_norm", (512,), 32, False) == "F32"


def test_blocks_come_back_as_numbers_near_those_that_went_in() -> None:
    values = np.random.default_rng(0).standard_normal((3, 512)).astype(np.float32)
    gaps: list[float] = []
    with Quantiser() as quantiser:
        for kind in ("Q6_K", "Q5_K", "Q4_K", "IQ4_XS"):
            blocks = quantiser.packed(kind, values)
            assert np.array_equal(blocks, quantiser.packed(kind, values))
            gaps.append(float(np.abs(quantiser.dense(kind, blocks) - values).mean()))
    assert gaps == sorted(gaps) and 0.001 < gaps[0] < 0.02 and gaps[-1] < 0.1


def test_without_the_quantiser_the_type_is_refused_before_anything_is_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quantise, "_library", lambda: None)
    require_quantiser("Q8_0")
    with pytest.raises(ExportError, match=r"Q4_K_M can't be written here .* --type Q8_0"):
        require_quantiser("Q4_K_M")
