"""The training loop: a generator of events.

The consumer prints, stores, saves, or stops by leaving the loop. Between two yields the state is consistent,
so that is where checkpoints happen. Randomness is a counter: every generator is seeded from (seed, step,
pack), so a run that was killed and resumed draws the same numbers as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sapwood.adapter.effective import effective_head
from sapwood.adapter.inputs import attending, hidden_states
from sapwood.adapter.model import LoraModel
from sapwood.adapter.soft_prompt import lead_length
from sapwood.compute.batch import Batch, to_batch
from sapwood.compute.loss import LossSum, label_loss
from sapwood.config.sections import RunConfig
from sapwood.errors import BadStepError, NumericsError
from sapwood.machine.doing import counted, doing
from sapwood.native.heap import release_heap
from sapwood.pack.build import build_pack, with_lead
from sapwood.pack.plan import plan_for
from sapwood.scores import score_answers
from sapwood.train.measures import Measure, judged
from sapwood.train.optim import TrainState
from sapwood.train.processes.world import ALONE, World
from sapwood.train.schedule import learning_rate, members, plan_steps
from sapwood.types import (
    Evaluated,
    Event,
    Example,
    Finished,
    Head,
    Pack,
    Sample,
    Stepped,
    TrainData,
)

# The input's number in the seed of torch's own generator, which is seeded before each pack. DoRA's dropout,
# for example, draws from that generator. The inputs of our own masks count from 0; NEFTune's noise has -1.
GENERATOR = -2

MOST_SKIPPED = 10  # bad steps in a row, from which on single rows can't be the cause

Sampler = Callable[[], Sequence[Sample]]


def train(
    model: LoraModel,
    data: TrainData,
    state: TrainState,
    config: RunConfig,
    sampler: Sampler | None = None,
    world: World = ALONE,
    measure: Measure | None = None,
) -> Iterator[Event]:
    """Go on from ``state`` to the end of the run.

    Yields `Evaluated` at step 0 (before training), `Stepped` for every optimizer step, `Evaluated` whenever
    it is due and after the last step, and `Finished`: after the last step, or once `eval.patience`
    evaluations in a row were no better than the best. Raises NumericsError before a step that would spoil the
    adapter; or skips that step, if `train.on_nan` says so. If there are several processes, each goes through
    the same steps, and computes its share of the packs.
    """
    settings = config.train
    schedule = plan_steps(len(data.train), settings)
    every = config.eval.every or schedule.steps_per_epoch
    started = time.monotonic()
    model = replace(model, neftune=settings.neftune)
    model.learn()
    bad = 0
    while True:
        due = state.step % every == 0 or state.step >= schedule.total_steps
        if data.eval and due and state.evaluated != state.step:
            event = evaluate(model, data.eval, config, state.step, sampler, world, measure)
            state.measured(event.loss, judged(event, config.eval.best))
            yield event
        early = config.eval.patience is not None and state.stale >= config.eval.patience
        if early or state.step >= schedule.total_steps:
            break
        tick = time.monotonic()
        chosen, after = members(schedule, settings.seed, state.cursor)
        packs = pack_examples([data.train[i] for i in chosen], config, world.size)
        model.clock.step = state.step
        lr = learning_rate(state.step, schedule, settings)
        try:
            loss, grad_norm = optimizer_step(model, packs, state, lr, settings.max_grad_norm, world)
            bad, skipped = 0, None
        except BadStepError as error:
            bad += 1
            if settings.on_nan == "stop" or bad == MOST_SKIPPED:
                raise
            loss, grad_norm = math.nan, math.nan
            skipped = f"{error.problems[0].what}: skipped, {error.problems[0].where}"
        state.step += 1
        state.cursor = after
        yield Stepped(
            step=state.step,
            loss=loss,
            num_targets=sum(len(pack.targets) for pack in packs),
            num_tokens=sum(len(data.train[i]) for i in chosen),
            lr=lr,
            grad_norm=grad_norm,
            seconds=time.monotonic() - tick,
            peak_bytes=model.backend.device.peak_bytes(),
            epoch=after.epoch + after.index / schedule.num_examples,
            num_examples=len(chosen),
            skipped=skipped,
        )
    release_heap()
    reason = "done" if state.step >= schedule.total_steps else "stopped early"
    yield Finished(state.step, reason, time.monotonic() - started)


def pack_examples(examples: Sequence[Example], config: RunConfig, processes: int = 1) -> list[Pack]:
    """The forward passes of one optimizer step, of all processes. With NEFTune, rows share no beginning,
    because each row has noise of its own."""
    alone = config.pack.rows == "alone"
    share = config.pack.share_prefixes and not config.train.neftune and not alone
    most = 1 if alone else config.train.micro_batch
    ids = [example.ids for example in examples]
    bins = plan_for(processes, ids, config.pack.length, share_prefixes=share, most=most)
    return [build_pack([examples[i] for i in chosen], share_prefixes=share) for chosen in bins]


def batch_of(model: LoraModel, pack: Pack) -> Batch:
    """The pack as the model takes it, behind the soft prompt if there is one and it is switched on."""
    return to_batch(with_lead(pack, lead_length(model.peft)), model.device, padded=not model.alone)


def optimizer_step(
    model: LoraModel,
    packs: Sequence[Pack],
    state: TrainState,
    lr: float,
    max_grad_norm: float,
    world: World = ALONE,
) -> tuple[float, float]:
    """Forward and backward over ``packs``, clip, step. Returns the mean loss and the gradient's norm before
    clipping. The sums of all packs are divided once, by all targets of the step (the sum of their weights),
    so that any split into packs and among processes gives the same gradient. A pack's dropout masks belong to
    its number in the step: they don't depend on who computes it."""
    weight = sum(pack.weight for pack in packs)
    mean = norm = math.nan
    for magnified in _scales(model, weight):
        total = _gather(model, packs, state, weight, magnified, world)
        mean = world.totals(total)[0] / weight
        norm = float(torch.nn.utils.clip_grad_norm_(state.parameters.values(), max_grad_norm or math.inf))
        if math.isfinite(norm) or not math.isfinite(mean):
            break
    _refuse_bad_numbers(mean, norm, packs, state.step + 1)
    state.set_rate(lr)
    state.optimizer.step()
    return mean, norm


def _scales(model: LoraModel, weight: float) -> Iterator[float]:
    """What a step's gradients are multiplied with on their way back, most to least: near one for each target,
    since a share of a step's loss is lost below fp16's smallest number. A power of two changes no bit of the
    other formats, and fp16's largest number is near too: if gradients went past it, they are computed again,
    smaller. Nothing is kept from step to step, so that a resumed run tries the same."""
    usual = math.floor(math.log2(weight))
    for less in (0, 4, 8, 12) if in_fp16(model) else (0,):
        yield 2.0 ** (usual - less)


def in_fp16(model: LoraModel) -> bool:
    """Do numbers go through fp16, which has none above 65,504?"""
    return any(parameter.dtype == torch.float16 for parameter in model.network.parameters())


def _gather(
    model: LoraModel,
    packs: Sequence[Pack],
    state: TrainState,
    weight: float,
    magnified: float,
    world: World,
) -> float:
    """The step's gradients, of all processes. Returns this process's share of the loss."""
    state.optimizer.zero_grad(set_to_none=True)
    total = 0.0
    with attending(model):
        for index, factor in own_share(model, packs, world):
            model.clock.pack = index
            torch.manual_seed(model.clock.at(GENERATOR))
            loss = forward_loss(model, batch_of(model, packs[index]))
            (loss.total * (factor / weight * magnified)).backward()
            total += factor * float(loss.total.detach())
    world.add_up(gradients(state))
    for gradient in gradients(state):
        gradient.div_(magnified)
    return total


def own_share(model: LoraModel, packs: Sequence[Pack], world: World) -> list[tuple[int, float]]:
    """(index of a pack, factor of its loss) for each pass that this process makes."""
    return world.share([len(pack.ids) for pack in packs], lockstep=model.divided is not None)


def gradients(state: TrainState) -> list[Tensor]:
    """One for each parameter; zeros if this process had no pack."""
    for parameter in state.parameters.values():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return [parameter.grad for parameter in state.parameters.values() if parameter.grad is not None]


def forward_loss(model: LoraModel, batch: Batch) -> LossSum:
    """One pack through the decoder: the sum of its targets' losses."""
    if model.divided is not None:
        return model.divided(model, batch)
    return decoder_loss(model, batch, effective_head(model) if model.ends else model.head)


def decoder_loss(model: LoraModel, batch: Batch, head: Head) -> LossSum:
    """`forward_loss` of a model whose weights are all at hand."""
    hidden = hidden_states(model, batch)
    return label_loss(hidden, batch.predict_at, batch.targets, head, model.backend, batch.weights)


def evaluate(
    model: LoraModel,
    examples: Sequence[Example],
    config: RunConfig,
    step: int,
    sampler: Sampler | None = None,
    world: World = ALONE,
    measure: Measure | None = None,
) -> Evaluated:
    """Held-out loss: the weighted mean over all targets. Leaves the model in training mode, and every
    generator as it was. ``measure``: further figures, which join the scores of the samples."""
    started = time.monotonic()
    model.peft.eval()
    packs = pack_examples(examples, config, world.size)
    num_targets = sum(len(pack.targets) for pack in packs)
    total = 0.0
    what = "measuring the base" if step == 0 else f"measuring after step {step}"
    with torch.no_grad(), attending(model):
        for index, factor in counted(what, own_share(model, packs, world)):
            total += factor * float(forward_loss(model, batch_of(model, packs[index])).total)
    total = world.totals(total)[0]
    if not math.isfinite(total):
        raise NumericsError(
            f"held-out loss {total} after step {step}",
            "data.eval",
            *_why_not_finite(model, step),
        )
    with doing("answering the sample questions"):
        samples = tuple(sampler()) if sampler is not None else ()
    scores = score_answers(samples)
    if measure is not None:
        with torch.random.fork_rng():
            scores |= measure()
    model.learn()
    seconds = time.monotonic() - started
    mean = total / sum(pack.weight for pack in packs)
    return Evaluated(step, mean, num_targets, seconds, samples, scores)


def _why_not_finite(model: LoraModel, step: int) -> tuple[str, str]:
    """(why, mend) of a held-out loss that isn't a number."""
    if step:
        return "the adapter would give no answer", "lower train.lr, and start anew"
    if in_fp16(model):
        why = "the base is damaged, or it makes numbers above fp16's largest, 65,504"
        return why, "base.storage: fp32 has room for them; on a GPU with bf16, bf16"
    return "the base is damaged", "check the base model's files"


def _refuse_bad_numbers(loss: float, norm: float, packs: Sequence[Pack], step: int) -> None:
    """Stop before the optimizer would carry the fault into the adapter."""
    if math.isfinite(loss) and math.isfinite(norm) and loss != 0.0:
        return
    what = "loss is exactly zero" if loss == 0.0 else f"loss {loss}, gradient norm {norm}"
    rows = ", ".join(str(row) for pack in packs for row in pack.rows[:8])
    kind = NumericsError if loss == 0.0 else BadStepError
    raise kind(
        f"{what} at step {step}",
        f"rows {rows}",
        "the adapter would be spoilt; it is untouched, as after the step before",
        "lower train.lr, look at these rows with `sapwood show`, or go past such steps: train.on_nan: skip",
    )
