"""What a GPU, or what is installed beside it, lacks: in one sentence each, what is used instead and what that
costs. Nothing is replaced in silence: `check`, the start of a run and `doctor` say these sentences."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from sapwood.base.inspect import largest
from sapwood.compute.attention import flex, varlen
from sapwood.compute.fused import why_not_fused
from sapwood.machine.device import Device, told


def device_notes(device: Device, hf_config: Any) -> list[str]:
    """All that a person should know of the device for this model, before its weights are loaded."""
    return [*told(device), *lacking(device, hf_config).values()]


def lacking(device: Device, hf_config: Any = None) -> dict[str, str]:
    """A sentence by what it is about: ``bf16``, ``bits``, ``fused``, ``attention``, ``heads``. Empty on a
    CPU. hf_config: of the model, for what its own attention lacks."""
    if device.is_cpu:
        return {}
    found = {
        "bf16": None
        if device.dense_dtype == "bf16"
        else "the card has no bf16: fp16 is used, and a step whose gradients overflow is computed again",
        "bits": None
        if find_spec("bitsandbytes") is not None
        else "bitsandbytes isn't installed: nf4, fp4 and int8 are refused, and 16 bits take about four times "
        "the memory of nf4",
        "fused": _fused(device),
        "attention": _attention(device),
        "heads": None if hf_config is None else _heads(device, hf_config),
    }
    return {about: text for about, text in found.items() if text is not None}


def _fused(device: Device) -> str | None:
    """By reason, since most often all operations have the same one."""
    by_reason: dict[str, list[str]] = {}
    for operation, why in why_not_fused(device).items():
        by_reason.setdefault(why, []).append(operation)
    left = [
        f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} left to torch ({why})"
        for why, names in by_reason.items()
    ]
    return f"{'; '.join(left)}: several passes over memory instead of one" if left else None


def _attention(device: Device) -> str | None:
    by_length, compiled = varlen.why_not(device), flex.why_not(device)
    if by_length is None and compiled is None:
        return None
    if compiled is None:
        return (
            f"FlexAttention; torch's varlen isn't used ({by_length}): "
            "the first pass compiles FlexAttention's kernels for all packs"
        )
    cost = "slower, and layers keep their scores for the backward pass"
    if by_length is None:
        return f"rows that share a beginning attend by plain products ({compiled}): {cost}"
    return f"plain products; FlexAttention isn't used ({compiled}), nor torch's varlen ({by_length}): {cost}"


def _heads(device: Device, hf_config: Any) -> str | None:
    text = hf_config.get_text_config()
    heads = largest(text, "num_attention_heads") or 1
    size = largest(text, "head_dim") or text.hidden_size // heads
    why = flex.odd_size(size)
    if why is None or flex.why_not(device) is not None:  # then `_attention` says it of all models
        return None
    return f"FlexAttention refuses {why}; packs whose rows share a beginning attend by plain products, slower"
