"""Base and adapter on the same rows: held-out loss, answers, and how sure the difference is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from sapwood.adapter.inputs import attending
from sapwood.adapter.model import LoraModel
from sapwood.adapter.soft_prompt import lead_length
from sapwood.answers.probes import ids_of, samples_of
from sapwood.answers.speaker import speaking
from sapwood.compute.batch import Batch, to_batch
from sapwood.compute.loss import LossSum, label_loss
from sapwood.config.sections import BaseConfig
from sapwood.errors import ModelError
from sapwood.machine.doing import counted
from sapwood.pack.build import build_pack
from sapwood.scores import Interval, chrf, exact_match, paired_bootstrap, perplexity
from sapwood.serve.load import Loaded
from sapwood.serve.settings import Settings
from sapwood.template.unrender import last_question
from sapwood.train.loop import batch_of, forward_loss
from sapwood.types import Example, Head, Probe, Sample


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure of both models; ``difference`` is the adapter's minus the base's, over the same rows."""

    base: float
    adapter: float
    difference: Interval


@dataclass(frozen=True, slots=True)
class Evaluation:
    """``figures`` by name: loss, in nats a target; chrf and exact_match, 0 to 100, and stopped, the share of
    answers that ended by themselves, in percent, over ``answers``: (base, adapter) pairs. answered_by: who
    wrote them, llama.cpp or torch."""

    rows: int
    targets: int
    figures: Mapping[str, Compared]
    answers: tuple[tuple[Sample, Sample], ...]
    answered_by: str = ""

    @property
    def perplexity(self) -> tuple[float, float]:
        """Of the base and of the adapter."""
        loss = self.figures["loss"]
        return perplexity(loss.base), perplexity(loss.adapter)


def evaluate_rows(
    loaded: Loaded,
    examples: Sequence[Example],
    *,
    answers: int,
    max_new_tokens: int,
    seed: int = 0,
    held: BaseConfig | None = None,
) -> Evaluation:
    """Measure both models on ``examples``, and let them answer ``answers`` of them, spread evenly.
    ``held``: how the base's weights are held, or None. llama.cpp can answer only if that is known.

    Raises ModelError if ``loaded`` is a base without an adapter.
    """
    if loaded.model is None:
        mend = "name a run or an adapter's folder"
        raise ModelError("nothing to compare: a base without an adapter", loaded.name, mend=mend)
    tuned = row_losses(loaded.model, examples)
    with loaded.without_adapter():
        base = row_losses(loaded.model, examples, alone=loaded.base.head)
    weights = np.array([example.weight for example in examples], np.float64)
    figures = {"loss": _compare(base, tuned, weights, seed)}
    pairs, who = answer_both(loaded, probes_of(loaded, examples, answers), max_new_tokens, held)
    if pairs:
        ones = np.ones(len(pairs))
        for name, score in (("chrf", _chrf), ("exact_match", _exact_match), ("stopped", _stopped)):
            both = [np.array([score(pair[i]) for pair in pairs], np.float64) for i in (0, 1)]
            figures[name] = _compare(both[0], both[1], ones, seed)
    targets = sum(example.num_targets for example in examples)
    return Evaluation(len(examples), targets, figures, tuple(pairs), who)


def row_losses(model: LoraModel, examples: Sequence[Example], *, alone: Head | None = None) -> np.ndarray:
    """The weighted sum of each example's losses, in nats: float64[R]. Rows aren't packed, because each row's
    own sum is wanted.

    ``alone``: the base's own head, given while the adapter is switched off. The losses are then the base's,
    without the tokens that a soft prompt puts before a row.
    """
    model.peft.eval()
    model = replace(model, alone=not lead_length(model.peft))  # every model can, by its own attention
    sums: list[float] = []
    with torch.no_grad(), attending(model):
        for example in counted("measuring the base" if alone else "measuring the adapter", examples):
            pack = build_pack([example], share_prefixes=False)
            if alone is not None:
                loss = base_loss(model, to_batch(pack, model.device, padded=False), alone)
            else:
                loss = forward_loss(model, batch_of(model, pack))
            sums.append(float(loss.total))
    return np.array(sums, np.float64)


def base_loss(model: LoraModel, batch: Batch, head: Head) -> LossSum:
    """The loss of the decoder by itself."""
    hidden = model.backbone(input_ids=batch.ids, use_cache=False).last_hidden_state
    return label_loss(hidden, batch.predict_at, batch.targets, head, model.backend, batch.weights)


def probes_of(loaded: Loaded, examples: Sequence[Example], number: int) -> list[Probe]:
    """The last question of ``number`` examples, spread evenly, as inference sends it. The question is all
    that stands before the last learnt turn; that turn is the reference. A person is shown what the user said
    last. A document has no question and is left out."""
    asked = [example for example in examples if _last_turn(example) > 0]
    count = min(number, len(asked))
    chosen = [asked[i * len(asked) // count] for i in range(count)]
    texts = [loaded.tokenizer.decode(one.ids[: _last_turn(one)].tolist()) for one in chosen]
    questions = last_question(loaded.renderer, texts)
    return [_probe(loaded, *one) for one in zip(chosen, questions, strict=True)]


# --- inside -----------------------------------------------------------------------------------------------


def _last_turn(example: Example) -> int:
    """Where the last run of learnt tokens begins."""
    starts = np.flatnonzero(np.diff(example.trained.astype(np.int8), prepend=0) == 1)
    return int(starts[-1])


def _probe(loaded: Loaded, example: Example, question: str | None) -> Probe:
    start = _last_turn(example)
    learnt = example.ids[start:][example.trained[start:]]
    decode = loaded.tokenizer.decode
    stop = set(loaded.renderer.stop_ids)
    reference = decode([int(i) for i in learnt if int(i) not in stop], skip_special_tokens=True)
    prompt = tuple(int(i) for i in example.ids[:start])
    shown = decode(list(prompt), skip_special_tokens=True) if question is None else question
    return Probe(example.row, shown, prompt, reference.strip())


def answer_both(
    loaded: Loaded, probes: Sequence[Probe], max_new_tokens: int, held: BaseConfig | None = None
) -> tuple[list[tuple[Sample, Sample]], str]:
    """(base's answer, adapter's answer) to each prompt, and who wrote them. Greedy."""
    if not probes:
        return [], ""
    with speaking(loaded, held, ids_of(probes), Settings(max_new_tokens=max_new_tokens)) as speaker:
        tuned = samples_of(speaker, probes, "the adapter")
        base = samples_of(speaker, probes, "the base", base=True)
        return list(zip(base, tuned, strict=True)), speaker.kind


def _compare(base: np.ndarray, tuned: np.ndarray, weights: np.ndarray, seed: int) -> Compared:
    total = weights.sum()
    difference = paired_bootstrap(base, tuned, weights, seed)
    return Compared(float(base.sum() / total), float(tuned.sum() / total), difference)


def _chrf(sample: Sample) -> float:
    return chrf(sample.answer, sample.reference)


def _exact_match(sample: Sample) -> float:
    return exact_match(sample.answer, sample.reference)


def _stopped(sample: Sample) -> float:
    return 100.0 * sample.stopped
