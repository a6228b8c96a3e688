"""The nouns that the stages hand to each other. Frozen, slotted, and free of torch at run time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from sapwood.machine.device import Device
    from sapwood.serve.model import Model


Role = Literal["system", "user", "assistant", "tool"]
Kind = Literal["merged", "gguf-adapter", "gguf", "ollama"]  # the forms of an export
CHECK = "check.json"  # in an export: how it was held against what was trained


# --- data -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RowId:
    """Where a row came from. A RowId stays with its row up to the loss, so that every message can name the
    row.

    Attributes:
        source: path of the file as the user wrote it, or a hub id.
        index: 0-based number of the row in that source.
        line: 1-based line where the row starts, if the format has lines.
    """

    source: str
    index: int
    line: int | None = None

    def __str__(self) -> str:
        """``file:line``; the row's number if the format has no lines; both if rows share a line."""
        if self.line is None:
            return f"{self.source} row {self.index}"
        shared = f" row {self.index}" if self.line <= self.index else ""
        return f"{self.source}:{self.line}{shared}"


@dataclass(frozen=True, slots=True)
class Row:
    """One raw record, before anyone decided what its columns mean. ``value`` is plain JSON data."""

    id: RowId
    value: Any


@dataclass(frozen=True, slots=True)
class Message:
    """One turn, as a chat template reads it.

    Attributes:
        content: what is said. None only beside tool calls, if the row has null: some templates write an
            empty answer for ``""`` and none for null.
        reasoning: what the assistant thought before it answered; ``""`` if it is known to be nothing.
        tool_calls: as in OpenAI's format, ``{"type": "function", "function": {"name", "arguments"}}``.
        trained: overrides ``template.train_on`` for this turn when it isn't None.
        name: who speaks, or the tool that answers.
        tool_call_id: the call that a tool's turn answers.
        weight: what each token of this turn counts in the loss, 1 when None.
    """

    role: Role
    content: str | None
    reasoning: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    trained: bool | None = None
    name: str | None = None
    tool_call_id: str | None = None
    weight: float | None = None

    @property
    def text(self) -> str:
        """The content, with nothing for null."""
        return self.content or ""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A row as messages.

    text: set if the row is text that somebody rendered, or a document. ``messages`` is empty then, until
    `template.unrender` has read the text. A document's ``messages`` stay empty.
    weight: what each learnt token of the row counts in the loss; None is 1. A turn's weight multiplies it.
    """

    row: RowId
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    text: str | None = None
    weight: float | None = None


# --- template ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Span:
    """Half-open range of characters."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text. ``spans`` is what the model must learn to write, stop token included;
    ``content`` is what came from the row: nothing in it may become a control token."""

    row: RowId
    text: str
    spans: tuple[Span, ...]
    content: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """ids: int32[T]. trained: bool[T], True if the token is to be learnt; at least one is.
    weights: float32[T], what a learnt token counts in the loss; None: each counts 1."""

    row: RowId
    ids: NDArray[np.int32]
    trained: NDArray[np.bool_]
    weights: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_targets(self) -> int:
        return int(self.trained.sum())

    @property
    def weight(self) -> float:
        """The sum of the weights of the example's learnt tokens. The sum of their losses is divided by it."""
        return total_weight(self.num_targets, None if self.weights is None else self.weights[self.trained])


def total_weight(targets: int, weights: NDArray[np.float32] | None) -> float:
    """The sum of the weights of so many targets; their number if none has a weight of its own."""
    return targets if weights is None else float(weights.sum(dtype=np.float64))


@dataclass(frozen=True, slots=True)
class TrainData:
    """Prepared examples: what is learnt, and what is only measured."""

    train: Sequence[Example]
    eval: Sequence[Example] = ()


# --- pack -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens ``start:stop`` of a pack that attends to itself causally, and to its ancestors.

    ``position`` is the position of its first token; ``parent`` the index of the segment that it continues.
    """

    start: int
    stop: int
    position: int
    parent: int | None = None

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Pack:
    """Several examples side by side, computed in one forward pass.

    ids, positions: int32[T]. predict_at, targets: int32[N]: the hidden state at ``predict_at[i]`` predicts
    ``targets[i]``. ``rows`` are the examples in it. weights: float32[N], what each target counts in the loss;
    None: 1.
    """

    ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    segments: tuple[Segment, ...]
    predict_at: NDArray[np.int32]
    targets: NDArray[np.int32]
    rows: tuple[RowId, ...]
    weights: NDArray[np.float32] | None = None

    @property
    def weight(self) -> float:
        """The sum of the weights of the pack's targets."""
        return total_weight(len(self.targets), self.weights)


# --- model ------------------------------------------------------------------------------------------------


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


# --- training ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stepped:
    """One optimizer step: what a watcher sees after it.

    Attributes:
        step: number of optimizer steps that are done, this one included.
        loss: weighted mean over the step's targets, in nats.
        num_targets: number of tokens that were learnt.
        num_tokens: number of tokens of the examples, prompts included.
        lr: learning rate, a factor without a unit.
        grad_norm: 2-norm of the gradient before it was clipped, in nats a unit of weight.
        seconds: time of the step, in seconds.
        peak_bytes: most memory that the process has held at once on its device, in bytes.
        epoch: epochs that are done, as a fraction.
        num_examples: number of examples in the step.
        skipped: why the optimizer did nothing (the loss or the gradient was no number), or None.

    Examples:
        >>> losses = []
        >>> def watch(event):
        ...     if isinstance(event, sapwood.Stepped):
        ...         losses.append(event.loss)
        >>> adapter = sapwood.finetune(settings, watch, data=frame)
        >>> len(losses)
        2
    """

    step: int
    loss: float
    num_targets: int
    num_tokens: int
    lr: float
    grad_norm: float
    seconds: float
    peak_bytes: int
    epoch: float = 0.0
    num_examples: int = 0
    skipped: str | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt that the model answers on the way. ``prompt`` is the last user turn, ``ids`` what inference
    sends for all of it, ``reference`` the answer that the data gives."""

    row: RowId
    prompt: str
    ids: tuple[int, ...]
    reference: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Probe:
        return cls(RowId(**value["row"]), value["prompt"], tuple(value["ids"]), value["reference"])


@dataclass(frozen=True, slots=True)
class Sample:
    """An answer that was asked for while the model trained.

    Attributes:
        row: the held-out row that the prompt comes from.
        prompt: its last user turn.
        answer: what the model wrote.
        reference: the answer that the data gives.
        num_tokens: number of tokens of the answer.
        stopped: True if the model ended the answer with a stop token by itself.

    Examples:
        >>> def watch(event):
        ...     if isinstance(event, sapwood.Evaluated):
        ...         for sample in event.samples:
        ...             print(sample.prompt, sample.answer)
        >>> adapter = sapwood.finetune(settings, watch, data=frame)
    """

    row: RowId
    prompt: str
    answer: str
    reference: str
    num_tokens: int
    stopped: bool


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One evaluation: what a watcher sees after it.

    Attributes:
        step: number of optimizer steps that are done; 0 is the base.
        loss: held-out loss, the weighted mean over targets, in nats.
        num_targets: number of tokens that were predicted.
        seconds: time of the evaluation, in seconds.
        samples: the sample answers.
        scores: of the samples, chrf and exact_match, 0 to 100, if the data gives answers to compare with; and
            the numbers of evaluators, by their names.

    Examples:
        >>> held_out = []
        >>> def watch(event):
        ...     if isinstance(event, sapwood.Evaluated):
        ...         held_out.append(event.loss)
        >>> adapter = sapwood.finetune(settings, watch, data=frame)
    """

    step: int
    loss: float
    num_targets: int
    seconds: float
    samples: tuple[Sample, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a run.

    Attributes:
        step: number of optimizer steps that are done.
        reason: ``done``, ``stopped early`` (`eval.patience` was used up) or ``stopped`` (a signal or a
            request; resumable).
        seconds: time of the whole training in this process, in seconds.

    Examples:
        >>> def watch(event):
        ...     if isinstance(event, sapwood.Finished):
        ...         print(event.reason)
        >>> adapter = sapwood.finetune(settings, watch, data=frame)
        done
    """

    step: int
    reason: Literal["done", "stopped", "stopped early"]
    seconds: float


Event = Stepped | Evaluated | Finished


@dataclass(frozen=True, slots=True)
class Stop:
    """What a watcher returns to end the run after the step at hand: saved, and resumable.

    Examples:
        >>> def watch(event):
        ...     return sapwood.Stop() if event.step == 100 else None
        >>> adapter = sapwood.finetune(settings, watch, data=frame)
    """


@dataclass(frozen=True, slots=True)
class Adapter:
    """A trained adapter: a PEFT folder and the facts that keep it from being misapplied.

    Attributes:
        path: the folder.
        base: name of the base model, as the config has it.
        base_fingerprint: sha256 of the base's weights and config.
        template_fingerprint: sha256 of the chat template.
        rank: number of rows of each low-rank factor.
        targets: names of the adapted layers.
        final_loss: held-out loss after training, in nats; None if nothing was held out.
        facts: what sapwood.json holds: base, template, losses, the proof.

    Examples:
        >>> adapter = sapwood.resume(sapwood.Run("last").path)
        >>> (adapter.path / "adapter_model.safetensors").is_file()
        True
    """

    path: Path
    base: str
    base_fingerprint: str
    template_fingerprint: str
    rank: int
    targets: tuple[str, ...]
    final_loss: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Model:
        """The base with this adapter, ready to be asked.

        Raises:
            ModelError: base or template is not the one that the adapter was trained on, or it is damaged.

        Examples:
            >>> model = adapter.load()
        """
        from sapwood import load

        return load(self.path)
