"""The optimizer and its state, keyed by parameter name: no pickle, no positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from sapwood.config import TrainConfig
from sapwood.errors import StorageError
from sapwood.types import Cursor

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(slots=True)
class TrainState:
    """What changes while training, besides the adapter itself.

    step: finished optimizer steps. evaluated: the last step whose held-out loss was recorded, -1 for none.
    losses: the first and the newest held-out loss; None before the first evaluation.
    """

    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    step: int = 0
    cursor: Cursor = field(default_factory=Cursor)
    evaluated: int = -1
    losses: tuple[float, float] | None = None


def new_state(parameters: Mapping[str, nn.Parameter], config: TrainConfig) -> TrainState:
    """A fresh AdamW (arXiv 1711.05101) over the adapter."""
    optimizer = torch.optim.AdamW(
        list(parameters.values()),
        lr=config.lr,
        weight_decay=config.weight_decay,
        betas=(0.9, 0.999),
        eps=1e-8,
    )
    return TrainState(parameters, optimizer)


def moments(state: TrainState) -> dict[str, Tensor]:
    """``{moment}.{parameter}`` -> fp32 tensor on the CPU; empty before the first step."""
    return {
        f"{moment}.{name}": state.optimizer.state[parameter][moment].detach().cpu().contiguous()
        for name, parameter in state.parameters.items()
        if parameter in state.optimizer.state
        for moment in MOMENTS
    }


def restore_moments(state: TrainState, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Give the optimizer its moments back, at ``state.step``. Raises StorageError when one is missing."""
    expected = {f"{moment}.{name}" for name in state.parameters for moment in MOMENTS}
    if state.step and set(tensors) != expected:
        odd = sorted(expected ^ set(tensors))
        raise StorageError(
            f"optimizer state doesn't fit: {odd[0]}", str(source), f"{len(odd)} tensors differ"
        )
    for name, parameter in state.parameters.items() if state.step else ():
        own = state.optimizer.state[parameter]
        own["step"] = torch.tensor(float(state.step))
        for moment in MOMENTS:
            own[moment] = tensors[f"{moment}.{name}"].to(parameter.device, copy=True)
