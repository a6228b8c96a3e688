"""The seam to transformers: inside `packed_attention`, a model attends by the plan that travels beside its
input, by the form that its backend names."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sapwood.base.network.parts import decoder_of
from sapwood.compute.attention import varlen
from sapwood.compute.attention.compiled import native_attention, quick_rotary
from sapwood.compute.attention.flex import flex_attention, refusal
from sapwood.compute.attention.segments import AttentionPlan, Rule, segment_attention
from sapwood.compute.backend import Backend
from sapwood.errors import ModelError

NAME = "sapwood"


class _Untold(Enum):
    """The value of an argument that the caller left out, if None says something."""

    UNTOLD = "untold"


UNTOLD = _Untold.UNTOLD
IRRELEVANT = {  # told by some architectures, and without effect here
    *("dropout", "is_causal", "position_ids", "cache_position", "use_cache", "output_attentions"),
    "past_key_values",
}


WORDS = {  # for what an architecture tells its attention
    **dict.fromkeys(("s_aux", "sinks"), "attention sinks"),
    "position_bias": "a bias by distance",
    "input_ids": "the tokens themselves",
    "is_causal": "a look ahead",
    "dropout": "dropout of the scores",
}


def attend(
    query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, rule: Rule, backend: Backend
) -> Tensor:
    """query: [H, T, D]; key, value: [KV, T, D] -> [H, T, D], by the backend's form; by the reference if
    that can't do these heads."""
    dim = query.shape[-1]
    in_order = value.shape[-1] == dim and query.stride(-1) == value.stride(-1) == 1
    if in_order and backend.takes(dim, matmul_dtype=query.dtype, saved_dtype=plan.saved_dtype):
        return native_attention(query, key, value, plan, rule)
    if backend.varlen and varlen.refusal(query, value, plan, rule) is None:
        return varlen.varlen_attention(query, key, value, plan, rule)
    if backend.flex and refusal(query, value) is None:
        return flex_attention(query, key, value, plan, rule)
    return segment_attention(query, key, value, plan, rule)


def _interface(
    backend: Backend,
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
        what = "this model's attention can't keep the rows of a pack apart"
        why = "its layers don't pass on to attention which token belongs to which row"
        raise ModelError(what, why=why)
    if segments.lead:
        keys, values = segments.lead[module.layer_idx]
        key = torch.cat([keys, key[:, :, keys.shape[2] :]], 2)
        value = torch.cat([values, value[:, :, keys.shape[2] :]], 2)
    _refuse_unknown(others)
    rule = Rule(
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=getattr(module, "sliding_window", None) if sliding_window is UNTOLD else sliding_window,
        softcap=softcap,
    )
    out = attend(query[0], key[0], value[0], segments, rule, backend)
    return out.transpose(0, 1)[None], None


def _refuse_unknown(others: Mapping[str, Any]) -> None:
    """What an architecture tells its attention and these kernels don't know (attention sinks, a bias on the
    scores) would be silently left out. Raises ModelError that says what it is."""
    odd = [name for name, value in others.items() if name not in IRRELEVANT and value is not None]
    if others.get("dropout"):
        odd.append("dropout")
    if others.get("is_causal") is False:
        odd.append("is_causal")
    if odd:
        raise ModelError(
            "sapwood can't compute this model's attention for packed rows",
            why=f"the model also uses {', '.join(sorted(WORDS.get(name, name) for name in odd))}",
            mend="take a model of another family",
        )


def is_packed(implementation: str) -> bool:
    """Is this a name that `register` gave?"""
    return implementation.startswith(f"{NAME}_")


def register(backend: Backend) -> str:
    """Make the backend's attention known to transformers, under the name that this returns. Its "mask" is
    None, the plan travels beside it."""
    from transformers import AttentionInterface, AttentionMaskInterface

    name = f"{NAME}_{backend.name}"
    AttentionInterface.register(name, partial(_interface, backend))
    AttentionMaskInterface.register(name, _no_mask)
    return name


def _no_mask(*_: Any, **__: Any) -> None:
    """The plan says who sees whom."""


@contextmanager
def packed_attention(network: Any, backend: Backend) -> Generator[None]:
    """Inside, a transformers model attends by the plan it is given (``segments=``); afterwards as before."""
    decoder: Any = decoder_of(network)
    before = decoder.config._attn_implementation
    decoder.set_attn_implementation(register(backend))
    try:
        with quick_rotary(decoder, backend):
            yield
    finally:
        decoder.set_attn_implementation(before)
