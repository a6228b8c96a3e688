"""What a GPU of a given size could train, from shapes alone: neither the GPU nor the model need be here."""

from __future__ import annotations

from dataclasses import dataclass

from sapwood.machine.device import CONTEXT, Device
from sapwood.plan.footprint import Footprint
from sapwood.plan.memory import BaseSize, MemoryPlan, Workload, fewest_recomputed
from sapwood.plan.shapes import Shapes

WIDTH = 2  # bytes of a number of bf16: dense weights, activations and products
NF4 = 0.5 + (1 + 4 / 256) / 64  # bytes a weight: 4 bits, 8 for a scale of 64, one in fp32 for 256 of them
RAM = 8_000_000_000  # bytes to be had beside such a card: half of an ordinary machine's
TRAINED = 16  # bytes of a number that is trained by Adam: itself, gradient and two moments in fp32


@dataclass(frozen=True, slots=True)
class Unplugged(Device):
    """A GPU of so many bytes that isn't here, with nothing on it but what CUDA takes for a process."""

    total: int = 0

    @classmethod
    def of(cls, gigabytes: int) -> Unplugged:
        """As vendors count: a card of 8 GB has 8 times 2^30 bytes."""
        return cls("cuda", total=gigabytes << 30)

    def memory(self) -> tuple[int, int]:
        return 0, self.total - CONTEXT

    def ram(self) -> int:
        return RAM


def nf4_size(shapes: Shapes) -> BaseSize:
    """The base in nf4 with doubly quantised scales; embedding and head in bf16."""
    dense = shapes.weights - shapes.linears
    unpacked = WIDTH * shapes.hidden * shapes.widest
    return BaseSize("nf4", NF4 * shapes.linears + WIDTH * dense, unpacked, WIDTH, WIDTH)


def trained_numbers(shapes: Shapes, rank: int) -> int:
    """Of LoRA on all seven linears of a Llama-like layer."""
    hidden, keys, mlp = shapes.hidden, shapes.cache // 2, shapes.widest
    return rank * shapes.layers * (4 * hidden + 2 * (hidden + keys) + 3 * (hidden + mlp))


def dense_pack(tokens: int) -> Footprint:
    """A pack whose tokens are all learnt, by an attention that keeps no scores."""
    return Footprint(tokens, tokens, kept_scores=tokens, widest_scores=0)


def on_card(shapes: Shapes, tokens: int, rank: int, card: Device) -> MemoryPlan:
    """The plan of training so many tokens a pass on an nf4 base there, with as few layers computed twice as
    it takes."""
    work = Workload(dense_pack(tokens), TRAINED * trained_numbers(shapes, rank), device=card)
    return fewest_recomputed(shapes, work, nf4_size(shapes))
