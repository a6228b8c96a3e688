"""Fill PEFT's modules with what was saved of them, and see that all of it is there.

All forms have the same test: PEFT would now save, tensor by tensor, what was read.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sapwood.adapter.model import ADAPTER, misfit
from sapwood.errors import ModelError, Problem, brief

BASE = ".base_layer.weight"
MEND = "use the base and config that made it"


def restore_saved(model: Any, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Put ``tensors`` (by PEFT's saved names) into a PeftModel.

    Raises ModelError naming each that is missing, of another shape, not finite, or part of another model.
    """
    from peft import set_peft_model_state_dict

    tensors = _without_bases(model, tensors, source)
    resized = model.peft_config[ADAPTER].peft_type == "ADALORA"  # ranks are cut while it is filled
    if not resized:
        _refuse_misfits(_saved(model), tensors, source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            set_peft_model_state_dict(model, {name: tensor.float() for name, tensor in tensors.items()})
    except (KeyError, RuntimeError, ValueError, AttributeError, IndexError) as error:
        why = brief(error)
        raise ModelError("the adapter doesn't fit this base", str(source), why, MEND) from None
    found = _saved(model)
    _refuse_misfits(found, tensors, source)
    if lost := [name for name, tensor in found.items() if not torch.equal(tensor, tensors[name].to(tensor))]:
        raise ModelError(f"adapter tensor {lost[0]} has no place in this base", str(source), mend=MEND)


def _without_bases(model: Any, tensors: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """``tensors`` without the base's own embedding, which PEFT saves beside a LoRA on it."""
    own = {name: tensor for name, tensor in tensors.items() if name.endswith(BASE)}
    problems = [
        Problem(
            f"{name} isn't the base's own",
            str(source),
            "the adapter changed it too, or belongs to another base",
            MEND,
        )
        for name, tensor in own.items()
        if not _is_own(model, name, tensor)
    ]
    if problems:
        raise ModelError(problems)
    return {name: tensor for name, tensor in tensors.items() if name not in own}


def _is_own(model: Any, name: str, tensor: Tensor) -> bool:
    try:
        weight = model.get_parameter(name)
    except AttributeError:
        return False
    return weight.shape == tensor.shape and torch.equal(weight.to(tensor), tensor)


def _saved(model: Any) -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)


def _refuse_misfits(own: Mapping[str, Tensor], saved: Mapping[str, Tensor], source: Path) -> None:
    problems = [
        Problem(f"adapter tensor {name} is {fault}", str(source), mend=MEND)
        for name in sorted(own.keys() | saved.keys())
        if (fault := misfit(own.get(name), saved.get(name)))
    ]
    if problems:
        raise ModelError(problems)
