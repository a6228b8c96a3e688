"""What training says between two steps, and what a watcher answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sapwood.types.rows import RowId


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
