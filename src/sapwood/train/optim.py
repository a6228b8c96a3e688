"""Optimizers, and their state keyed by parameter name: no pickle, no positions."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sapwood.config.sections import TrainConfig
from sapwood.errors import StorageError
from sapwood.train.schedule import Cursor

BLOCKWISE_FROM = 4096  # elements from which on bitsandbytes keeps 8-bit moments, a scale for each block
FASTER = "lora_B"  # what LoRA+ gives the higher rate


@dataclass(slots=True)
class TrainState:
    """What changes while training, besides the adapter itself.

    step: finished optimizer steps. evaluated: the last step whose held-out loss was recorded, -1 for none.
    losses: the first and the newest held-out loss; None before the first evaluation.
    best: step of the adapter's best evaluation, and what it was judged by; stale: evaluations since.
    """

    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    kept: Moments
    step: int = 0
    cursor: Cursor = field(default_factory=Cursor)
    evaluated: int = -1
    losses: tuple[float, float] | None = None
    best: tuple[int, float] | None = None
    stale: int = 0

    def measured(self, loss: float, judged: float) -> None:
        """Note a held-out loss at this step, and the figure that the step is judged by (the lower, the
        better). Step 0 is before training, and never the best."""
        self.evaluated = self.step
        self.losses = (self.losses[0] if self.losses else loss, loss)
        if self.best is None or judged < self.best[1]:
            self.best = (self.step, judged) if self.step else None
            self.stale = 0
        else:
            self.stale += 1

    def set_rate(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["ratio"]


@dataclass(frozen=True, slots=True)
class Moments:
    """What an optimizer keeps for a parameter besides the number of steps: the names of its tensors.

    flat: the same for a parameter of fewer than two dimensions, if it differs; blocks: what comes with each
    of ``names`` from `BLOCKWISE_FROM` elements on. integer_step: the number of steps is an int and not a
    tensor.
    """

    names: tuple[str, ...]
    flat: tuple[str, ...] | None = None
    blocks: tuple[str, ...] = ()
    integer_step: bool = False

    def of(self, parameter: Tensor) -> tuple[str, ...]:
        if self.flat is not None and parameter.dim() < 2:
            return self.flat
        return self.names + (self.blocks if parameter.numel() >= BLOCKWISE_FROM else ())

    def step(self, number: int) -> int | Tensor:
        return number if self.integer_step else torch.tensor(float(number))


TWO = ("state1", "state2")
TWO_BLOCKS = ("qmap1", "qmap2", "absmax1", "absmax2")
MOMENTS = {
    "adamw": Moments(("exp_avg", "exp_avg_sq")),  # arXiv 1711.05101
    "adamw-8bit": Moments(TWO, blocks=TWO_BLOCKS, integer_step=True),  # arXiv 2110.02861
    "paged-adamw": Moments(TWO, integer_step=True),
    "paged-adamw-8bit": Moments(TWO, blocks=TWO_BLOCKS, integer_step=True),
    "adafactor": Moments(("row_var", "col_var"), flat=("variance",)),  # arXiv 1804.04235
    "lion": Moments(("state1",), integer_step=True),  # arXiv 2302.06675
    "lion-8bit": Moments(("state1",), blocks=("qmap1", "absmax1"), integer_step=True),
    "sgd": Moments(()),
}


def new_state(
    parameters: Mapping[str, nn.Parameter], config: TrainConfig, b_ratio: float = 1.0
) -> TrainState:
    """A fresh optimizer over what is trained. ``b_ratio``: LoRA+ (arXiv 2402.12354) lets B learn so many
    times as fast as the rest."""
    slow = [p for name, p in parameters.items() if b_ratio == 1.0 or FASTER not in name]
    fast = [p for name, p in parameters.items() if b_ratio != 1.0 and FASTER in name]
    groups = [
        {"params": group, "ratio": ratio} for group, ratio in ((slow, 1.0), (fast, b_ratio)) if len(group)
    ]
    return TrainState(parameters, _optimizer(groups, config), MOMENTS[config.optimizer])


def _optimizer(groups: list[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    match config.optimizer:
        case "adamw":
            return torch.optim.AdamW(groups, **settings, betas=(0.9, 0.999), eps=1e-8, fused=True)
        case "adafactor":
            return torch.optim.Adafactor(groups, **settings)
        case "sgd":
            return torch.optim.SGD(groups, **settings)
        case _:
            return _bitsandbytes(config.optimizer)(groups, **settings)


def _bitsandbytes(name: str) -> Any:
    """The optimizer's class by our name. On a CPU it computes the same numbers. bitsandbytes warns at every
    parameter that a CPU has no paged memory; the warning is silenced, because the system pages there
    anyway."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "Paged optimizers are not supported on CPU", UserWarning)
    from bitsandbytes import optim

    classes = {
        "adamw-8bit": optim.AdamW8bit,
        "paged-adamw": optim.PagedAdamW,
        "paged-adamw-8bit": optim.PagedAdamW8bit,
        "lion": optim.Lion,
        "lion-8bit": optim.Lion8bit,
    }
    return classes[name]


def moments(state: TrainState) -> dict[str, Tensor]:
    """``{moment}.{parameter}`` -> tensor on the CPU; empty before the first step."""
    return {
        f"{moment}.{name}": state.optimizer.state[parameter][moment].detach().cpu().contiguous()
        for name, parameter in state.parameters.items()
        if parameter in state.optimizer.state
        for moment in state.kept.of(parameter)
    }


def restore_moments(state: TrainState, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Give the optimizer its moments back, at ``state.step``. Raises StorageError when one is missing."""
    expected = {f"{moment}.{name}" for name, p in state.parameters.items() for moment in state.kept.of(p)}
    if state.step and set(tensors) != expected:
        odd = sorted(expected ^ set(tensors))
        raise StorageError(
            f"optimizer state doesn't fit: {odd[0]}", str(source), f"{len(odd)} tensors differ"
        )
    for name, parameter in state.parameters.items() if state.step else ():
        own = state.optimizer.state[parameter]
        own["step"] = state.kept.step(state.step)
        for moment in state.kept.of(parameter):
            own[moment] = tensors[f"{moment}.{name}"].to(parameter.device, copy=True)


def moment_bytes(parameters: Mapping[str, nn.Parameter], config: TrainConfig) -> int:
    """Memory that the moments of ``parameters`` will take."""
    kind = MOMENTS[config.optimizer]
    return sum(_bytes(kind, parameter) for parameter in parameters.values())


def _bytes(kind: Moments, parameter: Tensor) -> int:
    if "row_var" in kind.of(parameter):
        return 4 * (parameter.numel() // parameter.shape[-1] + parameter.numel() // parameter.shape[-2])
    if kind.blocks and parameter.numel() >= BLOCKWISE_FROM:
        return len(kind.names) * (parameter.numel() + 1024 + parameter.numel() // 64)
    return 4 * parameter.numel() * len(kind.of(parameter))
