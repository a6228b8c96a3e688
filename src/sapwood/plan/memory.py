"""The plan of one way to run, counted from shapes and from the run's largest pack:

    peak = the process before the weights + weights + adapter with gradients and moments
         + what the layers keep for the backward pass + the widest moment: the loss, or one layer's backward

The few factors that can't be counted (what lies between tensors, libraries) were measured; `bench/memory.py`
compares plans with real runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sapwood.base.storage.storages import storage_dtype, unpacked_bytes, weight_bytes
from sapwood.compute.loss import PAD_TO, ROWS, VOCABULARY
from sapwood.config.sections import BaseConfig, RunConfig
from sapwood.machine.device import CPU, Device
from sapwood.plan.footprint import Footprint, attention_of, footprint
from sapwood.plan.shapes import KNOWN, Shapes, adapted_experts, trained_parameters
from sapwood.train.optim import MOMENTS
from sapwood.types import BaseSpec

if TYPE_CHECKING:
    from sapwood.prepare.study import Study

PROCESS = 440e6  # Python with torch, transformers and a tokenizer, before the weights
LIBRARIES = 50e6  # libraries that come with the weights: PEFT and its imports
WORKSPACES = 200e6  # on a GPU: cuBLAS's 32 MiB in each of two threads, and loaded kernels
MARGIN = 0.92  # of the free memory: the rest is for other programs
SUM = 4  # bytes of a number of the experts' sums with what is learnt
MAX_ANSWERS = 16  # sample answers that are written at once


@dataclass(frozen=True, slots=True)
class Waste:
    """Factors of the memory that a step's activations occupy, over the bytes of their numbers (measured,
    bench/memory.py). kept: of activations for the backward pass, by bytes of a number. passing: of the
    others, in the format of products."""

    kept: Mapping[int, float]
    passing: float


HEAP = Waste({2: 1.12, 4: 1.12}, 1.5)  # native/heap.py
USUAL = Waste({2: 2.0, 4: 1.75}, 6.0)  # the C library's, with holes between tensors
CARD = Waste({2: 1.08, 4: 1.08}, 1.08)  # torch's on a GPU: blocks of 2 MiB, cut and joined (not measured yet)


@dataclass(frozen=True, slots=True)
class BaseSize:
    """Bytes of a base. weights: of all. unpacked: of the largest weight that is unpacked for a moment.
    saved_width: of a number that is kept for the backward pass; matmul_width: in products, and between
    layers."""

    storage: str
    weights: float
    unpacked: float
    saved_width: int
    matmul_width: int


def base_size(spec: BaseSpec, config: BaseConfig) -> BaseSize:
    """``config``: it has no ``auto`` left."""
    width = storage_dtype(config).itemsize
    wide = 4 if config.products == "fp32" else width
    return BaseSize(config.storage, weight_bytes(spec, config), unpacked_bytes(spec, config), width, wide)


@dataclass(frozen=True, slots=True)
class Workload:
    """What one run needs besides the base, in any storage: its largest pack, the bytes of what is trained and
    of the model's files, its sample answers (how many at once, and how long with their prompts), and the
    device."""

    pack: Footprint
    adapter: float
    files: int = 0
    answers: int = 0
    answer_tokens: int = 0
    device: Device = CPU


def workload(study: Study, config: RunConfig, network: Any, device: Device) -> Workload:
    """network: the base's skeleton."""
    from sapwood.train.rehearse import longest_pack  # with the training loop: `what_fits` does without

    prompt = max((len(probe.ids) for probe in study.probes), default=0)
    return Workload(
        pack=footprint(longest_pack(study.data, config), attention_of(network, device)),
        adapter=_trained_bytes(network, config),
        files=_files(study.spec.path),
        answers=min(len(study.probes), MAX_ANSWERS),
        answer_tokens=prompt + config.eval.max_new_tokens,
        device=device,
    )


def _trained_bytes(network: Any, config: RunConfig) -> float:
    """Weight, gradient and moments of what is trained, in fp32 but for moments in blocks of 8 bits; and the
    experts with what is learnt of them."""
    kind = MOMENTS[config.train.optimizer]
    each = 8 + len(kind.names) * (1 if kind.blocks else 4)
    if config.lora.method == "full":
        each -= 4  # the weight is the base's own
    summed, largest = adapted_experts(network, config.lora)
    return float(each * trained_parameters(network, config.lora) + SUM * summed + 2 * SUM * largest)


def _files(path: Path) -> int:
    files = path.glob("*.safetensors") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes, at most at once, of one way to run.

    recomputed: layers that keep only their input. process: before the weights. peak: of the whole.
    available: what this process may hold, with what it holds already.
    offloaded: of these inputs in RAM, if they don't stay on the device; ram: to be had for them.
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
    offloaded: float = 0.0
    ram: int = 0

    @property
    def fits(self) -> bool:
        return self.peak <= MARGIN * self.available and self.offloaded <= MARGIN * self.ram

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"fits": self.fits}


def plan_memory(
    shapes: Shapes, work: Workload, base: BaseSize, recomputed: int = 0, *, offload: bool = False
) -> MemoryPlan:
    """The peak of a run on ``base`` that computes ``recomputed`` layers twice. offload: their inputs wait in
    RAM, if that isn't where all is anyway."""
    now, free = work.device.memory()
    in_ram = work.device.is_cpu  # otherwise only tensors count: files and most code aren't on the device
    process = max(PROCESS, now) + LIBRARIES if in_ram else now + WORKSPACES
    pack, width, wide = work.pack, base.saved_width, base.matmul_width
    layer = width * (shapes.kept * pack.tokens + shapes.heads * pack.kept_scores)
    once = wide * shapes.hidden * pack.tokens
    offload = offload and not in_ram
    inputs = (min(recomputed, 2) if offload else recomputed) * once  # one is used, one on its way
    kept = (shapes.layers - recomputed) * layer + inputs
    backward = _backward(shapes, pack, wide) + 2 * base.unpacked
    training = kept + max(_loss(shapes, pack, width), backward)
    if recomputed:  # the last layer is computed again while the inputs of all are in memory
        training = max(training, inputs + layer + backward)
    # while it is read, a file is mapped beside the weights; the adapter isn't there yet
    reading = work.files - work.adapter if in_ram else 0.0
    waste = (HEAP if work.device.heap else USUAL) if in_ram else CARD
    taken = waste.kept[width] * kept + waste.passing * (training - kept)
    moment = max(taken, reading, _answering(shapes, work, width))
    return MemoryPlan(
        storage=base.storage,
        recomputed=recomputed,
        layers=shapes.layers,
        process=process,
        weights=base.weights,
        adapter=work.adapter,
        activations=kept,
        moment=moment - kept,
        peak=process + base.weights + work.adapter + moment,
        available=free + now,
        offloaded=recomputed * once if offload else 0.0,
        ram=work.device.ram() if offload else 0,
    )


def fewest_recomputed(shapes: Shapes, work: Workload, base: BaseSize) -> MemoryPlan:
    """The plan with as few recomputed layers as fit; on a GPU, as a last resort, with all of them, and their
    inputs in RAM. With all of them if nothing fits."""
    for count in range(shapes.layers):
        plan = plan_memory(shapes, work, base, count)
        if plan.fits:
            return plan
    whole = plan_memory(shapes, work, base, shapes.layers)
    moved = plan_memory(shapes, work, base, shapes.layers, offload=True)
    return moved if moved.fits and not whole.fits else whole


def what_fits(storage: str, width: int, device: Device) -> dict[str, MemoryPlan]:
    """The plans of some well-known models: training at rank 8, on packs of 512 tokens, in a dense storage of
    ``width`` bytes a number."""
    pack = Footprint(tokens=512, targets=256, kept_scores=512 * 128, widest_scores=512 * 256)
    found: dict[str, MemoryPlan] = {}
    for name, shapes in KNOWN.items():
        adapter = 16.0 * 8 * 6 * (shapes.hidden + shapes.widest) * shapes.layers
        size = BaseSize(storage, width * shapes.weights, 0, width, width)
        found[name] = fewest_recomputed(shapes, Workload(pack, adapter, device=device), size)
    return found


def _loss(shapes: Shapes, pack: Footprint, width: int) -> float:
    """Logits of a part of the vocabulary, in fp32 and in the model's own format; the rows' gradients."""
    rows = min(ROWS, -(-pack.targets // PAD_TO) * PAD_TO)
    return rows * min(VOCABULARY, shapes.vocabulary) * (4.0 + width) + 12.0 * shapes.hidden * pack.targets


def _backward(shapes: Shapes, pack: Footprint, width: int) -> float:
    """Gradients of one layer while they are alive: some six of the widest activation, or the scores of the
    largest block of queries, which are computed again."""
    return float(width) * max(6 * shapes.widest * pack.tokens, 5 * shapes.heads * pack.widest_scores)


def _answering(shapes: Shapes, work: Workload, width: int) -> float:
    """Keys and values of the answers, twice while they grow by a token, and one layer's activations."""
    tokens = work.answers * work.answer_tokens
    return width * (2.0 * shapes.layers * shapes.cache + 3 * shapes.widest) * tokens
