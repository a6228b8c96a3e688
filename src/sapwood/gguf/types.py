"""Which types of GGUF blocks can be trained on while packed. Only names are here, so that importing loads no
torch."""

from __future__ import annotations

from sapwood.gguf.file import GgufFile

PACKED_TYPES = (
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4",
    "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
)  # fmt: skip


def unknown_types(file: GgufFile) -> list[str]:
    """Types of the file's matrices that `gguf_blocks` can't unpack."""
    kinds = {tensor.type for tensor in file.tensors.values() if len(tensor.shape) > 1}
    return sorted(kinds - set(PACKED_TYPES))
