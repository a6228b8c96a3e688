"""nf4, fp4 and int8: linears of bitsandbytes, made and read in one place.

A 4-bit weight is 64 numbers to a scale (arXiv 2305.14314); int8 has one scale a row (arXiv 2208.07339). In
training, bitsandbytes' own kernels unpack both, and the unpacked weight is multiplied, forward and backward.
bitsandbytes itself does the same on a CPU.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from sapwood.base.gguf_weights import Quantise
from sapwood.base.inspect import skeleton
from sapwood.base.network.parts import is_wrapper, kept_dense
from sapwood.base.storage.storages import BITSANDBYTES
from sapwood.config.sections import BaseConfig
from sapwood.errors import ConfigError
from sapwood.types import BaseSpec

LLM_INT8 = {"has_fp16_weights": False, "threshold": 6.0}  # as transformers sets them


def settings_for(config: BaseConfig, dtype: torch.dtype, spec: BaseSpec) -> Any:
    """What tells `from_pretrained` to quantise while it loads; None if the storage is dense."""
    if config.storage not in BITSANDBYTES:
        return None
    from transformers import BitsAndBytesConfig

    _library()
    dense = kept_dense(skeleton(spec)) if is_wrapper(spec.hf_config) else None
    kept = None if dense is None else [re.escape(name) for name in dense]
    if config.storage == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        llm_int8_skip_modules=kept,
        load_in_4bit=True,
        bnb_4bit_quant_type=config.storage,
        bnb_4bit_use_double_quant=config.double_quant,
        bnb_4bit_compute_dtype=dtype,
    )


def quantiser(config: BaseConfig, dtype: torch.dtype) -> Quantise | None:
    """What makes a quantised linear of a dense weight, as `from_pretrained` would; None if the storage is
    dense."""
    if config.storage not in BITSANDBYTES:
        return None
    nf = _library().nn

    def int8(weight: Tensor, bias: nn.Parameter | None) -> nn.Module:
        made = nf.Linear8bitLt(*_size(weight), bias=False, **LLM_INT8, device="meta")
        made.weight = nf.Int8Params(weight.data, requires_grad=False).to("cpu")
        return _finished(made, bias)

    def bits4(weight: Tensor, bias: nn.Parameter | None) -> nn.Module:
        form = {"compress_statistics": config.double_quant, "quant_type": config.storage}
        made = nf.Linear4bit(*_size(weight), bias=False, compute_dtype=dtype, device="meta", **form)
        made.weight = nf.Params4bit(weight.data, requires_grad=False, module=made, **form).to("cpu")
        return _finished(made, bias)

    return int8 if config.storage == "int8" else bits4


def settle(model: nn.Module) -> nn.Module:
    """Make every bitsandbytes linear of a loaded model fit for training and for answers in turn."""
    for module in model.modules():
        if is_quantised(module):
            _steady(module)
    return model


def follow(module: Any) -> None:
    """Take an int8 linear's codes and scales to where its weight went: a module that moves with its parent
    leaves them behind."""
    if is_quantised(module) and getattr(module, "state", None) is not None:
        module.state.CB = module.weight.data
        module.state.SCB = module.state.SCB.to(module.weight.device)


def is_quantised(module: nn.Module) -> bool:
    """True for a linear of bitsandbytes; asking loads nothing."""
    return type(module).__module__.startswith("bitsandbytes.nn")


def _size(weight: Tensor) -> tuple[int, int]:
    return weight.shape[1], weight.shape[0]


def _finished(module: Any, bias: nn.Parameter | None) -> nn.Module:
    module.bias = bias
    module.weight._is_hf_initialized = True  # transformers' initialiser leaves it alone
    _steady(module)
    return module


def _steady(module: Any) -> None:
    """Keep the first answer in eval mode from changing the weights. On processors with bf16 products,
    bitsandbytes then rearranges 4-bit weights in place, for good, and training has no backward pass
    afterwards. int8 moves its scales on first use."""
    if hasattr(module, "support_avx512bf16_for_cpu"):
        module.support_avx512bf16_for_cpu = False
    elif module.weight.CB is not None:
        module.init_8bit_state()


def _library() -> Any:
    try:
        import bitsandbytes
    except ImportError:
        why = f"base.storage {', '.join(BITSANDBYTES)} are its formats"
        mend = "pip install bitsandbytes"
        raise ConfigError("bitsandbytes isn't installed", "base.storage", why, mend) from None
    return bitsandbytes


class QuantisedWeight:
    """A linear of bitsandbytes as a frozen weight (`frozen.FrozenWeight`).

    In eval mode int8 answers by bitsandbytes' own product, which rounds activations to 8 bits as well: plain
    PEFT on it gives the same logits.
    """

    __slots__ = ("module",)

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module

    def forward(self, x: Tensor) -> Tensor:
        if not self.module.training:
            return self.module(x)
        bias = self.module.bias
        return nn.functional.linear(x, self._unpacked(x.dtype), None if bias is None else bias.to(x.dtype))

    def input_grad(self, g: Tensor) -> Tensor:
        return g @ self._unpacked(g.dtype)

    def dense(self) -> Tensor:
        return self._unpacked(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The number format that the weight had before it was packed."""
        state = getattr(self.module.weight, "quant_state", None)
        return torch.float32 if state is None else state.dtype

    def _unpacked(self, dtype: torch.dtype) -> Tensor:
        module = self.module
        state = getattr(module.weight, "quant_state", None)
        if state is None:
            scale = module.state.SCB.unsqueeze(1).mul(1.0 / 127.0)
            return module.state.CB.to(dtype).mul_(scale)
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(module.weight, state).to(dtype)
