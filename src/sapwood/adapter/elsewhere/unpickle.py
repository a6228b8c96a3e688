"""Tensors out of an old adapter's ``.bin``, in a process of its own that can compute and nothing else.

``python -m sapwood.adapter.elsewhere.unpickle`` reads the file from stdin and writes safetensors to stdout.
torch's own restricted reader (``weights_only``) builds tensors and containers and nothing else. In case it
has a hole, the process has given up its rights before the first byte is looked at (`machine.confined`).
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from sapwood.errors import first_line
from sapwood.machine.confined import REFUSED, give_up_rights

MAX_BYTES = 1 << 30


def tensors_of(raw: bytes) -> bytes:
    """The tensors of a pickled state as a safetensors file. Raises ValueError with the reason."""
    import torch
    from safetensors.torch import save

    found: Any = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    if not isinstance(found, dict) or not found:
        raise ValueError(f"it holds a {type(found).__name__}, and no tensors by name")
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or tensor.is_sparse:
            raise ValueError(f"{str(name)[:80]!r} is a {type(tensor).__name__}, no dense tensor")
    return save({name: tensor.detach().clone().contiguous() for name, tensor in found.items()})


def main() -> None:
    import torch

    torch.set_num_threads(1)
    known = io.BytesIO()
    torch.save({"a": torch.zeros(1, dtype=torch.bfloat16)}, known)
    tensors_of(known.getvalue())  # whatever these libraries load late is loaded here
    give_up_rights()
    raw = sys.stdin.buffer.read(MAX_BYTES + 1)
    try:
        if len(raw) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES >> 30} GiB")
        sys.stdout.buffer.write(tensors_of(raw))
        sys.stdout.buffer.flush()
    except Exception as error:  # torch, pickle and zip each have their own
        sys.stderr.write(f"{first_line(error)}\n")
        sys.stderr.flush()
        os._exit(REFUSED)


if __name__ == "__main__":
    main()
