from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf.quants import quantize
from hypothesis import given, settings
from hypothesis import strategies as st

import gguf
from sapwood.errors import ModelError
from sapwood.gguf.file import is_gguf, read_gguf
from tests.gguf.raw_gguf import ARCH, MALFORMED, build, key, tensor, text
from tests.gguf.tiny_gguf import tiny_gguf

PACKED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16", "F16", "F32")


GOOD = build(
    [ARCH, key("a", 9, struct.pack("<IQ", 8, 2) + text("x") + text("yé")), key("b", 7, b"\1")],
    [tensor("t", (4, 2)), tensor("u", (32,), 8, 32)],
    struct.pack("<8f", *range(8)) + b"\0" * 34,
)


def read(tmp_path: Path, content: bytes) -> Any:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    return read_gguf(path)


def test_a_small_file_is_read_as_written(tmp_path: Path) -> None:
    file = read(tmp_path, GOOD)
    assert file.metadata == {"general.architecture": "llama", "a": ["x", "yé"], "b": True}
    assert file.architecture == "llama"
    np.testing.assert_array_equal(file.tensors["t"].dense(), [[0, 1, 2, 3], [4, 5, 6, 7]])
    np.testing.assert_array_equal(file.tensors["t"].rows(1, 2).dense(np.float16), [[4, 5, 6, 7]])
    assert file.tensors["u"].type == "Q8_0"
    assert is_gguf(file.path)
    assert not is_gguf(tmp_path)


def test_every_value_equals_the_gguf_packages_reader(tmp_path: Path) -> None:
    path, _ = tiny_gguf("gemma2", tmp_path / "m.gguf", kind="Q8_0")
    ours, theirs = read_gguf(path), gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in ours.metadata.items()}
    assert plain == fields
    for other in theirs.tensors:
        mine = ours.tensors[other.name]
        assert mine.shape == tuple(int(n) for n in reversed(other.shape))
        assert mine.type == other.tensor_type.name
        np.testing.assert_array_equal(np.asarray(mine.data).ravel(), other.data.view(np.uint8).ravel())


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("rows", [1, 7, 96])
def test_dense_equals_the_gguf_package(tmp_path: Path, kind: str, rows: int) -> None:
    values = np.random.default_rng(0).normal(size=(rows, 64)).astype(np.float32)
    code = gguf.GGMLQuantizationType[kind]
    packed = quantize(values, code)
    file = read(tmp_path, build([], [tensor("t", (64, rows), int(code))], packed.tobytes()))
    np.testing.assert_array_equal(file.tensors["t"].dense(), gguf.dequantize(packed, code))


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "TQ1_0"])
def test_dense_of_packed_bytes_equals_the_gguf_package(tmp_path: Path, kind: str) -> None:
    code = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[code]
    # small exponents in every byte, so that scales are finite whichever bytes hold them
    packed = np.random.default_rng(0).integers(0, 60, (48, 512 // block * size)).astype(np.uint8)
    file = read(tmp_path, build([], [tensor("t", (512, 48), int(code))], packed.tobytes()))
    np.testing.assert_array_equal(file.tensors["t"].dense(), gguf.dequantize(packed, code))


def test_a_type_that_cannot_be_unpacked_is_named(tmp_path: Path) -> None:
    code = gguf.GGMLQuantizationType.Q8_1
    block, size = gguf.GGML_QUANT_SIZES[code]
    file = read(tmp_path, build([], [tensor("t", (block,), int(code))], b"\0" * size))
    with pytest.raises(ModelError, match="Q8_1"):
        file.tensors["t"].dense()


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    content, message = MALFORMED[name]
    with pytest.raises(ModelError, match=message) as caught:
        read(tmp_path, content)
    assert "model.gguf" in str(caught.value)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    for length in range(len(GOOD)):
        with pytest.raises(ModelError):
            read(tmp_path, GOOD[:length])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_flipped_bytes_give_a_file_or_a_model_error(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    content = bytearray(GOOD)
    for at, value in flips:
        content[at] = value
    try:
        file = read(tmp_path_factory.getbasetemp(), bytes(content))
    except ModelError:
        return
    for found in file.tensors.values():
        found.dense()


def test_an_absent_file_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="can't be read"):
        read_gguf(tmp_path / "none.gguf")
