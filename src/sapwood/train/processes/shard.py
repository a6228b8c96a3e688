"""A base that doesn't fit one device, in parts: each process holds 1/n of every layer, and a layer is whole
in all of them only while it computes.

torch's FSDP2 (`fully_shard`) does the gathering of layers, forward and backward; embedding and head are never
whole (`vocabulary`). The adapter is small and stays whole everywhere: its gradients are summed as without
division, so that the numbers are those of an undivided base.
"""

from __future__ import annotations

from dataclasses import replace
from types import MethodType
from typing import Any

from torch import Tensor, nn

from sapwood.adapter.methods import DENSE
from sapwood.adapter.model import LoraModel
from sapwood.compute.batch import Batch
from sapwood.compute.loss import LossSum
from sapwood.config.sections import RunConfig
from sapwood.errors import ConfigError
from sapwood.machine.device import Device
from sapwood.train.loop import decoder_loss
from sapwood.train.processes.vocabulary import divide_vocabulary
from sapwood.train.processes.world import World
from sapwood.types import Base


def mesh_of(world: World, device: Device) -> Any:
    """All processes in a row, as FSDP2 wants to see them. Every process must ask at the same time."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device.kind, (world.size,))


def refuse_division(config: RunConfig, world: World) -> None:
    """Raises ConfigError if the base is to be divided and can't be."""
    if world.size == 1 or config.train.shard == "none":
        return
    if config.base.storage not in DENSE:
        why, mend = (
            f"only weights in {', '.join(DENSE)} can be divided",
            "base.storage=bf16, or train.shard=none",
        )
        raise ConfigError(f"a base in {config.base.storage} can't be divided", "train.shard", why, mend)
    if not config.lora.on_linears:
        why = "what stands before the rows is no part of a layer"
        raise ConfigError(f"{config.lora.method} can't be divided", "train.shard", why, "train.shard=none")


def divide_base(base: Base, model: LoraModel, mesh: Any) -> tuple[Base, LoraModel]:
    """Divide the frozen weights among the processes of ``mesh``; the memory of the other parts is freed.

    Returns both without the whole head, which would keep the embedding alive.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    network: Any = model.network
    head = replace(model.head, weight=divide_vocabulary(network))
    aside = {*model.parameters.values(), *(end.weight for end in _ends(network))}
    for layer in decoder_layers(model.backbone):
        fully_shard(layer, mesh=mesh, ignored_params=aside)
    fully_shard(network, mesh=mesh, ignored_params=aside)

    def total_loss(_: Any, model: LoraModel, batch: Batch) -> Tensor:
        return decoder_loss(model, batch, head).total

    def divided(model: LoraModel, batch: Batch) -> LossSum:
        return LossSum(network.total_loss(model, batch), len(batch.targets))

    network.total_loss = MethodType(total_loss, network)
    register_fsdp_forward_method(network, "total_loss")
    return replace(base, head=head), replace(model, head=head, divided=divided)


def decoder_layers(backbone: nn.Module) -> list[nn.Module]:
    """The blocks that a decoder stacks."""
    return [layer for stack in backbone.children() if isinstance(stack, nn.ModuleList) for layer in stack]


def held_bytes(model: LoraModel) -> int:
    """Memory that the frozen weights take in this process, between two packs."""
    return sum(_local(p).nbytes for p in _frozen(model))


def gathered_bytes(model: LoraModel) -> int:
    """Memory that a divided base takes besides at this moment of a pass: what is whole, to compute."""
    if model.divided is None:
        return 0
    ends = {id(end.weight) for end in _ends(model.network)}
    return sum(p.nbytes for p in _frozen(model) if not hasattr(p, "to_local") and id(p) not in ends)


def _ends(network: Any) -> tuple[Any, Any]:
    return network.get_input_embeddings(), network.get_output_embeddings()


def _frozen(model: LoraModel) -> list[nn.Parameter]:
    adapter = {id(parameter) for parameter in model.parameters.values()}
    return [p for p in model.network.parameters() if id(p) not in adapter]


def _local(tensor: Any) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
