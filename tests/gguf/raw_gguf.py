"""GGUF files made byte by byte, the malformed ones too."""

from __future__ import annotations

import struct


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
HUGE = 2**60

# what is wrong -> the file, and what the refusal says
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
