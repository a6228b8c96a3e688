"""Blocks unpacked by torch == the `gguf` package, value for value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

import gguf
from sapwood.base.builtin import BUILTINS
from sapwood.base.storage.gguf_linear import PackedMatrix, rows_last
from sapwood.gguf import blocks as gguf_blocks
from sapwood.gguf.blocks import BLOCK_TYPES, unpack
from sapwood.gguf.file import GgufFile, read_gguf
from sapwood.gguf.layout import to_torch_layout, to_torch_rows
from sapwood.gguf.types import PACKED_TYPES

PACKED = [kind for kind, form in BLOCK_TYPES.items() if form.size > 1]
ROWS, BLOCKS = 24, 3


def random_rows(kind: str, seed: int = 0) -> np.ndarray:
    """Every byte is random but those of fp16 scales, which stay numbers."""
    size, width = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    rows = np.random.default_rng(seed).integers(0, 256, (ROWS, BLOCKS * width), dtype=np.uint8)
    values = dequantize(rows, GGMLQuantizationType[kind])
    bad = ~np.isfinite(values).reshape(ROWS, BLOCKS, size).all(-1)
    rows.reshape(ROWS, BLOCKS, width)[bad] = 0
    return rows


def test_every_type_that_may_stay_packed_can_be_unpacked() -> None:
    assert set(BLOCK_TYPES) == set(PACKED_TYPES)
    for kind, form in BLOCK_TYPES.items():
        size, width = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
        assert (form.size, form.width * form.dtype.itemsize) == (size, width)


@pytest.mark.parametrize("at_once", [1 << 19, 1000, 1])
@pytest.mark.parametrize("kind", PACKED)
def test_random_blocks_give_the_packages_values(
    kind: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_blocks, "AT_ONCE", at_once)
    rows = random_rows(kind)
    expected = torch.from_numpy(dequantize(rows, GGMLQuantizationType[kind]))
    blocks = rows_last(rows, kind)
    found = unpack(kind, blocks, torch.empty(expected.shape[::-1]))
    assert torch.equal(found.T, expected)
    for dtype in (torch.bfloat16, torch.float16):
        found = unpack(kind, blocks, torch.empty(expected.shape[::-1], dtype=dtype))
        assert torch.equal(found.T, expected.to(dtype))  # rounded once


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_plain_numbers_stay_what_they_are(kind: str) -> None:
    values = np.random.default_rng(1).standard_normal((ROWS, 40)).astype(np.float32)
    packed = gguf.quants.quantize(values, GGMLQuantizationType[kind])
    matrix = PackedMatrix(kind, rows_last(packed.view(np.uint8), kind), torch.float32)
    expected = values if kind == "F32" else dequantize(packed.view(np.uint8), GGMLQuantizationType[kind])
    assert torch.equal(matrix.dense(), torch.from_numpy(expected.astype(np.float32)))
    assert matrix.blocks.nbytes == packed.nbytes


def one_of_each(file: GgufFile) -> dict[str, str]:
    """type -> a matrix of it; the rows of the first layer's q stand in another order in llama files."""
    found = {
        t.type: name for name, t in file.tensors.items() if len(t.shape) > 1 and "token_embd" not in name
    }
    return found | {"q": "blk.0.attn_q.weight"}


def check_file(file: GgufFile) -> None:
    for name in one_of_each(file).values():
        tensor: Any = file.tensors[name]
        matrix = PackedMatrix(tensor.type, rows_last(to_torch_rows(file, name), tensor.type), torch.float32)
        expected = to_torch_layout(file, name, tensor.dense())
        assert torch.equal(matrix.dense(), torch.from_numpy(expected)), name


def test_real_q4_1_blocks_of_smollm2(smollm2_spec: Any) -> None:
    check_file(read_gguf(smollm2_spec.path))


def test_real_q4_k_m_blocks_of_gemma() -> None:
    if not BUILTINS["gemma3-270m"].pulled:
        pytest.skip("needs `sapwood model pull builtin:gemma3-270m --accept-license`")
    file = read_gguf(BUILTINS["gemma3-270m"].path)
    assert {"Q4_K", "Q5_0"} <= {tensor.type for tensor in file.tensors.values()}
    check_file(file)
