"""Which layers a method is put on."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Container, Iterable, Sequence, Set
from typing import TYPE_CHECKING, Any, TypeVar

from sapwood.adapter.places.experts import names_stack, routers, short_names, stacks
from sapwood.adapter.places.reached import unreached
from sapwood.base.network.parts import is_linear
from sapwood.errors import ConfigError, Problem
from sapwood.machine.shortage import refuse_shortage

if TYPE_CHECKING:
    from torch import nn

Targets = TypeVar("Targets", str, tuple[str, ...])


def resolve_targets(model: Any, targets: str | tuple[str, ...]) -> tuple[str, ...] | str:
    """``all-linear`` as names of the decoder's linears, by leaf if that names linears alone; a list
    checked; a regular expression checked. Raises ConfigError."""
    named, linears = _modules(model)
    leaves = sorted({name.rpartition(".")[2] for name in linears})
    if targets == "all-linear":
        lost = _lost_on_loading(model, linears)
        if lost.issuperset(linears) and linears:
            why = "PEFT reads them by renamings for older checkpoints of the family, which change their names"
            what = f"plain PEFT doesn't open LoRA adapters of {model.config.model_type} models"
            raise ConfigError(what, "lora.targets", why, "take another model")
        left = routers(model, _linears(model)) | lost
        chosen = [name for name in linears if name not in left]
        return _all_linear(model, [name for name, _ in named], chosen)
    if isinstance(targets, str):
        try:
            pattern = re.compile(targets)
        except re.error as error:
            raise ConfigError("lora.targets is no regular expression", "lora.targets", str(error)) from None
        if idle := _idle(model, [name for name, _ in named if pattern.fullmatch(name)]):
            raise ConfigError(idle)
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
                "end the expression in names of layers, for example q_proj or v_proj",
            )
        return _without_experts(model, targets)
    if not targets:
        raise ConfigError("lora.targets is empty", "lora.targets", mend=f"names here: {', '.join(leaves)}")
    problems: list[Problem] = []
    experts = stacks(model)
    chosen = tuple(t for t in targets if not any(names_stack(t, name) for name in experts))
    for target in chosen:
        if any(_adapted(name, (target,)) for name in linears):
            continue
        if idle := _idle(model, [name for name, _ in named if _adapted(name, (target,))]):
            problems += idle
            continue
        known = [*leaves, *short_names(experts)]
        near = difflib.get_close_matches(target, known, n=1)
        mend = f"did you mean {near[0]}?" if near else f"names here: {', '.join(known)}"
        problems.append(
            Problem(f"lora.targets: no linear layer is called {target!r}", "lora.targets", mend=mend)
        )
    problems += _idle(model, [name for name in linears if _adapted(name, chosen)])
    if problems:
        raise ConfigError(problems)
    return _told_apart([name for name, _ in named], linears, _without_experts(model, chosen))


def left_out(
    model: Any, targets: tuple[str, ...] | str, adapted_stacks: Container[str] = ()
) -> tuple[str, ...]:
    """What of the decoder's layers a LoRA on ``targets`` leaves as it is, in words with sizes: experts, which
    aren't linears, if they aren't ``adapted_stacks``, and linears that weren't named."""
    experts: Counter[str] = Counter()
    for name, stack in stacks(model).items():
        if name not in adapted_stacks:
            experts[name.rpartition(".")[2]] += stack.numel()
    words = [f"{name} of the experts ({size:,} numbers)" for name, size in sorted(experts.items())]
    rest: Counter[str] = Counter()
    adapted = {id(linear) for linear in adapted_linears(model, targets)}
    for name, linear in _linears(model).items():
        if id(linear) not in adapted:
            rest[name.rpartition(".")[2]] += linear.weight.numel()
    return (*words, *(f"{name} ({size:,} numbers)" for name, size in sorted(rest.items())))


def adapted_linears(model: Any, targets: tuple[str, ...] | str) -> list[Any]:
    """The linears of a model that get an adapter; ``targets`` as `resolve_targets` gives them. Each has a
    matrix for a ``weight``, [out, in] or as GPT-2's [in, out]."""
    return [linear for name, linear in _linears(model).items() if _adapted(name, targets)]


def refuse_large_rank(model: Any, targets: tuple[str, ...] | str, rank: int) -> None:
    """A rank above what the largest adapted layer can use only costs. Raises ConfigError."""
    sizes = [min(linear.weight.shape) for linear in adapted_linears(model, targets)]
    if sizes and rank > max(sizes):
        why = f"no adapted layer can use a rank above {max(sizes)}"
        raise ConfigError(f"lora.rank={rank} is larger than the layers", "lora.rank", why, "8 to 16 is usual")


def _adapted(name: str, targets: tuple[str, ...] | str) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _modules(model: Any) -> tuple[list[tuple[str, nn.Module]], list[str]]:
    """Every module by its name, and the names of the linears that can be adapted."""
    return list(model.named_modules()), list(_linears(model))


def _linears(model: Any) -> dict[str, Any]:
    """Linears that learn from text, without the head."""
    head, idle = model.get_output_embeddings(), unreached(model)
    modules: Iterable[tuple[str, nn.Module]] = model.named_modules()
    linears = ((name, m) for name, m in modules if is_linear(m) and m is not head and name not in idle)
    return {name: m for name, m in linears if not _computes_otherwise(m)}


def _computes_otherwise(linear: Any) -> bool:
    """A model's own kind of linear may, for example, multiply in groups. Asked by the shape of its result."""
    import torch

    own = next(kind for kind in type(linear).__mro__ if "forward" in vars(kind))
    if not own.__module__.startswith("transformers.models"):
        return False
    try:
        with torch.no_grad():
            found: Any = linear(linear.weight.new_zeros(3, linear.in_features)).shape
    except Exception as error:  # each says so in its own way
        refuse_shortage(error, "a linear layer was tried")
        return True
    return tuple(found) != (3, linear.out_features)


def _all_linear(model: Any, names: Sequence[str], linears: Sequence[str]) -> tuple[str, ...]:
    """Leaf names, or full names of those whose leaf is also that of something else: a linear in a list is
    called 0, as the first layer is."""
    others = {name.rpartition(".")[2] for name in set(names) - set(linears)}
    found = {leaf if (leaf := name.rpartition(".")[2]) not in others else name for name in linears}
    targets = found - taken_for_experts(model, found) - _passed_over(model, found)
    if not targets:
        why = f"{model.config.model_type} computes its products by layers of its own"
        raise ConfigError("the model has no linear layer to adapt", "lora.targets", why, "take another model")
    return tuple(sorted(targets))


def _told_apart(names: Sequence[str], linears: Sequence[str], targets: Sequence[str]) -> tuple[str, ...]:
    """``targets``, with full names in the place of one that other modules have too: those of a wrapper's
    pictures, for example."""
    others = set(names) - set(linears)
    apart = {t for t in targets if any(_adapted(name, (t,)) for name in others)}
    full = {name for name in linears if _adapted(name, tuple(apart))}
    return tuple(sorted(set(targets) - apart | full))


def _lost_on_loading(model: Any, linears: Sequence[str]) -> set[str]:
    """Linears whose adapters plain PEFT doesn't find again: it reads an adapter through the renamings of the
    family's own checkpoints, and some of those hit names that are right already. Found by asking it."""
    import torch
    from peft import LoraConfig as PeftConfig
    from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers

    saved = {f"base_model.model.{name}.lora_A.weight": name for name in linears}
    tensors = {key: torch.zeros(1, 1) for key in saved}
    read = convert_peft_adapter_state_dict_for_transformers(model, PeftConfig(), tensors)
    return {name for key, name in saved.items() if key not in read}


def _passed_over(model: Any, names: Set[str]) -> set[str]:
    """Linears that PEFT can't adapt because their model reads their weights without calling them (Mamba's
    out_proj). Found by asking it."""
    from peft import LoraConfig as PeftConfig
    from peft.tuners.tuners_utils import (
        _check_lora_target_modules_mamba,  # pyright: ignore[reportPrivateUsage]
    )

    odd: set[str] = set()
    for name in names:
        try:
            _check_lora_target_modules_mamba(PeftConfig(target_modules=[name]), model, name)
        except ValueError:
            odd.add(name)
    return odd


def _idle(model: Any, chosen: Sequence[str]) -> list[Problem]:
    """What is wrong if some of these modules are linears on which an adapter learns nothing."""
    leaves = {name.rpartition(".")[2] for name in chosen if is_linear(model.get_submodule(name))}
    idle = {name.rpartition(".")[2] for name in unreached(model).intersection(chosen)}
    odd = sorted(idle | _passed_over(model, leaves))
    kind = model.config.model_type
    why = f"an adapter there learns nothing: {kind} doesn't call them for text, or hands no gradient on"
    mend = "leave them out; all-linear does"
    return [Problem(f"lora.targets names {', '.join(odd)}", "lora.targets", why, mend)] if odd else []


def _without_experts(model: Any, targets: Targets) -> Targets:
    """``targets`` as they are. Raises ConfigError if PEFT would adapt experts in their place."""
    taken = taken_for_experts(model, {targets} if isinstance(targets, str) else set(targets))
    if taken:
        why = f"PEFT takes {', '.join(sorted(taken))} of {model.config.model_type} for its experts"
        mend = "write experts for the experts, and attention's own names (q_proj …) for its linears"
        raise ConfigError("lora.targets names experts too", "lora.targets", why, mend)
    return targets


def taken_for_experts(model: Any, targets: Set[str]) -> set[str]:
    """Those of ``targets`` for which PEFT adapts the experts of a mixture in place of linears of that name:
    since transformers 5 the experts are one parameter. Also regular expressions, which PEFT replaces there.
    PEFT itself is asked."""
    plain = {target for target in targets if re.fullmatch(r"[\w.]+", target)}
    return {t for t in targets if not _stays(model, [t] if t in plain else t)}


def _stays(model: Any, targets: list[str] | str) -> bool:
    """Does PEFT look for ``targets`` as they are told?"""
    from peft import LoraConfig as PeftConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    settings = PeftConfig(target_modules=targets)
    before = settings.target_modules
    try:
        convert_peft_config_for_transformers(settings, model, None)
    except ValueError:  # it wants to see the others of the fused ones too
        return False
    return settings.target_modules == before and not settings.target_parameters
