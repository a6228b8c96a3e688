"""A base with what is trained on it, as one value: what training, evaluation and talking work on."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sapwood.compute.backend import Backend
from sapwood.compute.batch import Batch
from sapwood.compute.dropout import DropoutClock
from sapwood.compute.loss import LossSum
from sapwood.config.kinds import Method
from sapwood.errors import ModelError, Problem
from sapwood.types import Head

if TYPE_CHECKING:
    from sapwood.compute.flow import Flow

ADAPTER = "default"  # the only adapter of a run; PEFT leaves this name out of the file


@dataclass(frozen=True, slots=True)
class LoraModel:
    """A base and what is trained on it: an adapter of some method, or the base itself.

    peft: the PeftModel; the network itself in full fine-tuning. network: the transformers model inside it.
    backbone: its decoder without the head (ids -> final hidden state).
    parameters: what is trained, by PEFT's names, in the order of the model. targets: the adapted layers.
    backend: by which forms it computes, and where.
    divided: what brings a base together for one pack, if several processes hold parts of the base.
    ends: the adapter trains embedding or head, or rows of them.
    flow: the format of activations between layers, if it isn't the base's own.
    alone: each row has a forward pass of its own, by the model's own attention.
    neftune: strength of the noise on the embeddings while training.
    start: tensors as they were at the start, if the end needs them: PiSSA's A and B, the base's biases.
    """

    peft: Any
    network: Any
    backbone: nn.Module
    head: Head
    clock: DropoutClock
    parameters: dict[str, nn.Parameter]
    targets: tuple[str, ...]
    backend: Backend
    divided: Callable[[LoraModel, Batch], LossSum] | None = None
    ends: bool = False
    flow: Flow | None = None
    alone: bool = False
    neftune: float = 0.0
    method: Method = "lora"
    start: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """torch's name of the device that computes."""
        return str(self.backend.device)

    def learn(self) -> None:
        """Put what is trained into training mode: its dropout, its noise, layers that are computed twice. The
        base itself computes as in inference, because some bases choose experts at random while they train."""
        self.peft.train()
        for module in self.network.modules():
            own = type(module).__module__.startswith("transformers.models")
            if own and module is not self.peft and not hasattr(module, "gradient_checkpointing"):
                module.training = False

    @contextmanager
    def switched_off(self) -> Generator[None]:
        """While this context is open, the network answers as the base alone. Full fine-tuning has no base
        left."""
        biases = {name: self.parameters[name] for name in self.start if name.endswith("bias")}
        own = {name: p.detach().clone() for name, p in biases.items()}
        with self.peft.disable_adapter():
            try:
                for name, p in biases.items():
                    p.data.copy_(self.start[name])
                yield
            finally:
                for name, p in biases.items():
                    p.data.copy_(own[name])


def saved_name(name: str) -> str:
    """A parameter's name as PEFT saves it."""
    name = name.replace(f".modules_to_save.{ADAPTER}", "").replace(f".{ADAPTER}", "")
    return name.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


def adapter_tensors(model: LoraModel) -> dict[str, Tensor]:
    """The adapter in PEFT's names, fp32, on the CPU."""
    return {name: parameter.detach().cpu().contiguous() for name, parameter in model.parameters.items()}


def restore_adapter(model: LoraModel, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copy saved tensors into the adapter. Every name and shape must fit; nothing is copied otherwise."""
    problems = [
        Problem(f"adapter tensor {name} is {fault}", str(source), mend="use the base and config that made it")
        for name in sorted(set(model.parameters) | set(tensors))
        if (fault := misfit(model.parameters.get(name), tensors.get(name)))
    ]
    if problems:
        raise ModelError(problems)
    with torch.no_grad():
        for name, parameter in model.parameters.items():
            parameter.copy_(tensors[name])


def misfit(own: Tensor | None, saved: Tensor | None) -> str:
    """What is wrong with a saved tensor in the place of the model's own; empty if it fits."""
    if own is None:
        return "not part of this model"
    if saved is None:
        return "missing"
    if own.shape != saved.shape:
        return f"{list(saved.shape)}; the model has {list(own.shape)}"
    return "" if torch.isfinite(saved).all() else "not finite"
