"""LoftQ: an adapter that begins with what the quantisation of its base lost.

One alternating step of arXiv 2310.08659 (algorithm 1): the base stays the plain quantisation of the original
weights W. A and B are the best approximation, at their rank, of the rest W - dense(quantised W). So the
adapter is an ordinary LoRA for the original model, loaded in the same storage. PEFT's own LoftQ needs a GPU
(its device is fixed), and ignores the scale alpha / rank.
"""

from __future__ import annotations

from typing import Any

import torch

from sapwood.adapter.methods import SVD_ROUNDS
from sapwood.base.load import load_base
from sapwood.config.sections import BaseConfig
from sapwood.types import Base


@torch.no_grad()
def start_from_rest(adapted: Any, base: Base) -> None:
    """Set A and B of every adapted linear of the PeftModel ``adapted``. Draws from torch's generator.

    The original weights are loaded beside the quantised ones, in fp32, and dropped again.
    """
    from sapwood.compute.linear.layer import LoraLinear

    original = load_base(base.spec, BaseConfig(model=base.spec.source, storage="fp32")).model
    for name, module in adapted.get_base_model().named_modules():
        if not isinstance(module, LoraLinear):
            continue
        weight = original.get_submodule(name).weight
        rank, scale = module.r[module.adapter], module.scaling[module.adapter]
        rest = weight - module.frozen.dense().to(weight)
        u, s, v = torch.svd_lowrank(rest, rank, niter=SVD_ROUNDS)
        root = (s / scale).sqrt()
        a, b = (getattr(module, part)[module.adapter].weight for part in ("lora_A", "lora_B"))
        a.copy_((v * root).T)
        b.copy_(u * root)
