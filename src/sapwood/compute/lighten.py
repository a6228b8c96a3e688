"""Norms and gated MLPs of a frozen base in a form that keeps less.

A block is replaced only if the new form gives, on random input, exactly the bits that the block itself
gives: nothing is assumed about an architecture.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from sapwood.compute.backend import Backend
from sapwood.compute.mlp import LightMlp, wide_linears
from sapwood.compute.norm import LightNorm, RmsNorm
from sapwood.machine.shortage import refuse_shortage


def lighten(model: nn.Module, backend: Backend) -> int:
    """Replace the forward of every norm and gated MLP that is exactly reproduced. Returns how many were."""
    like = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    replaced = 0
    for module in model.modules():
        light = _light_norm(module, backend) or _light_mlp(module, like, backend)
        if light is not None:
            module.forward = light  # type: ignore[assignment]
            replaced += 1
    return replaced


def _light_norm(module: Any, backend: Backend) -> LightNorm | None:
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    named = "RMSNorm" in type(module).__name__
    if not named or not isinstance(weight, nn.Parameter) or weight.dim() != 1 or eps is None:
        return None
    x = _random(3, len(weight), like=weight)
    if (own := _own(module, x)) is None:
        return None
    for unit_offset in (False, True):
        if torch.equal(RmsNorm.apply(x, weight, eps, unit_offset), own):  # type: ignore[arg-type]
            compiled = backend.takes(len(weight), saved_dtype=weight.dtype)
            return LightNorm(module, eps, unit_offset, compiled, backend)
    return None


@torch.no_grad()
def _light_mlp(module: Any, like: Tensor, backend: Backend) -> LightMlp | None:
    parts: list[Any] = [*wide_linears(module), getattr(module, "down_proj", None)]
    if not all(isinstance(part, nn.Module) for part in parts) or not hasattr(parts[0], "in_features"):
        return None  # the second: Gemma 4's linears for pictures are within modules that clip
    x = _random(3, parts[0].in_features, like=like)
    if (own := _own(module, x)) is None:
        return None
    forms = (LightMlp(module, gelu, backend) for gelu in (False, True))
    return next((light for light in forms if torch.equal(light(x), own)), None)


def _own(module: Any, x: Tensor) -> Tensor | None:
    """What the block itself gives; None for one that takes more than its input, a gate for example, or gives
    more than a tensor."""
    if len(inspect.signature(module.forward).parameters) > 1:
        return None
    try:
        own = module(x)
    except Exception as error:  # each says so in its own way
        refuse_shortage(error, "a gated product was tried")
        return None
    return own if isinstance(own, Tensor) else None


def _random(*shape: int, like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator).to(like.device, like.dtype)
