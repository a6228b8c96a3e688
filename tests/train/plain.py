"""An adapter in plain transformers and PEFT on the whole checkpoint, and here: what both say, and learn."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig

from sapwood.adapter.attach import attach_saved
from sapwood.adapter.facts import SETTINGS
from sapwood.adapter.files import WEIGHTS, read_adapter
from sapwood.adapter.inputs import attending
from sapwood.adapter.model import saved_name
from sapwood.base.inspect import inspect_base
from sapwood.base.load import load_base
from sapwood.base.network.parts import text_class, whole_class
from sapwood.config.sections import BaseConfig
from sapwood.pack.build import build_pack
from sapwood.train.loop import batch_of, forward_loss
from sapwood.types import Example, RowId

MOST = 2_000_000_000  # parameters of a whole checkpoint
SPEAKS = {  # the language model in a whole that takes no text without a picture
    "blip": "text_decoder",
    **dict.fromkeys(("blip-2", "instructblip", "instructblipvideo"), "language_model"),
    "kosmos-2": "text_model",
}
MARKED = ("paligemma",)  # tokens are said to be read from left to right
SHARED, OWN, VOCABULARY = 12, (20, 9, 5), 250  # tokens that all rows begin with, and of each row


@dataclass(frozen=True, slots=True)
class Step:
    """The loss of `rows`, a sum, and its gradient by the names in an adapter's file."""

    loss: float
    gradients: dict[str, Tensor]


def rows() -> list[Example]:
    """Rows with one beginning, longer than the windows of tiny copies."""
    generator = np.random.default_rng(0)
    shared = generator.integers(3, VOCABULARY, SHARED)
    ids = [np.concatenate([shared, generator.integers(3, VOCABULARY, own)]).astype(np.int32) for own in OWN]
    return [Example(RowId("row", i), row, np.arange(len(row)) >= SHARED // 2) for i, row in enumerate(ids)]


def woken(adapter: Path, folder: Path, draw: int = 0, size: float = 0.05) -> Path:
    """A copy of ``adapter``, as far from its start as a trained one: B at zero hides A's gradient."""
    folder.mkdir()
    shutil.copyfile(adapter / SETTINGS, folder / SETTINGS)
    tensors, generator = load_file(adapter / WEIGHTS), torch.Generator().manual_seed(1 + draw)
    moved = {
        name: t + size * torch.randn(t.shape, generator=generator) for name, t in sorted(tensors.items())
    }
    save_file(moved, folder / WEIGHTS)
    return folder


def milder(base: Path, folder: Path) -> Path:
    """A copy of ``base`` whose matrices are half as large: rounding grows less from layer to layer."""
    shutil.copytree(base, folder)
    for file in folder.glob("*.safetensors"):
        halved = {name: t / 2 if t.dim() > 1 else t for name, t in load_file(file).items()}
        save_file(halved, file, metadata={"format": "pt"})
    return folder


def plain(base: Path, adapter: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The whole checkpoint with the adapter, by plain PEFT."""
    config = AutoConfig.from_pretrained(base)
    kind: Any = whole_class(config) if size_of(config) <= MOST else text_class(config)
    network = kind.from_pretrained(base, dtype=torch.float32).to(dtype)
    return peft.PeftModel.from_pretrained(network, str(adapter), is_trainable=True).to(dtype).eval()


def size_of(config: Any) -> int:
    """Parameters of the whole checkpoint. With more than `MOST`, this machine makes the text's part alone."""
    with torch.device("meta"):
        return sum(p.numel() for p in whole_class(config)(copy.deepcopy(config)).parameters())


def logits_of(model: Any, ids: Tensor) -> Tensor:
    """float[1, T, V] of a model by `plain`, whose language model is asked. ids: [1, T]."""
    kind = model.config.model_type
    speaker = model.get_base_model().get_submodule(SPEAKS[kind]) if kind in SPEAKS else model
    told = {"token_type_ids": torch.ones_like(ids)} if kind in MARKED else {}
    return speaker(input_ids=ids, use_cache=False, **told).logits


@torch.no_grad()
def likeliest(model: Any, prompt: Sequence[int], count: int) -> list[int]:
    """The likeliest tokens after ``prompt``, each from reading all anew."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def plain_step(model: Any, examples: Sequence[Example]) -> Step:
    """Row by row, by the library's own attention and loss."""
    total = 0.0
    for example in examples:
        ids = torch.from_numpy(example.ids.astype(np.int64))[None]
        at = torch.from_numpy(example.trained[1:])
        logits = logits_of(model, ids)[0, :-1][at]
        loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:][at], reduction="sum")
        loss.backward()
        total += float(loss.detach())
    named = ((saved_name(name), p.grad) for name, p in model.named_parameters())
    return Step(total, {name: grad for name, grad in named if grad is not None})


def our_step(base: Path, adapter: Path, examples: Sequence[Example], alone: bool) -> Step:
    """As a run computes it: one pack, or a pass for each row."""
    config = BaseConfig(model=str(base), storage="fp32", products="fp32")
    loaded = load_base(inspect_base(config), config)
    model = replace(attach_saved(loaded, *read_adapter(adapter), adapter), alone=alone)
    packs = [build_pack([one]) for one in examples] if alone else [build_pack(list(examples))]
    total = 0.0
    with attending(model):
        for pack in packs:
            loss = forward_loss(model, batch_of(model, pack)).total
            loss.backward()
            total += float(loss.detach())
    return Step(total, {name: p.grad for name, p in model.parameters.items() if p.grad is not None})


def gap(found: Step, wanted: Step) -> float:
    """How far two steps are from each other: of the loss, and of the largest gradient."""
    nothing = torch.zeros(())  # what a layer has that no token went through
    largest = max(float(grad.abs().max()) for grad in wanted.gradients.values())
    gaps = [
        float((found.gradients.get(name, nothing) - wanted.gradients.get(name, nothing)).abs().max())
        / largest
        for name in found.gradients.keys() | wanted.gradients.keys()
    ]
    return max(abs(found.loss - wanted.loss) / abs(wanted.loss), *gaps)
