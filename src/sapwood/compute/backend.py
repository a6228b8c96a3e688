"""The one choice: by which form a model's operations are computed.

Each operation has a reference in torch, and at most one compiled form on a device. Tests compare the two, and
the reference with a slow truth of their own (`tests/compute/slow.py`).

linears       compute.linear.reference.Call               compute.linear.compiled.NativeCall
gated MLP     compute.mlp.Gated                           compute.mlp.NativeGatedMlp
norm          compute.norm.RmsNorm                        compute.norm.NativeRmsNorm
rotary        (the architecture's own)                    compute.attention.compiled.Rotated
attention     compute.attention.segments.SegmentAttention compute.attention.compiled.NativeAttention
attention     (on CUDA)                                   compute.attention.flex.flex_attention
loss          compute.loss.read_logits                    native.loss.read_logits
int8 product  base.storage.int8_linear.int8_product       native.ops.read_input
dropout       compute.dropout.keep_mask                   native.ops.keep_mask

On CUDA norms, the products inside of `Gated`, rotary positions and the loss of a frozen dense head are
liger-kernel's if it is installed and proved there (`compute.fused`). Attention over segments that stand
alone is torch's `varlen_attn`, if it is proved there (`varlen.py` beside `flex.py`). These are functions
of the libraries, and not of ours. `compute.lacking` says what of all this is missing.

A `Backend` is made where a model gets its adapter, and handed to whatever is set up for that model. What a
compiled form can't do (odd widths, fp16, a handful of tokens), the reference does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sapwood.compute.attention import flex, varlen
from sapwood.compute.fused import FORMATS, LARGEST, fused_on
from sapwood.machine.device import CPU, Device
from sapwood.native.call import FORMS
from sapwood.native.ops import LANES, MOST_RANKS


@dataclass(frozen=True, slots=True)
class Backend:
    """native: the kernels of `sapwood.native` compute. flex: attention is torch's FlexAttention, compiled.
    varlen: if segments stand alone, it is torch's `varlen_attn`. fused: what liger-kernel computes
    (`compute.fused`)."""

    device: Device
    native: bool = False
    flex: bool = False
    varlen: bool = False
    fused: frozenset[str] = frozenset()

    @staticmethod
    def of(device: Device) -> Backend:
        """The fastest there."""
        return Backend(
            device,
            native=device.compiled,
            flex=flex.why_not(device) is None,
            varlen=varlen.why_not(device) is None,
            fused=fused_on(device),
        )

    @property
    def name(self) -> str:
        return "native" if self.native else "flex" if self.flex else "reference"

    def takes(
        self,
        *columns: int,
        rank: int = 1,
        matmul_dtype: torch.dtype = torch.float32,
        saved_dtype: torch.dtype | None = None,
    ) -> bool:
        """Do the kernels compute on matrices of so many columns, with (one member's) rank, in these formats?
        saved_dtype: of what is kept for the backward pass; that of products if None."""
        formats = (matmul_dtype, saved_dtype or matmul_dtype)
        fit = all(number % LANES == 0 for number in columns) and rank <= MOST_RANKS
        return self.native and formats in FORMS and fit

    def fuses(self, operation: str, x: torch.Tensor, other: torch.Tensor) -> bool:
        """Does a kernel of liger-kernel compute it for these two? A model is set up before it moves to the
        device: what it computes until then is the reference's."""
        fit = x.dtype == other.dtype and x.dtype in FORMATS and x.shape[-1] <= LARGEST
        return operation in self.fused and x.device.type == other.device.type == self.device.kind and fit


REFERENCE = Backend(CPU)
