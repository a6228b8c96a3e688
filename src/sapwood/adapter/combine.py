"""Several LoRA adapters as one, by PEFT's weighted combination. Of the base only the shapes are needed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from sapwood.adapter.elsewhere.read import read_saved
from sapwood.adapter.files import write_files
from sapwood.adapter.model import ADAPTER
from sapwood.base.inspect import on_meta
from sapwood.errors import ConfigError, ModelError
from sapwood.types import BaseSpec

How = Literal["cat", "svd", "linear", "ties", "dare-ties", "dare-linear", "magnitude-prune"]
HOWS: tuple[How, ...] = get_args(How)
BESIDE = ("modules_to_save", "trainable_token_indices", "lora_bias", "rank_pattern", "alpha_pattern")
EXACT = ("cat", "svd")  # these add the products B A; the others mix all A, and all B


def combine(
    spec: BaseSpec, folders: Sequence[Path], weights: Sequence[float], how: How, density: float = 0.5
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and settings, in PEFT's format, of the weighted sum of the adapters in ``folders``.

    ``how``: cat is the exact sum, and its rank is the sum of the ranks. svd is the best approximation of that
    sum with the largest of the ranks. The others are PEFT's, and want equal ranks. ``density``: share of the
    values that ties, dare and magnitude-prune keep. Raises ConfigError, and ModelError for what is no LoRA.
    """
    from peft import PeftModel, get_peft_model_state_dict

    read = [read_saved(folder, spec.hf_config) for folder in folders]
    ranks = [_rank(settings, folder) for (settings, _), folder in zip(read, folders, strict=True)]
    if how not in EXACT and len(set(ranks)) > 1:
        why = f"{how} adds the matrices of equal ranks; these have {', '.join(map(str, ranks))}"
        raise ConfigError("the adapters' ranks differ", "--how", why, "take cat or svd")
    names = [f"part{i}" for i in range(len(folders))]
    with tempfile.TemporaryDirectory() as place:
        for name, (settings, tensors) in zip(names, read, strict=True):
            write_files(tensors, settings | {"base_model_name_or_path": spec.source}, Path(place, name))
        model: Any = PeftModel.from_pretrained(_shapes(spec), str(Path(place, names[0])), names[0])
        for name in names[1:]:
            model.load_adapter(str(Path(place, name)), adapter_name=name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # dare draws what it drops
        model.add_weighted_adapter(
            names, list(weights), ADAPTER, how.replace("-", "_"),
            density=None if how in (*EXACT, "linear") else density, svd_full_matrices=False,
        )  # fmt: skip
    tensors = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    settings = model.peft_config[ADAPTER].to_dict() | {"base_model_name_or_path": spec.source}
    return {name: tensor.float().contiguous() for name, tensor in tensors.items()}, settings


def _rank(settings: Mapping[str, Any], folder: Path) -> int:
    plain = settings["peft_type"] == "LORA" and not settings.get("use_dora")
    if not plain or settings.get("bias", "none") != "none":
        kind = "DoRA" if settings.get("use_dora") else settings["peft_type"]
        why = "only updates that are products of two matrices add up"
        raise ModelError(f"a {kind} adapter can't be combined", str(folder), why)
    if odd := [key for key in BESIDE if settings.get(key)]:
        raise ModelError(
            f"an adapter with {odd[0]} can't be combined",
            str(folder),
            "there is no rule for the sum of such parts",
        )
    return int(settings["r"])


def _shapes(spec: BaseSpec) -> nn.Module:
    """The model with one number for each weight, repeated: the shapes are right, and take no memory."""
    model = on_meta(spec.hf_config, str(spec.path))
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.zeros(1).expand(p.shape), requires_grad=False))
    model.name_or_path = spec.source
    return model
