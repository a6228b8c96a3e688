"""Full fine-tuning: the base itself is trained, and saved as a model folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sapwood.adapter.model import LoraModel
from sapwood.base.write import write_folder
from sapwood.compute.backend import Backend
from sapwood.compute.dropout import DropoutClock
from sapwood.template.render import Renderer
from sapwood.types import Base, BaseSpec


def unfreeze(base: Base, seed: int) -> LoraModel:
    """Every weight takes a gradient; weights that are tied are one."""
    network = base.model.requires_grad_(True)
    parameters = dict(network.named_parameters())
    out = network.get_output_embeddings()
    head = replace(base.head, weight=out.weight, bias=getattr(out, "bias", None))
    return LoraModel(
        peft=network,
        network=network,
        backbone=base.backbone,
        head=head,
        clock=DropoutClock(seed),
        parameters=parameters,
        targets=(),
        backend=Backend.of(base.device),
        method="full",
    )


def write_model(model: LoraModel, spec: BaseSpec, renderer: Renderer, folder: Path) -> None:
    """A folder in Hugging Face layout, with the tokenizer, and with the chat template and the stop ids that
    were trained with."""
    weights = ((name, parameter.detach()) for name, parameter in model.network.named_parameters())
    write_folder(weights, model.network, spec, renderer.template, renderer.stop_ids, folder)
