"""The head of a network as data, and the module that gives the head's input. Both are found by asking the
network for logits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from sapwood.base.network.parts import decoder_of
from sapwood.errors import ModelError
from sapwood.machine.shortage import refuse_shortage
from sapwood.types import BaseSpec, Head

CHECKED_TOKENS = 8192  # of the vocabulary, when the head is compared with the model's own logits
NEAR = 0.02  # of the largest logit: by as much a narrow number format may change a logit
FAR, SMALL = 1e5, 1e-2  # raw logits so large that any cap bounds them, and so small that none does
NEVER = -(2.0**14)  # added to the logit of a token that a network never says: far from all others


class UpToHead(nn.Module):
    """Stands in for the decoder of a network that has layers between decoder and head: from ids to what the
    head reads."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = (network,)  # not a module of this one: its weights are counted where it is

    def forward(self, *args: Any, **told: Any) -> Any:
        network, read = self.network[0], list[Tensor]()

        def catch(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            read.append(inputs[0])
            return (inputs[0][:, :0],)  # logits of no token: they aren't needed here

        hook = network.get_output_embeddings().register_forward_pre_hook(catch)
        try:
            network(*args, **told)
        finally:
            hook.remove()
        return SimpleNamespace(last_hidden_state=read[0])


@dataclass(frozen=True, slots=True)
class _After:
    """What a network does to the raw logits of its head: cap * tanh(z / cap) if capped, times scale. rows:
    logits that are left of them. unsaid: bool[rows], those that it sets to the least number, as Chameleon
    those of pictures; None: none."""

    scale: float
    softcap: float | None
    rows: int
    unsaid: Tensor | None = None


def read_head(network: Any, spec: BaseSpec) -> tuple[Head, nn.Module]:
    """The final projection, and what gives from ids what it reads: the decoder, or all before the head.

    Compared with the network's own logits of two tokens: an unknown factor would spoil the loss. Raises
    ModelError if neither fits.
    """
    ids = torch.arange(2)[None]
    with torch.no_grad():
        logits = network(input_ids=ids, use_cache=False).logits.float()
    if not torch.isfinite(logits).all():
        mend = "the weights are damaged, or too large for base.storage fp16"
        raise ModelError("the base model gives numbers that aren't finite", str(spec.path), mend=mend)
    if network.get_output_embeddings() is not None:
        after = _after(network, ids, logits.shape[-1])
        for backbone in (decoder_of(network), UpToHead(network)):
            scale = _scale(network, _hidden(backbone, ids), logits, after)
            if scale is not None:
                return _projection(network, replace(after, scale=scale)), backbone
    why = "its logits aren't a scaled and capped projection of what its head reads"
    raise ModelError(f"the head of {spec.hf_config.model_type} models isn't supported", str(spec.path), why)


def regrown(head: Head, network: Any) -> Head:
    """``head`` of a network whose vocabulary has grown."""
    rows, unsaid = network.get_output_embeddings().weight.shape[0], None
    if head.bias is not None and (before := head.bias <= NEVER).any():
        unsaid = nn.functional.pad(before, (0, rows - len(before)))
    return replace(
        _projection(network, _After(head.scale, head.softcap, rows, unsaid)), matmul_dtype=head.matmul_dtype
    )


def _projection(network: Any, after: _After) -> Head:
    """The head as it stands. Some have more rows than there are tokens."""
    from sapwood.base.storage.gguf_linear import GgufLinear

    out = network.get_output_embeddings()
    weight = out.packed if isinstance(out, GgufLinear) else out.weight
    bias = getattr(out, "bias", None)
    if after.rows < weight.shape[0]:
        weight, bias = weight[: after.rows], None if bias is None else bias[: after.rows]
    if after.unsaid is not None:
        plain = torch.zeros(after.rows, device=out.weight.device) if bias is None else bias
        bias = plain.masked_fill(after.unsaid.to(plain.device), NEVER)
    return Head(weight, bias, after.scale, after.softcap)


def _after(network: Any, ids: Tensor, rows: int) -> _After:
    """Find out by giving the network raw logits of our own, from far below to far above any that it makes."""
    told: list[Tensor] = []

    def instead(_: nn.Module, __: Any, raw: Tensor) -> Tensor:
        given = torch.full_like(raw, SMALL)
        given[..., 0] = FAR if raw.dtype != torch.float16 else FAR / 10
        told.append(given)
        return given

    hook = network.get_output_embeddings().register_forward_hook(instead)
    try:
        with torch.no_grad():
            found = network(input_ids=ids, use_cache=False).logits[0, -1].float()
    finally:
        hook.remove()
    if not told:  # a network that multiplies by itself
        return _After(1.0, None, rows)
    least = torch.finfo(told[-1].dtype).min
    given, unsaid = told[-1][0, -1].float(), found <= least / 2
    config = network.config.get_text_config()
    scale = _nearest(float(found[1] / given[1]), config)
    highest = float(found[0])
    capped = highest / scale < given[0] / 2
    softcap = _softcap(highest, scale, config) if capped else None
    return _After(scale, softcap, rows, unsaid if unsaid.any() else None)


def _softcap(highest: float, scale: float, config: Any) -> float:
    """What raw logits are capped at. A config names it, or what it is after the factor, if this comes
    first."""
    before = _nearest(highest / scale, config)
    return before if before != highest / scale else _nearest(highest, config) / scale


def _hidden(backbone: nn.Module, ids: Tensor) -> Tensor | None:
    """The decoder's hidden states; None if the decoder needs more than ids."""
    try:
        with torch.no_grad():
            return backbone(input_ids=ids, use_cache=False).last_hidden_state
    except Exception as error:  # each says so in its own way
        refuse_shortage(error, "the head was tried")
        return None


def _scale(network: Any, hidden: Tensor | None, logits: Tensor, after: _After) -> float | None:
    """The factor of the logits, with all that is done to the hidden state before the head; None if the head
    gives other logits."""
    head = _projection(network, after)
    if hidden is None or hidden.shape[-1] != head.weight.shape[-1]:
        return None
    start = 0 if after.unsaid is None else max(0, after.rows - CHECKED_TOKENS)  # the last tokens are said
    part = slice(start, start + CHECKED_TOKENS)
    bias = None if head.bias is None else head.bias[part].to(hidden.dtype)
    wanted = logits[..., part]
    with torch.no_grad():
        found = nn.functional.linear(hidden, head.weight[part].to(hidden.dtype), bias).float()
    if head.softcap is not None:
        found = head.softcap * torch.tanh(found / head.softcap)
    found = found * head.scale
    if after.unsaid is not None:
        said = ~after.unsaid[part]
        found, wanted = found[..., said], wanted[..., said]
    factor = _nearest(float((found * wanted).sum() / (found * found).sum()), network.config.get_text_config())
    fits = (factor * found - wanted).abs().max() <= NEAR * wanted.abs().max()
    alone = head.softcap is None and bias is None
    return factor * head.scale if fits and (factor == 1 or alone) else None


def _nearest(ratio: float, config: Any) -> float:
    """1, or the number of a config, or its inverse, that a measured ratio is nearest to; the ratio itself if
    none is near."""
    if abs(ratio - 1) <= NEAR:
        return 1.0
    told = [float(v) for v in vars(config).values() if isinstance(v, int | float) and v]
    near = min([1.0, *told, *(1 / v for v in told)], key=lambda v: abs(v - ratio))
    return near if abs(near - ratio) <= NEAR * abs(ratio) else ratio
