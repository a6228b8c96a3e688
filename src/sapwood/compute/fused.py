"""Norms and gated products by liger-kernel's Triton kernels, for CUDA: one pass over memory, where torch's
operations make one each.

They are used where the library is installed and, at the start of a process, gives the values and gradients of
their definitions in torch. One that differs, or can't be compiled there, is left out: the reference computes
it, and ``sapwood doctor`` says why. Two more kernels of the library are not taken. Its rotary writes over the
queries and keys that it is given, which others may hold; its loss knows no weight of a target and no factor
of the logits, and `compute.loss` never holds all logits either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu as gelu_of
from torch.nn.functional import silu

from sapwood.errors import first_line
from sapwood.machine.device import Device
from sapwood.machine.measure import torch_dtype
from sapwood.machine.selftest import NEAR

LARGEST = 65_536  # numbers of a row, at most: a row is one block of a kernel
EPS = 1e-6  # of the norms that are tried
FORMATS = (torch.float32, torch.bfloat16, torch.float16)
Results = list[Tensor]


def installed() -> bool:
    return find_spec("liger_kernel") is not None and find_spec("triton") is not None


@cache
def _ops(name: str) -> Any:
    return import_module(f"liger_kernel.ops.{name}")


def rms_norm(x: Tensor, weight: Tensor, eps: float, unit_offset: bool) -> Tensor:
    """As `compute.norm.RmsNorm`, of one format. It keeps what that keeps: x, and one number a token."""
    casts = "gemma" if unit_offset else "llama"
    return _ops("rms_norm").LigerRMSNormFunction.apply(x, weight, eps, float(unit_offset), casts, False)


def gated(gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
    """[..., F] twice -> act(gate) * up. No gradient comes through: `gated_backward` computes it."""
    forward = _ops("geglu").geglu_forward if gelu else _ops("swiglu").swiglu_forward
    return forward(gate.contiguous(), up.contiguous())[2]


def gated_backward(grad: Tensor, gate: Tensor, up: Tensor, gelu: bool) -> tuple[Tensor, Tensor]:
    """(gradient of gate, of up). The kernels write over their inputs: they are given copies."""
    back = _ops("geglu").geglu_backward if gelu else _ops("swiglu").swiglu_backward
    copies = (one.clone(memory_format=torch.contiguous_format) for one in (gate, up))
    return back(*copies, grad.contiguous())


# --- which of them are used -------------------------------------------------------------------------------


def norm_defined(x: Tensor, weight: Tensor, eps: float, unit_offset: bool) -> Tensor:
    """What `rms_norm` is, in fp32."""
    scale = (x.float().square().mean(-1, keepdim=True) + eps).rsqrt()
    return (x.float() * scale * (weight.float() + float(unit_offset))).to(x.dtype)


def gated_defined(gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
    """What `gated` is."""
    return (gelu_of(gate, approximate="tanh") if gelu else silu(gate)) * up


def _try_norm(unit_offset: bool, x: Tensor, y: Tensor, grad: Tensor) -> tuple[Results, Results]:
    forms = (form(x, y[0].detach(), EPS, unit_offset) for form in (rms_norm, norm_defined))
    mine, truth = ([value, *torch.autograd.grad(value, (x,), grad)] for value in forms)
    return mine, truth


def _try_gated(gelu: bool, gate: Tensor, up: Tensor, grad: Tensor) -> tuple[Results, Results]:
    value = gated_defined(gate, up, gelu)
    truth = [value, *torch.autograd.grad(value, (gate, up), grad)]
    gate, up = gate.detach(), up.detach()
    return [gated(gate, up, gelu), *gated_backward(grad, gate, up, gelu)], truth


# By operation: x, y, gradient, [T, D] each -> (what the kernels give: the value, then gradients; the truth)
TRIALS = {
    "norm": (partial(_try_norm, False), partial(_try_norm, True)),
    "gated": (partial(_try_gated, False), partial(_try_gated, True)),
}


def differs(operation: str, place: str, dtype: str) -> float:
    """By how much of the norm its values or gradients are away from those of its definition, at most."""
    generator = torch.Generator().manual_seed(0)
    gaps: list[float] = []
    for trial in TRIALS[operation]:
        drawn = [torch.randn(37, 192, generator=generator).to(place, getattr(torch, dtype)) for _ in range(3)]
        mine, truth = trial(drawn[0].requires_grad_(), drawn[1].requires_grad_(), drawn[2])
        pairs = (
            (one.detach().double(), other.detach().double()) for one, other in zip(mine, truth, strict=True)
        )
        gaps += [float((one - other).norm() / other.norm()) for one, other in pairs]
    return max(gaps, key=lambda gap: math.inf if math.isnan(gap) else gap)


@cache
def refused(place: str, dtypes: Sequence[str]) -> dict[str, str]:
    """Why an operation is left to the reference, by its name. Tried once a process."""
    if not installed():
        return dict.fromkeys(TRIALS, "liger-kernel isn't installed")
    found: dict[str, str] = {}
    for operation in TRIALS:
        for dtype in dtypes:
            try:
                gap = differs(operation, place, dtype)
            except Exception as error:  # a compiler's, a driver's or the library's: each says so in its way
                found[operation] = f"{dtype}: {first_line(error)}"
                break
            if not gap <= NEAR[dtype]:  # NaN too
                found[operation] = f"{dtype}: {gap:.2g} apart"
                break
    return found


def why_not_fused(device: Device) -> dict[str, str]:
    """`refused` on that device, in fp32 and the format of its bases. Empty on a CPU, whose kernels are our
    own."""
    if device.is_cpu:
        return {}
    names = ("fp32", device.dense_dtype or "fp32") if installed() else ()
    return refused(str(device), tuple(str(torch_dtype(name)).removeprefix("torch.") for name in names))


def fused_on(device: Device) -> frozenset[str]:
    """The operations that are computed by these kernels there."""
    return frozenset() if device.is_cpu else frozenset(TRIALS) - set(why_not_fused(device))
