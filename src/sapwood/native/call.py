"""How a compiled kernel is called: its arguments' types, pointers, number formats, and memory for sums."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_float, c_int, c_int64, c_void_p
from functools import cache
from typing import Any

import torch
from torch import Tensor

from sapwood.native.build import library
from sapwood.native.workspace import workspace

FORMS = {  # of activations, and of what is kept for the backward pass
    (torch.float32, torch.float32): 0,
    (torch.float32, torch.bfloat16): 1,
    (torch.bfloat16, torch.bfloat16): 2,
}
ARGUMENTS = {  # p: a pointer, i: int, n: int64
    "read_input": "iinnpppppp" + "nppnpn",
    "write_output": "iinnppnpnp",
    "gated_forward": "iinnppippnppp",
    "read_grad": "iinnpppppnpnpnpp",
    "write_grad": "iinnpipnpppppp",
    "gated_backward": "iinnpppnpppnippp",
    "keep_mask": "innpp",
    "transposed": "nnpfp",
    "attention_forward": "iinnnnppppppp",
    "attention_backward": "iinnnnppppppppppp",
    "rotate": "iinnnpppfp",
    "read_logits": "iinnppnffippppp",
    "few_rows": "innnppip",
    "norm_forward": "iinnppfppp",
    "norm_backward": "iinnppppp",
}
TYPES = {"p": c_void_p, "i": c_int, "n": c_int64, "f": c_float}


@cache
def kernel(name: str) -> Callable[..., None]:
    """A compiled kernel. It raises MemoryError if one of its threads got no memory."""
    function, starved = getattr(library(), f"sapwood_{name}"), library().sapwood_starved
    function.argtypes = [TYPES[letter] for letter in ARGUMENTS[name]]
    function.restype = None

    def checked(*arguments: Any) -> None:
        function(*arguments)
        if starved():
            raise MemoryError(f"no memory for what {name} needs beside its tensors")

    return checked


def at(tensor: Tensor | None) -> int | None:
    """The address of a tensor's numbers. The caller holds the tensor until the kernel is done."""
    return None if tensor is None else tensor.data_ptr()


def parts(size: int) -> Tensor:
    """Memory in which each thread adds up its share of a sum. It is allocated here, so that a lack of memory
    is an exception."""
    return workspace("parts", (torch.get_num_threads() * size,), torch.float32, torch.device("cpu"))
