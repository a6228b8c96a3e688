"""A base model: before its weights are loaded, and with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch

    from sapwood.machine.device import Device


NumberFormat = Literal["fp32", "bf16", "fp16"]
NUMBER_FORMATS: Mapping[NumberFormat, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class Rows(Protocol):
    """A matrix whose rows are read by slices: packed blocks, or a matrix that several processes share."""

    @property
    def shape(self) -> torch.Size: ...

    def __getitem__(self, rows: slice) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class Head:
    """The final projection as data: logits = softcap(hidden @ weight.T + bias) * scale.

    weight: [vocabulary, hidden], a tensor or a `Rows`;
    bias: [vocabulary] or None; softcap: cap * tanh(x / cap) if not None.
    matmul_dtype: the format to multiply in, the weight's own if None.
    """

    weight: torch.Tensor | Rows
    bias: torch.Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    matmul_dtype: torch.dtype | None = None


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class BaseSpec:
    """A base model before its weights are loaded: enough to prepare data. Two are never equal, so that what
    is computed from one can be kept under it.

    Attributes:
        source: as the user wrote it (``builtin:smollm2``, ``hf:ID``, a folder, a ``.gguf`` file).
        path: the folder or file on this disk.
        fingerprint: sha256 over the weights' files (or their recorded hashes) and the config.
        tokenizer: a transformers fast tokenizer, with its chat template if it has one.
        hf_config: the transformers config.
        stop_ids: ids on which generation stops (generation config and tokenizer).
        notes: what was set right or left out while it was read, for a person.
        new_tokens: ids of tokens that were added to its tokenizer, each with those that spelled it before.
        stored_rows: rows of the embedding in the model's files, if hf_config says that there are more.
    """

    source: str
    path: Path
    fingerprint: str
    tokenizer: Any
    hf_config: Any
    stop_ids: tuple[int, ...]
    notes: tuple[str, ...] = ()
    new_tokens: Mapping[int, tuple[int, ...]] = field(default_factory=dict[int, tuple[int, ...]])
    stored_rows: int | None = None

    @property
    def rows(self) -> int:
        """Rows of the embedding, with those of new tokens."""
        return max([self.text.vocab_size, *(id + 1 for id in self.new_tokens)])

    @property
    def words(self) -> tuple[str, ...]:
        """The new tokens, as text spells them."""
        return tuple(self.tokenizer.convert_ids_to_tokens(list(self.new_tokens)))

    @property
    def text(self) -> Any:
        """The config of the language model. In a wrapper's config (text and pictures) it is a part."""
        return self.hf_config.get_text_config()

    @property
    def number_format(self) -> NumberFormat | None:
        """What the weights of its folder are, as the config says it; None if it doesn't."""
        dtype = None if self.hf_config is None else getattr(self.text, "dtype", None)
        return next((name for name, own in NUMBER_FORMATS.items() if str(dtype) == f"torch.{own}"), None)


@dataclass(frozen=True, slots=True)
class Base:
    """The frozen model and its head.

    backbone: the decoder, from ids to the hidden states that the head reads. storage: how weights are held:
    fp32, bf16, fp16 …. device: where the model computes. matmul_dtype: the format in which weights are
    multiplied; None takes the head's.
    """

    spec: BaseSpec
    model: Any
    backbone: Any
    head: Head
    storage: str
    device: Device
    matmul_dtype: torch.dtype | None = None
