"""Without a GPU: liger-kernel's kernels by Triton's interpreter, which is chosen before Triton is imported.

``TRITON_INTERPRET=1 python -m tests.compute.interpreted`` prints JSON: what the start-up check refuses; how
far models with these kernels are from the same models without, in logits, gradient and bytes kept; and the
same of the loss, with the most bytes that it held at once.
"""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch.autograd.profiler import profile

from sapwood.base.network.parts import decoder_of
from sapwood.compute import fused
from sapwood.compute.attention.compiled import quick_rotary
from sapwood.compute.backend import REFERENCE, Backend
from sapwood.compute.fused import TRIALS, refused
from sapwood.compute.lighten import lighten
from sapwood.compute.loss import label_loss
from sapwood.compute.mlp import LightMlp
from sapwood.compute.norm import LightNorm
from sapwood.types import Head
from tests.base.tiny import tiny_model
from tests.compute.test_norm import kept_bytes

KERNELS = replace(REFERENCE, fused=frozenset(TRIALS))
MODELS = ("llama", "qwen3", "gemma2", "glm4")  # silu; norms of heads; (1 + w) and gelu; one matrix for two


def of_model(arch: str, backend: Backend, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, int]:
    model = tiny_model(arch).to(dtype).requires_grad_(False)
    inputs = model.get_input_embeddings()(torch.arange(3, 27)[None]).detach()
    assert lighten(model, REFERENCE)  # as a model is, before it moves to its device
    for module in model.modules():
        light = vars(module).get("forward")
        if isinstance(light, LightNorm | LightMlp):
            light.backend = backend
    with quick_rotary(decoder_of(model), backend):
        return kept_bytes(model, inputs)


def distance(arch: str, dtype: torch.dtype) -> dict[str, Any]:
    called: set[str] = set()
    for name in ("rms_norm", "swiglu", "geglu", "rope"):
        found = fused._ops(name)
        for kernel in ("rms_norm_forward", "swiglu_backward", "geglu_backward", "rope_backward"):
            if hasattr(found, kernel):
                setattr(found, kernel, noted(getattr(found, kernel), kernel, called))
    mine, truth = of_model(arch, KERNELS, dtype), of_model(arch, REFERENCE, dtype)
    gaps = [float((a - b).norm() / b.norm()) for a, b in zip(mine[:2], truth[:2], strict=True)]
    return {"logits": gaps[0], "gradient": gaps[1], "kept": [mine[2], truth[2]], "called": sorted(called)}


HEADS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias": {"bias": True},
    "factor": {"bias": True, "scale": 0.25},
    "cap": {"softcap": 3.0},
    "factor behind a cap": {"softcap": 3.0, "scale": 0.25},  # left to the reference
}


def of_loss(options: dict[str, Any], backend: Backend, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Value, gradient of the hidden states, most bytes held: of 50 targets, 4,000 tokens, 256 numbers."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*size, generator=generator) for size in ((1, 50, 256), (4000, 256), (4000,))
    )
    weight = (weight / 16).to(dtype)
    head = Head(
        weight,
        bias.to(dtype) if options.get("bias") else None,
        options.get("scale", 1.0),
        options.get("softcap"),
    )
    hidden = hidden.to(dtype).requires_grad_()
    at = torch.arange(50)
    with profile(profile_memory=True) as seen:
        total = label_loss(hidden, at, at * 79, head, backend).total
        (grad,) = torch.autograd.grad(total * 0.37, hidden)
    events: Any = seen.kineto_results  # their only reader asks for sums
    memory = sorted((e for e in events.events() if e.name() == "[memory]"), key=lambda e: e.start_ns())
    held = accumulate(event.nbytes() for event in memory)
    return total.detach(), grad, torch.tensor(max(held))


def loss_distance(options: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    function, called = fused._ops("fused_linear_cross_entropy"), set[str]()
    name = "fused_linear_cross_entropy_forward"
    usual = getattr(function, name)
    setattr(function, name, noted(usual, name, called))
    mine, truth = of_loss(options, KERNELS, dtype), of_loss(options, REFERENCE, dtype)
    setattr(function, name, usual)
    gaps = [
        float((a.double() - b.double()).norm() / b.double().norm()) for a, b in zip(mine, truth, strict=True)
    ]
    return {
        "value": gaps[0],
        "gradient": gaps[1],
        "peak": [int(mine[2]), int(truth[2])],
        "called": bool(called),
    }


def written_over() -> list[str]:
    """Of what `fused.rotary` is given, and of the gradients that come to it: which changed."""
    generator = torch.Generator().manual_seed(0)
    q, k, *grads = (
        torch.randn(1, 9, heads, 32, generator=generator).transpose(1, 2) for heads in (6, 2, 6, 2)
    )
    angles = torch.randn(1, 9, 16, generator=generator).repeat(1, 1, 2)
    given = {"q": q, "k": k, "gradient of q": grads[0], "gradient of k": grads[1]}
    before = {name: one.clone() for name, one in given.items()}
    turned = fused.rotary(q.requires_grad_(), k.requires_grad_(), angles.cos(), angles.sin())
    torch.autograd.backward(turned, grads)
    return [name for name, one in given.items() if not torch.equal(one.detach(), before[name])]


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
    # A large block takes seconds here. Logits of one row still need several.
    fused._ops("fused_linear_cross_entropy").MAX_FUSED_SIZE, fused.VOCABULARY = 512, 700
    for name in ("geglu", "cross_entropy"):
        fused._ops(name).tanh = lambda x: 2.0 * language.sigmoid(2.0 * x) - 1.0


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
    losses = {
        f"{name} {dtype}": loss_distance(head, getattr(torch, dtype))
        for name, head in HEADS.items()
        for dtype in formats
    }
    told = {"refused": found, "models": models, "losses": losses, "written over": written_over()}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
