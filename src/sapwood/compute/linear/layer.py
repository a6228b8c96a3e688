"""A linear with its adapter, as PEFT knows it and as the fast path computes it.

`LoraLinear` is registered through PEFT's custom-module map, so the adapter's format, names and every other
tool of PEFT stay as they are; PEFT's own forward is the reference that the tests compare with. To import this
module is to import PEFT, which takes seconds: others do so where they need it.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor, nn

from sapwood.base.storage.frozen import FrozenWeight, freeze_together
from sapwood.compute.backend import Backend
from sapwood.compute.dropout import DropoutClock
from sapwood.compute.linear.group import InputGroup


class LoraLinear(PeftLinear):
    """PEFT's LoRA linear with the fast forward. Falls back to PEFT's own whenever the case is not the plain
    one."""

    group: InputGroup | None = None
    frozen: FrozenWeight

    @property
    def adapter(self) -> str:
        return self.active_adapters[0]

    @property
    def sizes(self) -> tuple[int, int]:
        base: Any = self.get_base_layer()
        return base.in_features, base.out_features

    @property
    def rate(self) -> float:
        dropout = self.lora_dropout[self.adapter]
        return dropout.p if isinstance(dropout, nn.Dropout) else 0.0

    @property
    def bias_is_trained(self) -> bool:
        bias: Any = getattr(self.base_layer, "bias", None)
        return bias is not None and bias.requires_grad

    def is_plain(self) -> bool:
        """One active LoRA, neither merged nor switched off, no variant (DoRA and the like), no bias of its
        own, and none of the base trained."""
        return (
            len(self.active_adapters) == 1
            and self.adapter in self.lora_A
            and self.adapter not in self.lora_variant
            and not self.lora_bias[self.adapter]
            and not self.bias_is_trained
            and not self.disable_adapters
            and not self.merged
        )

    def is_fast(self) -> bool:
        return self.group is not None and self.is_plain()

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.group is None or args or kwargs or not self.is_plain():
            return super().forward(x, *args, **kwargs)
        return self.group.output(self, x)


def speed_up(
    model: nn.Module,
    clock: DropoutClock,
    backend: Backend,
    matmul_dtype: torch.dtype | None,
    storage_dtype: torch.dtype,
) -> list[InputGroup]:
    """Give every `LoraLinear` of ``model`` its group. Which modules share an input is read from the model
    itself, by one forward pass over two tokens."""
    modules = [module for module in model.modules() if isinstance(module, LoraLinear)]
    readers: list[tuple[Tensor, bool, list[LoraLinear]]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        learns = torch.is_grad_enabled()  # some layers choose tokens without a gradient
        if readers and readers[-1][0] is inputs[0] and readers[-1][1] == learns:
            readers[-1][2].append(module)  # type: ignore[arg-type]
        else:
            readers.append((inputs[0], learns, [module]))  # type: ignore[list-item]

    hooks = [module.register_forward_pre_hook(note) for module in modules]
    try:
        with torch.enable_grad():
            device = next(model.parameters()).device
            model(input_ids=torch.zeros(1, 2, dtype=torch.int64, device=device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    groups: list[InputGroup] = []
    for index, (_, _, members) in enumerate(readers):
        try:
            frozen = freeze_together([module.get_base_layer() for module in members])
        except TypeError:  # an architecture's own linear: PEFT's forward computes it
            continue
        compiled = backend.takes(
            *(size for m in members for size in m.sizes),
            rank=max(m.r[m.adapter] for m in members),
            matmul_dtype=matmul_dtype or storage_dtype,
            saved_dtype=storage_dtype,
        )
        groups.append(InputGroup(members, index, clock, matmul_dtype, storage_dtype, compiled))
        for module, weight in zip(members, frozen, strict=True):
            module.frozen, module.group = weight, groups[-1]
    return groups
