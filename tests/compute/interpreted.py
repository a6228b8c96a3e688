"""Without a GPU: liger-kernel's kernels by Triton's interpreter, which is chosen before Triton is imported.

``TRITON_INTERPRET=1 python -m tests.compute.interpreted`` prints JSON: what the start-up check refuses, and
how far models with these kernels are from the same models without, in logits, gradient and bytes kept.
"""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import torch

from sapwood.compute import fused
from sapwood.compute.backend import REFERENCE, Backend
from sapwood.compute.fused import TRIALS, refused
from sapwood.compute.lighten import lighten
from sapwood.compute.mlp import LightMlp
from sapwood.compute.norm import LightNorm
from tests.base.tiny import tiny_model
from tests.compute.test_norm import kept_bytes

KERNELS = replace(REFERENCE, fused=frozenset(TRIALS))
MODELS = ("llama", "qwen3", "gemma2", "glm4")  # silu; norms of heads; (1 + w) and gelu; one matrix for two


def of_model(arch: str, backend: Backend, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, int]:
    model = tiny_model(arch).to(dtype).requires_grad_(False)
    inputs = model.get_input_embeddings()(torch.arange(3, 60)[None]).detach()
    assert lighten(model, REFERENCE)  # as a model is, before it moves to its device
    for module in model.modules():
        light = vars(module).get("forward")
        if isinstance(light, LightNorm | LightMlp):
            light.backend = backend
    return kept_bytes(model, inputs)


def distance(arch: str, dtype: torch.dtype) -> dict[str, Any]:
    called: set[str] = set()
    for name in ("rms_norm", "swiglu", "geglu"):
        found = fused._ops(name)
        for kernel in ("rms_norm_forward", "swiglu_backward", "geglu_backward"):
            if hasattr(found, kernel):
                setattr(found, kernel, noted(getattr(found, kernel), kernel, called))
    mine, truth = of_model(arch, KERNELS, dtype), of_model(arch, REFERENCE, dtype)
    gaps = [float((a - b).norm() / b.norm()) for a, b in zip(mine[:2], truth[:2], strict=True)]
    return {"logits": gaps[0], "gradient": gaps[1], "kept": [mine[2], truth[2]], "called": sorted(called)}


def noted(kernel: Any, name: str, called: set[str]) -> Any:
    def call(*given: Any, **named: Any) -> Any:
        called.add(name)
        return kernel(*given, **named)

    return call


def mend_interpreter() -> None:
    """Two things of compiled kernels that the interpreter lacks. A float that a kernel is called with is a
    scalar in fp32, and not a float of Python. Functions of CUDA's libdevice have no body outside of it."""
    language, interpreter = import_module("triton.language"), import_module("triton.runtime.interpreter")
    usual = interpreter._implicit_cvt

    def convert(given: Any) -> Any:
        if not isinstance(given, float):
            return usual(given)
        handle = interpreter.TensorHandle(np.array([given], np.float32), language.float32)
        return language.tensor(handle, language.float32)

    interpreter._implicit_cvt = convert
    fused._ops("rms_norm").rsqrt = lambda x: 1.0 / language.sqrt(x)
    fused._ops("geglu").tanh = lambda x: 2.0 * language.sigmoid(2.0 * x) - 1.0


def main() -> None:
    mend_interpreter()
    formats = (
        "float32",
        "float16",
    )  # the interpreter multiplies two numbers of bf16 as if they were integers
    found = {dtype: refused("cpu", (dtype,)) for dtype in formats}
    models = {
        f"{arch} {dtype}": distance(arch, getattr(torch, dtype)) for arch in MODELS for dtype in formats
    }
    print(json.dumps({"refused": found, "models": models}))


if __name__ == "__main__":
    main()
