"""Which layers a method is put on."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, cast

from torch import nn

from sapwood.errors import ConfigError, Problem


def resolve_targets(model: Any, targets: str | tuple[str, ...]) -> tuple[str, ...] | str:
    """``all-linear`` as the sorted leaf names of the decoder's linears; a list checked; a regular expression
    checked."""
    head = model.get_output_embeddings()
    modules: Iterable[tuple[str, nn.Module]] = model.named_modules()
    named = list(modules)
    linears = [name for name, m in named if isinstance(m, nn.Linear) and m is not head]
    leaves = sorted({name.rpartition(".")[2] for name in linears})
    if targets == "all-linear":
        return tuple(leaves)
    if isinstance(targets, str):
        try:
            pattern = re.compile(targets)
        except re.error as error:
            raise ConfigError("lora.targets is no regular expression", "lora.targets", str(error)) from None
        if not any(pattern.fullmatch(name) for name in linears):
            raise ConfigError(
                f"lora.targets matches no linear layer: {targets!r}",
                "lora.targets",
                "a regular expression must match full names",
                f"layers here: {', '.join(linears[:7])} …",
            )
        odd = [name for name, _ in named if pattern.fullmatch(name) and name not in linears]
        if odd:
            raise ConfigError(
                f"lora.targets matches more than linear layers: {targets!r}",
                "lora.targets",
                f"{odd[0] or 'the whole model'} is no linear layer of the decoder; only those are adapted",
                "end the expression in the names of layers, q_proj or v_proj say",
            )
        return targets
    if not targets:
        raise ConfigError("lora.targets is empty", "lora.targets", mend=f"names here: {', '.join(leaves)}")
    problems: list[Problem] = []
    for target in targets:
        if any(name == target or name.endswith(f".{target}") for name in linears):
            continue
        near = difflib.get_close_matches(target, leaves, n=1)
        mend = f"did you mean {near[0]}?" if near else f"names here: {', '.join(leaves)}"
        problems.append(
            Problem(f"lora.targets: no linear layer is called {target!r}", "lora.targets", mend=mend)
        )
    if problems:
        raise ConfigError(problems)
    return tuple(sorted(targets))


def adapted_linears(model: Any, targets: tuple[str, ...] | str) -> list[nn.Linear]:
    """The linears of a model that get an adapter; ``targets`` as `resolve_targets` gives them."""
    head = model.get_output_embeddings()
    return [
        module
        for name, module in cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
        if isinstance(module, nn.Linear) and module is not head and _adapted(name, targets)
    ]


def refuse_large_rank(model: Any, targets: tuple[str, ...] | str, rank: int) -> None:
    """A rank above what the largest adapted layer can use only costs. Raises ConfigError."""
    sizes = [min(linear.in_features, linear.out_features) for linear in adapted_linears(model, targets)]
    if sizes and rank > max(sizes):
        why = f"no adapted layer has more than {max(sizes)} dimensions to give"
        raise ConfigError(f"lora.rank={rank} is larger than the layers", "lora.rank", why, "8 to 16 is usual")


def _adapted(name: str, targets: tuple[str, ...] | str) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)
