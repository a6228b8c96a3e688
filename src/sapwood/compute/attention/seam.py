"""The seam to transformers: inside `packed_attention`, a model attends by the plan that travels beside its
input, by the kernel that suits the device."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from sapwood.compute.attention.compiled import native_attention, quick_rotary, suits
from sapwood.compute.attention.flex import block_mask, flex_segment_attention, refusal
from sapwood.compute.attention.segments import (
    AttentionPlan,
    Rule,
    segment_attention,
    segment_attention_reference,
)
from sapwood.errors import ModelError

NAME = "sapwood_segments"


class _Untold(Enum):
    """The value of an argument that the caller left out, where None says something."""

    UNTOLD = "untold"


UNTOLD = _Untold.UNTOLD
IRRELEVANT = {  # told by some architectures, and without effect here
    *("dropout", "is_causal", "position_ids", "cache_position", "use_cache", "output_attentions"),
    "past_key_values",
}


def cuda_attention(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, rule: Rule) -> Tensor:
    """`segment_attention` for a GPU: FlexAttention, or a dense mask where that can't do what is asked."""
    if refusal(query, value) is not None:
        return segment_attention_reference(query, key, value, plan, rule)
    if rule.window not in plan.masks:
        plan.masks[rule.window] = block_mask(plan.segments, rule.window, query.device)
    mask = plan.masks[rule.window]
    return flex_segment_attention(query, key, value, mask, scale=rule.scale, softcap=rule.softcap)


def cpu_attention(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, rule: Rule) -> Tensor:
    """`segment_attention`, by a compiled kernel where there is one for it."""
    attend = native_attention if suits(query, value, plan.kept) else segment_attention
    return attend(query, key, value, plan, rule)


def _interface(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: AttentionPlan | None = None,
    scaling: float | None = None,
    sliding_window: int | _Untold | None = UNTOLD,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """transformers' attention seam: [1, H, T, D] in, [1, T, H, D] out.

    A layer that is told no window (None) has none, whatever number its module keeps (EXAONE 4). A layer that
    isn't told of windows at all has its module's.
    """
    if segments is None:
        what = f"{type(module).__name__} can't be told which rows a pack holds"
        raise ModelError(what, why="the layer around it doesn't hand on what a model is called with")
    if segments.lead:
        keys, values = segments.lead[module.layer_idx]
        key = torch.cat([keys, key[:, :, keys.shape[2] :]], 2)
        value = torch.cat([values, value[:, :, keys.shape[2] :]], 2)
    _refuse_unknown(module, others)
    attend = cuda_attention if query.device.type == "cuda" else cpu_attention
    rule = Rule(
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=getattr(module, "sliding_window", None) if sliding_window is UNTOLD else sliding_window,
        softcap=softcap,
    )
    out = attend(query[0], key[0], value[0], segments, rule)
    return out.transpose(0, 1)[None], None


def _refuse_unknown(module: Any, others: Mapping[str, Any]) -> None:
    """What an architecture tells its attention and these kernels don't know (attention sinks, a bias on the
    scores) would be silently left out. Raises ModelError with its name."""
    odd = [name for name, value in others.items() if name not in IRRELEVANT and value is not None]
    if others.get("dropout"):
        odd.append("dropout")
    if others.get("is_causal") is False:
        odd.append("is_causal=False")
    if odd:
        raise ModelError(
            f"the attention of {type(module).__name__} isn't supported",
            why=f"it asks for {', '.join(sorted(odd))}, which would be left out of the result",
            mend="take a model of another family",
        )


def register() -> str:
    """Make the kernel known to transformers under `NAME`; its "mask" is None, the plan travels beside it."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, _interface)
    AttentionMaskInterface.register(NAME, _no_mask)
    return NAME


def _no_mask(*_: Any, **__: Any) -> None:
    """The plan says who sees whom."""


@contextmanager
def packed_attention(network: Any) -> Generator[None]:
    """Inside, a transformers model attends by the plan it is given (``segments=``); afterwards as before."""
    before = network.config._attn_implementation
    network.set_attn_implementation(register())
    try:
        with quick_rotary(network):
            yield
    finally:
        network.set_attn_implementation(before)
