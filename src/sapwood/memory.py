"""The memory plan: how much a run will hold at its worst moment, and what it does where that is too much.

    peak = the process before the weights + weights + adapter with gradients and moments
         + what the layers keep for the backward pass + the widest moment: the loss, or one layer's backward

Everything is counted from shapes and from the run's largest pack. The few factors that can't be counted
(holes in the heap, libraries) were measured; `bench/memory.py` compares the plan with real runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sapwood.config import RunConfig
from sapwood.model.base import skeleton
from sapwood.model.loss import CHUNK_BYTES, PAD_TO
from sapwood.model.machine import available_memory, fastest_dtype, resident_bytes
from sapwood.model.recompute import layers_to_recompute
from sapwood.model.shapes import Shapes, adapter_parameters, shapes_of
from sapwood.pack.footprint import Footprint, footprint
from sapwood.study import Study
from sapwood.track.figures import size
from sapwood.train.rehearse import longest_pack

WIDTHS = {"fp32": 4, "bf16": 2, "fp16": 2}
PROCESS = 440e6  # Python with torch, transformers and a tokenizer, before the weights
LIBRARIES = 50e6  # imported with the weights: PEFT and what it imports
HOLES = 1.25  # heap that the activations of a step occupy, over what they hold
ADAPTER_BYTES = 16  # a parameter, its gradient and two moments in fp32
MARGIN = 0.92  # of the memory that is to be had: others want some too


@dataclass(frozen=True, slots=True)
class Workload:
    """What one run puts on a model, whatever the model is held in: its largest pack, the parameters of its
    adapter, the bytes of the model's files, its sample answers (how many at once, and how long with their
    prompts)."""

    pack: Footprint
    adapter: int
    files: int = 0
    answers: int = 0
    answer_tokens: int = 0


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes, at most at once, of one way to run.

    recomputed: layers that keep only their input. process: before the weights. peak: of the whole.
    available: what this process may hold, with what it holds already.
    """

    storage: str
    recomputed: int
    layers: int
    process: float
    weights: float
    adapter: float
    activations: float
    moment: float
    peak: float
    available: int

    @property
    def fits(self) -> bool:
        return self.peak <= MARGIN * self.available

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"fits": self.fits}


@dataclass(frozen=True, slots=True)
class Choice:
    """The plan of a run, why it is that one, and the others that were weighed."""

    plan: MemoryPlan
    why: str
    others: tuple[MemoryPlan, ...]

    def to_json(self) -> dict[str, Any]:
        return self.plan.to_json() | {"why": self.why, "others": [other.to_json() for other in self.others]}

    def lines(self) -> list[str]:
        """A line, and a table of storages with the one that is taken marked."""
        plan = self.plan
        verdict = "fits" if plan.fits else "does NOT fit"
        head = (
            f"memory     about {size(int(plan.peak))} at most: {verdict} in the "
            f"{size(plan.available)} to be had; {self.why}"
        )
        rows = sorted([plan, *self.others], key=lambda row: row.peak, reverse=True)
        return [head, *(_row(row, row is plan) for row in rows)]


def _row(plan: MemoryPlan, chosen: bool) -> str:
    layers = f"{plan.recomputed} of {plan.layers} layers recomputed"
    verdict = "fits" if plan.fits else "too much"
    mark = "▸" if chosen else " "
    return f"         {mark} {plan.storage:<6} {layers:<28} {size(plan.peak):>9}  {verdict}"


# --- one plan ---------------------------------------------------------------------------------------------


def plan_memory(shapes: Shapes, work: Workload, storage: str, recomputed: int = 0) -> MemoryPlan:
    """The peak of a run that holds its base in ``storage`` and computes ``recomputed`` layers twice."""
    width = WIDTHS[storage]
    held = resident_bytes()
    process = max(PROCESS, held)
    weights = float(width * shapes.weights)
    adapter = float(ADAPTER_BYTES * work.adapter)
    pack = work.pack
    layer = width * (shapes.kept * pack.tokens + shapes.heads * pack.kept_scores)
    once = width * shapes.hidden * pack.tokens
    kept = (shapes.layers - recomputed) * layer + recomputed * once
    backward = _backward(shapes, pack, width)
    training = kept + max(_loss(shapes, pack, width), backward)
    if recomputed:  # the last of them is computed again while the inputs of all are there
        training = max(training, recomputed * once + layer + backward)
    # while it is read, a file is mapped beside the weights; the adapter isn't there yet
    moment = max(HOLES * training, work.files - adapter, _answering(shapes, work, width))
    return MemoryPlan(
        storage=storage,
        recomputed=recomputed,
        layers=shapes.layers,
        process=process + LIBRARIES,
        weights=weights,
        adapter=adapter,
        activations=kept,
        moment=moment - kept,
        peak=process + LIBRARIES + weights + adapter + moment,
        available=available_memory() + held,
    )


def _loss(shapes: Shapes, pack: Footprint, width: int) -> float:
    """A chunk of logits in fp32, the exponentials of their sum, and the same in the model's own format."""
    chunk = max(PAD_TO, CHUNK_BYTES // (4 * shapes.vocabulary))
    rows = min(chunk, -(-pack.targets // PAD_TO) * PAD_TO)
    return rows * shapes.vocabulary * 8.0 + 2 * width * shapes.hidden * pack.targets


def _backward(shapes: Shapes, pack: Footprint, width: int) -> float:
    """Gradients of one layer while they are alive: some six of the widest activation, or the scores of the
    largest group of segments, which are computed again."""
    return float(width) * max(6 * shapes.widest * pack.tokens, 5 * shapes.heads * pack.widest_scores)


def _answering(shapes: Shapes, work: Workload, width: int) -> float:
    """Keys and values of the answers, twice while they grow by a token, and one layer's activations."""
    tokens = work.answers * work.answer_tokens
    return width * (2.0 * shapes.layers * shapes.cache + 3 * shapes.widest) * tokens


# --- a run's plans ----------------------------------------------------------------------------------------


def workload(study: Study, config: RunConfig, network: Any) -> Workload:
    capped = getattr(network.config.get_text_config(), "attn_logit_softcapping", None) is not None
    prompt = max((len(probe.ids) for probe in study.probes), default=0)
    return Workload(
        pack=footprint(longest_pack(study.data, config), softcap=capped),
        adapter=adapter_parameters(network, config.lora.targets, config.lora.rank),
        files=_files(study.spec.path),
        answers=min(len(study.probes), 16),
        answer_tokens=prompt + config.eval.max_new_tokens,
    )


def _files(path: Path) -> int:
    files = path.glob("*.safetensors") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def choose_plan(study: Study, config: RunConfig) -> Choice:
    """What the config asks for; and where it says ``auto``, the fastest that fits.

    Storages are tried as this machine is fast in them; within one, layers are recomputed only as far as it
    takes. Where nothing fits, the smallest is taken, and its plan says so.
    """
    network = skeleton(study.spec)
    shapes, work = shapes_of(network), workload(study, config, network)
    layers = config.train.gradient_checkpointing
    fastest = fastest_dtype()[1]["dtype"]
    order = [fastest, *(name for name in ("bf16",) if name != fastest)]
    candidates = order if config.base.storage == "auto" else [config.base.storage]

    def settled(storage: str) -> MemoryPlan:
        if layers != "auto":
            return plan_memory(shapes, work, storage, layers_to_recompute(layers, shapes.layers))
        return fewest_recomputed(shapes, work, storage)

    tried = [settled(storage) for storage in candidates]
    fitting = [plan for plan in tried if plan.fits]
    plan = fitting[0] if fitting else min(tried, key=lambda plan: plan.peak)
    names = dict.fromkeys([*order, "fp32", "bf16"])
    others = [plan_memory(shapes, work, storage, count) for storage in names for count in (0, shapes.layers)]
    others = [
        other for other in others if (other.storage, other.recomputed) != (plan.storage, plan.recomputed)
    ]
    return Choice(plan, _why(plan, tried, config, fastest), tuple(others))


def settled(config: RunConfig, plan: MemoryPlan) -> RunConfig:
    """``auto`` as what it means on this machine: a resumed run must not measure again and find otherwise."""
    base = config.base.model_copy(update={"storage": plan.storage})
    train = config.train
    if train.gradient_checkpointing == "auto":
        train = train.model_copy(update={"gradient_checkpointing": plan.recomputed})
    return config.model_copy(update={"base": base, "train": train})


def cheaper(study: Study, config: RunConfig) -> list[str]:
    """Up to three changes that need less memory, the cheapest first, each with what it would need. ``config``
    has no ``auto`` left."""
    network = skeleton(study.spec)
    shapes, work = shapes_of(network), workload(study, config, network)
    storage = config.base.storage
    layers = layers_to_recompute(config.train.gradient_checkpointing, shapes.layers)
    found: list[tuple[str, float]] = []

    def propose(text: str, work: Workload, storage: str = storage, layers: int = layers) -> None:
        found.append((text, plan_memory(shapes, work, storage, layers).peak))

    def packed(length: int) -> Workload:
        shorter = config.pack.model_copy(update={"length": length})
        return workload(study, config.model_copy(update={"pack": shorter}), network)

    row = max(16, *(len(example) for example in study.data.train))
    if row < work.pack.tokens:
        propose(f"pack.length={row}", packed(row))  # the same curve, somewhat slower
    if layers < shapes.layers:
        propose("train.gradient_checkpointing=true", work, layers=shapes.layers)
    if storage == "fp32":
        propose("base.storage=bf16", work, storage="bf16")
    if config.lora.rank > 1:
        rank = config.lora.rank // 2
        propose(f"lora.rank={rank}", replace(work, adapter=work.adapter * rank // config.lora.rank))
    half = replace(work.pack, tokens=work.pack.tokens // 2, targets=work.pack.targets // 2, kept_scores=0)
    propose("a smaller base.model, or shorter rows", replace(work, pack=half))
    return [f"{text} (about {size(need)})" for text, need in found[:3]]


def fewest_recomputed(shapes: Shapes, work: Workload, storage: str) -> MemoryPlan:
    """The plan with as few recomputed layers as fit; all of them where nothing fits."""
    plans = (plan_memory(shapes, work, storage, count) for count in range(shapes.layers + 1))
    last = None
    for plan in plans:
        last = plan
        if plan.fits:
            break
    assert last is not None
    return last


def _why(plan: MemoryPlan, tried: Sequence[MemoryPlan], config: RunConfig, fastest: str) -> str:
    if config.base.storage != "auto":
        return f"{plan.storage}, as the config says"
    if plan.storage == fastest:
        return f"{plan.storage} is the fastest here"
    first = tried[0]
    return f"{first.storage} would be faster, and needs {size(int(first.peak))}"
