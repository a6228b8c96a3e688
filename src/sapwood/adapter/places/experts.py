"""The experts of a mixture, and the router that chooses among them. Experts are stacks of matrices, not
linears."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sapwood.base.network.parts import decoder_of

if TYPE_CHECKING:
    from torch import nn

STACK = 3  # dimensions: experts, and a matrix each


def stacks_in(module: nn.Module) -> dict[str, nn.Parameter]:
    """The stacks that a module itself holds, by their last words. Convolutions and the blocks of packed
    linears also have three dimensions, and are left out."""
    from torch import nn

    if isinstance(module, nn.Linear | nn.Embedding) or type(module).__module__.startswith("torch.nn"):
        return {}
    return {name: p for name, p in module.named_parameters(recurse=False) if p.dim() == STACK}


def stacks(model: Any) -> dict[str, nn.Parameter]:
    """Every stack of the decoder's experts, by its full name in the model."""
    inside = {id(stack) for module in decoder_of(model).modules() for stack in stacks_in(module).values()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in inside}


def named_stacks(model: Any, targets: str | tuple[str, ...]) -> dict[str, nn.Parameter]:
    """The stacks that a list of targets names: experts, experts.down_proj, or their full names."""
    if isinstance(targets, str):
        return {}
    found = stacks(model).items()
    return {name: stack for name, stack in found if any(names_stack(target, name) for target in targets)}


def names_stack(target: str, name: str) -> bool:
    """Whether ``target`` names this stack, or the module that holds it. A stack's last word alone could also
    be a linear's name."""
    owner = name.rpartition(".")[0]
    whole = any(f".{known}".endswith(f".{target}") for known in (owner, name))
    return whole and target != name.rpartition(".")[2]


def names_experts(targets: str | tuple[str, ...]) -> bool:
    """Whether a list of targets names the experts of a model in which they are called so."""
    return not isinstance(targets, str) and any("experts" in target.split(".") for target in targets)


def short_names(names: dict[str, nn.Parameter]) -> list[str]:
    """As PEFT's ``target_parameters`` takes them: the module that holds a stack, and the stack."""
    return sorted({".".join(name.rsplit(".", 2)[-2:]) for name in names})


def routers(model: Any, linears: dict[str, Any]) -> set[str]:
    """Those of ``linears`` that are routers: they lie beside the experts, and have an output for each
    expert."""
    from torch import nn

    from sapwood.base.storage.gguf_experts import number_below

    around = {name.rsplit(".", 2)[0]: len(stack) for name, stack in stacks(model).items()}
    around |= {
        name.rpartition(".")[0]: len(module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and name.endswith(".experts")
    }
    below = {name: number_below(module) for name, module in model.named_modules()}
    around |= {name.rpartition(".")[0]: experts for name, experts in below.items() if experts}
    return {
        name
        for name, linear in linears.items()
        for place, experts in around.items()
        if name.startswith(f"{place}.") and ".experts." not in name
        if getattr(linear, "out_features", linear.weight.shape[0]) == experts  # blocks have another shape
    }
