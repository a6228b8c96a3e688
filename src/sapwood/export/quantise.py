"""Weights in the types that people run (Q4_K_M and its kind), by llama.cpp's own quantiser.

Which tensor gets which type is llama.cpp's rule (`llama_tensor_get_type` in its ``llama-quant.cpp``), without
an importance matrix, and without its wider types for attention beside 8 experts. Most get the type that the
file is called after, the head and some of v and down a wider one. The gguf package writes the simple types.
For the others this module asks the library that xllamacpp brings, in a process of its own:
``python -m sapwood.export.quantise``.
"""

from __future__ import annotations

import ctypes
import importlib.util
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import ExportError
from sapwood.gguf.table.modules import DECAY, KERNELS, SKIP, STEPS, THREE_KERNELS

FileType = Literal["F16", "Q8_0", "Q4_0", "Q5_0", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_XS"]
FILE_TYPES: tuple[FileType, ...] = get_args(FileType)
NUMBERS = {  # llama.cpp's own for "mostly" these
    "F16": 1, "Q4_0": 2, "Q8_0": 7, "Q5_0": 8, "Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18, "IQ4_XS": 30,
}  # fmt: skip
MOSTLY = {"Q4_K_M": "Q4_K", "Q5_K_M": "Q5_K"}
JOINED = {"Q4_K_M": "Q5_K", "Q5_K_M": "Q6_K"}  # q, k and v as one matrix
IN_256 = {
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "IQ4_XS": "IQ4_NL",
}  # for rows that don't divide by 256
BLOCK = 32
SIMPLE = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")  # the gguf package writes them
HEADER = struct.Struct("<iqq")  # type, rows, columns
PLAIN = (  # routers, norms and learnt positions are small; nothing else computes kernels and Mamba's numbers
    *(".bias", "ffn_gate_inp", "position_embd", "altup_router", "altup_predict_coef", "altup_correct_coef"),
    *("_norm", DECAY, SKIP, STEPS),
    *KERNELS,
    *THREE_KERNELS,
)


def type_of(kind: FileType, tensor: str, shape: tuple[int, ...], layers: int, tied: bool) -> str:
    """GGUF's name of the type of one tensor in a file of ``kind``. ``tensor``: its name, ``blk.3.attn_v``."""
    if len(shape) < 2 or tensor.endswith(PLAIN):
        return "F32"
    wanted = MOSTLY.get(kind, kind)
    if tensor.endswith("attn_qkv"):
        wanted = JOINED.get(kind, wanted)
    if kind not in ("F16", "Q8_0") and _is_wide(kind, tensor, layers, tied):
        wanted = "Q6_K"
    if shape[-1] % 256 and wanted in IN_256:
        wanted = IN_256[wanted]
    return "F16" if shape[-1] % BLOCK else wanted


def _is_wide(kind: FileType, tensor: str, layers: int, tied: bool) -> bool:
    """The head; and in mixed files v and down of some layers."""
    leaf = tensor.rpartition(".")[2]
    if leaf == "output" or (leaf == "token_embd" and tied):
        return True
    return (
        kind in MOSTLY
        and leaf.startswith(("attn_v", "ffn_down"))
        and _wider(int(tensor.split(".")[1]), layers)
    )


def _wider(layer: int, layers: int) -> bool:
    """The first and the last eighth of the layers, and every third between them."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


class Quantiser:
    """Rows of numbers as blocks of a type. A context manager: the process that computes ends with it."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Quantiser:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._child.communicate()  # the process ends when its stdin ends
            self._child = None

    def packed(self, kind: str, values: NDArray[Any]) -> NDArray[np.uint8]:
        """values: float32[…, rows, columns] -> uint8[…, rows, bytes of a row]. Raises ExportError."""
        from gguf.quants import quantize

        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        number = GGMLQuantizationType[kind]
        if kind in SIMPLE:
            return quantize(values, number)
        block, size = GGML_QUANT_SIZES[number]
        columns = values.shape[-1]
        rows = values.size // columns
        child = self._started()
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(HEADER.pack(number, rows, columns) + values.astype("<f4").tobytes())
            child.stdin.flush()
        except BrokenPipeError:
            pass
        raw = child.stdout.read(rows * columns // block * size)
        if len(raw) != rows * columns // block * size:
            raise ExportError(f"llama.cpp couldn't quantise to {kind}", "--type", mend="--type Q8_0")
        return np.frombuffer(raw, np.uint8).reshape(*values.shape[:-1], -1)

    @staticmethod
    def dense(kind: str, blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The numbers of `packed` again, by the gguf package's own reader."""
        from gguf.quants import dequantize

        from gguf import GGMLQuantizationType

        return dequantize(blocks, GGMLQuantizationType[kind]).astype(np.float32)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            command = [sys.executable, "-m", "sapwood.export.quantise"]
            self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self._child


def require_quantiser(kind: FileType) -> None:
    """Raises ExportError, before anything is computed, for a type that needs a library which isn't there."""
    if MOSTLY.get(kind, kind) in SIMPLE and kind not in ("Q4_0", "Q5_0"):
        return
    if _library() is None:
        why = "the xllamacpp that is installed brings no quantiser"
        raise ExportError(f"{kind} can't be written here", "--type", why, "--type Q8_0")


def _library() -> Path | None:
    """The compiled module of xllamacpp, if it has llama.cpp's quantiser."""
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        return None
    found = sorted(Path(spec.origin).parent.glob("xllamacpp*.so")) + sorted(
        Path(spec.origin).parent.glob("xllamacpp*.pyd")
    )
    return found[0] if found and b"ggml_quantize_chunk" in found[0].read_bytes() else None


def main() -> None:
    """Answer rows with blocks until stdin ends."""
    library = _library()
    assert library is not None
    quantise: Any = ctypes.CDLL(str(library)).ggml_quantize_chunk
    quantise.restype = ctypes.c_size_t
    quantise.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64,
        ctypes.c_void_p,
    ]  # fmt: skip
    while len(head := sys.stdin.buffer.read(HEADER.size)) == HEADER.size:
        kind, rows, columns = HEADER.unpack(head)
        values = np.frombuffer(sys.stdin.buffer.read(4 * rows * columns), "<f4")
        blocks = np.empty(4 * rows * columns, np.uint8)  # no type takes more than fp32
        size = quantise(kind, values.ctypes.data, blocks.ctypes.data, 0, rows, columns, None)
        sys.stdout.buffer.write(blocks[:size].tobytes())
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
