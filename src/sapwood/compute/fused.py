"""Norms, gated products, rotary positions and the loss by liger-kernel's Triton kernels, for CUDA: one pass
over memory, where torch's operations make one each.

They are used if the library is installed and, at the start of a process, gives the values and gradients of
their definitions in torch. One that differs, or can't be compiled there, is left out: the reference computes
it, and ``sapwood doctor`` says why.

Two of the kernels write over what they are given. Rotary positions get copies of queries, keys and their
gradients, since others may hold those. The loss writes only over logits that it made itself.
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
from torch.nn.functional import cross_entropy as cross_entropy_of
from torch.nn.functional import gelu as gelu_of
from torch.nn.functional import linear, silu

from sapwood.errors import first_line
from sapwood.machine.device import Device
from sapwood.machine.measure import torch_dtype
from sapwood.machine.selftest import NEAR
from sapwood.machine.shortage import refuse_shortage

LARGEST = 65_536  # numbers of a row, at most: a row is one block of a kernel
EPS = 1e-6  # of the norms that are tried
VOCABULARY = 33_000  # of the head that is tried: a block holds 32,768 tokens at most
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


def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """q: [1, H, T, D]; k: [1, KV, T, D]; cos, sin: [1, T, D], whose halves are equal -> both turned. The
    kernel looks at the left halves only."""
    copies = (one.transpose(1, 2).clone(memory_format=torch.contiguous_format) for one in (q, k))
    turned = _ops("rope").LigerRopeFunction.apply(*(one.transpose(1, 2) for one in copies), cos, sin)
    for one in turned:
        if one.requires_grad:
            one.register_hook(Tensor.clone)
    return turned


def cross_entropy(
    rows: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, softcap: float | None
) -> Tensor:
    """rows: [N, D]; weight: [vocabulary, D], frozen; targets: int64[N], N > 0 -> the sum of N losses, fp32.

    Logits exist for a part of the rows at a time. That part has about as many logits as ``rows`` has numbers.
    """
    function = _ops("fused_linear_cross_entropy").LigerFusedLinearCrossEntropyFunction
    return function.apply(rows, weight, targets, bias, None, -100, 0.0, 0.0, "sum", softcap)[0]


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


def rotary_defined(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """What `rotary` is, in fp32."""
    half = q.shape[-1] // 2
    wide = ((one.float(), torch.cat([-one[..., half:], one[..., :half]], -1).float()) for one in (q, k))
    q, k = (one * cos.float()[:, None] + other * sin.float()[:, None] for one, other in wide)
    return q, k


def cross_entropy_defined(
    rows: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, softcap: float | None
) -> Tensor:
    """What `cross_entropy` is, in fp32."""
    logits = linear(rows.float(), weight.float(), None if bias is None else bias.float())
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    return cross_entropy_of(logits, targets, reduction="sum")


def _try_rotary(x: Tensor, y: Tensor, grad: Tensor) -> tuple[Results, Results]:
    """Six heads of queries, two of keys, with 32 numbers each."""
    angles = grad[:, :16].float().repeat(1, 2)[None]
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    forms: list[Results] = []
    for form in (rotary, rotary_defined):
        q, k = (one.view(1, len(x), -1, 32).transpose(1, 2) for one in (x, y[:, :64]))
        turned = form(q, k, cos, sin)
        flat = torch.cat([one.transpose(1, 2).flatten(2) for one in turned], -1)[0]
        slopes = torch.cat([grad, grad[:, :64]], -1).to(flat.dtype)
        forms.append([*turned, *torch.autograd.grad(flat, (x, y), slopes)])
    return forms[0], forms[1]


def _try_loss(softcap: float | None, x: Tensor, y: Tensor, grad: Tensor) -> tuple[Results, Results]:
    """More tokens than a block of the kernel holds, with a bias."""
    spread = torch.linspace(0.5, 1.5, VOCABULARY, device=x.device)[:, None]
    many = y.detach().float().repeat(-(-VOCABULARY // len(y)), 1)[:VOCABULARY]
    weight = (many * spread * x.shape[1] ** -0.5).to(x.dtype)
    bias, targets = weight[:, 0].clone(), torch.arange(len(x), device=x.device) * (VOCABULARY // len(x))
    values = [form(x, weight, bias, targets, softcap) for form in (cross_entropy, cross_entropy_defined)]
    mine, truth = ([one, *torch.autograd.grad(one, (x,), torch.full_like(one, 0.37))] for one in values)
    return mine, truth


# By operation: x, y, gradient, [T, D] each -> (what the kernels give: the value, then gradients; the truth)
TRIALS = {
    "norm": (partial(_try_norm, False), partial(_try_norm, True)),
    "gated": (partial(_try_gated, False), partial(_try_gated, True)),
    "rotary": (_try_rotary,),
    "loss": (partial(_try_loss, None), partial(_try_loss, 2.0)),
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
                refuse_shortage(error, f"{operation} was tried on the GPU")
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
