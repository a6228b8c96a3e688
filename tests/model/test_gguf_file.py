from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import quantize
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.errors import ModelError
from sapwood.model.gguf_file import is_gguf, read_gguf
from tests.model.tiny_gguf import tiny_gguf

PACKED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16", "F16", "F32")


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def build(
    keys: list[bytes] = [],  # noqa: B006
    tensors: list[bytes] = [],  # noqa: B006
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    num_keys: int | None = None,
    num_tensors: int | None = None,
) -> bytes:
    head = magic + struct.pack(
        "<IQQ",
        version,
        len(tensors) if num_tensors is None else num_tensors,
        len(keys) if num_keys is None else num_keys,
    )
    table = head + b"".join(keys) + b"".join(tensors)
    return table + b"\0" * (-len(table) % 32) + data


ARCH = key("general.architecture", 8, text("llama"))
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


HUGE = 2**60
MALFORMED = {
    "empty": (b"", "shorter than the header"),
    "another magic": (build(magic=b"GGML"), "not a GGUF file"),
    "version 1": (build(version=1), "version 1"),
    "big-endian": (build(version=3 << 24), "big-endian"),
    "2^60 keys": (build(num_keys=HUGE), "keys"),
    "2^60 tensors": (build(num_tensors=HUGE), "tensors"),
    "fewer keys than promised": (build([ARCH], num_keys=2), "name of 0 bytes"),
    "key name of 2^60 bytes": (build([struct.pack("<Q", HUGE) + b"x" * 30]), "name of"),
    "string of 2^60 bytes": (build([text("k") + struct.pack("<IQ", 8, HUGE)]), "past the end"),
    "array of 2^60 strings": (build([key("k", 9, struct.pack("<IQ", 8, HUGE))]), "strings in k"),
    "array of 2^61 doubles": (build([key("k", 9, struct.pack("<IQ", 12, 2 * HUGE))]), "elements in k"),
    "string in an array past the end": (
        build([key("k", 9, struct.pack("<IQQ", 8, 1, HUGE) + b"\0" * 8)]),
        "runs past the end",
    ),
    "array of arrays": (
        build([key("k", 9, struct.pack("<IQIQ", 9, 1, 9, 1) + b"\0" * 64)]),
        "array of type 9",
    ),
    "unknown value type": (build([key("k", 99, b"\0" * 8)]), "unknown type 99"),
    "truth value of 2": (build([key("k", 7, b"\2")]), "truth values"),
    "key not UTF-8": (build([key("k", 8, text(b"\xff\xfe"))]), "UTF-8"),
    "string in an array not UTF-8": (
        build([key("k", 9, struct.pack("<IQ", 8, 1) + text(b"\xff"))]),
        "UTF-8",
    ),
    "key twice": (build([ARCH, ARCH]), "twice"),
    "tensor twice": (build([], [tensor("t", (8,)), tensor("t", (8,), 0, 32)], b"\0" * 64), "twice"),
    "rank 0": (build([], [tensor("t", ())], b"\0" * 64), "dimensions"),
    "rank 9": (build([], [tensor("t", (1,) * 9)], b"\0" * 64), "dimensions"),
    "size 0": (build([], [tensor("t", (0, 4))], b"\0" * 64), "shape"),
    "sizes that overflow 64 bits": (
        build([], [tensor("t", (2**32, 2**32))], b"\0" * 64),
        "larger than the file",
    ),
    "unknown tensor type": (build([], [tensor("t", (32,), 999)], b"\0" * 64), "unknown type"),
    "row of half a block": (build([], [tensor("t", (16,), 8)], b"\0" * 64), "blocks of 32"),
    "offset not aligned": (build([], [tensor("t", (4,), 0, 7)], b"\0" * 64), "multiple of 32"),
    "offset past the end": (build([], [tensor("t", (4,), 0, HUGE)], b"\0" * 64), "past the end"),
    "data cut": (build([], [tensor("t", (24,))], b"\0" * 64), "past the end"),
    "tensors over each other": (
        build([], [tensor("t", (16,)), tensor("u", (16,), 0, 32)], b"\0" * 128),
        "lies over",
    ),
    "alignment 0": (build([key("general.alignment", 4, struct.pack("<I", 0))]), "alignment"),
    "alignment 2^31": (build([key("general.alignment", 4, struct.pack("<I", 2**31))]), "alignment"),
    "alignment as text": (build([key("general.alignment", 8, text("32"))]), "alignment"),
}


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
