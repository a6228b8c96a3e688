"""Memory on a card, on paper: the plan against peaks that others have published, and the page's table."""

from __future__ import annotations

import runpy
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sapwood.machine.device import CONTEXT
from sapwood.plan.cards import TRAINED, WIDTH, Unplugged, dense_pack, nf4_size, on_card, trained_numbers
from sapwood.plan.memory import CARD, BaseSize, Workload, plan_memory
from sapwood.plan.shapes import Shapes, usual_shapes

DOCS = Path(__file__).parents[2] / "docs"
LLAMA = usual_shapes(32, 4096, 14_336, 32, 8, 128_256, tied=False)
QWEN = usual_shapes(32, 4096, 11_008, 32, 32, 151_936, tied=False)
HUGE = Unplugged.of(1000)


@dataclass(frozen=True, slots=True)
class Way:
    """How somebody else trains, as far as it differs from a plan of ours with every layer computed twice.

    trained: bytes of a number that is trained. logits: bytes of a logit, all of them at once. inputs: do the
    layers' inputs stay on the card? wide: tensors as wide as the MLP that one layer's backward pass makes.
    """

    shapes: Shapes
    base: BaseSize
    rank: int
    trained: int = TRAINED
    logits: int = 0
    inputs: bool = True
    wide: int = 6

    def peak(self, tokens: int) -> float:
        work = Workload(
            dense_pack(tokens), self.trained * trained_numbers(self.shapes, self.rank), device=HUGE
        )
        plan = plan_memory(self.shapes, work, self.base, self.shapes.layers)
        inputs = CARD.kept[WIDTH] * plan.activations
        layer = plan.peak - plan.process - plan.weights - plan.adapter - inputs
        layer -= CARD.passing * (6 - self.wide) * WIDTH * self.shapes.widest * tokens
        logits = CARD.passing * self.logits * self.shapes.vocabulary * tokens
        held = CONTEXT + plan.process + plan.weights + plan.adapter
        return held + self.inputs * inputs + max(layer, logits)


def fp32_head(base: BaseSize, shapes: Shapes) -> BaseSize:
    """PEFT's preparation for 4 bits turns embedding and head into fp32."""
    return replace(base, weights=base.weights + 2 * (shapes.weights - shapes.linears))


def gptq(shapes: Shapes) -> BaseSize:
    """4 bits with scales and zeros for 128, by torch's own operations: a layer's weights are kept in fp16 for
    its backward pass, and the widest is unpacked through 7 bytes a number. The plan counts that twice."""
    layer, widest = shapes.linears // shapes.layers, 4096 * 12_288
    weights = (0.5 + 2.5 / 128) * shapes.linears + 2 * WIDTH * shapes.embedding
    return BaseSize("gptq", weights, (WIDTH * layer + 7 * widest) / 2, WIDTH, WIDTH)


# docs.unsloth.ai/basics/unsloth-benchmarks: Llama 3.1 8B, rank 32, batches of one, the longest row that a
# card takes: GB, tokens. Unsloth moves inputs to RAM, has moments of 8 bits and keeps no logits; the other
# column keeps all of them: in fp32, shifted, normalised, and their gradient. Unsloth's wide tensors are taken
# from the slope of these figures themselves, as are Qwen's bytes of a logit.
UNSLOTH = Way(LLAMA, nf4_size(LLAMA), 32, trained=10, inputs=False, wide=3)
UNSLOTH_PEAKS = ((8, 2972), (12, 21_848), (16, 40_724), (24, 78_475))
TRAINER = Way(LLAMA, fp32_head(nf4_size(LLAMA), LLAMA), 32, logits=16)
TRAINER_PEAKS = ((12, 932), (16, 2551), (24, 5789), (40, 12_264), (48, 15_502), (80, 28_454))
# README of QwenLM/Qwen: Qwen-7B Q-LoRA on one A100, GPTQ in fp16, rank 64 of its finetune.py: GB, tokens.
OF_QWEN = Way(QWEN, gptq(QWEN), 64, logits=8)
QWEN_PEAKS = ((11.5, 256), (11.5, 512), (12.3, 1024), (13.9, 2048), (16.9, 4096), (23.5, 8192))


@pytest.mark.parametrize(
    ("way", "peaks"),
    [(UNSLOTH, UNSLOTH_PEAKS), (TRAINER, TRAINER_PEAKS), (OF_QWEN, QWEN_PEAKS)],
    ids=["unsloth", "trainer", "qwen"],
)
def test_the_plans_sums_give_published_peaks(way: Way, peaks: tuple[tuple[float, int], ...]) -> None:
    """With what they do otherwise put in: weights, what is trained, inputs, one layer, context, waste."""
    off = {tokens: way.peak(tokens) / (gigabytes * 1e9) - 1 for gigabytes, tokens in peaks}
    assert all(abs(share) <= 0.15 for share in off.values()), off


def test_ours_needs_less_than_either() -> None:
    """Without whole logits, and with fewer layers computed twice where there is room."""
    for gigabytes, tokens in TRAINER_PEAKS[:3]:
        plan = on_card(LLAMA, tokens, 32, Unplugged.of(gigabytes))
        assert plan.fits
        assert plan.recomputed < LLAMA.layers


def test_a_larger_card_computes_fewer_layers_twice() -> None:
    plans = [on_card(LLAMA, 4096, 16, Unplugged.of(size)) for size in (8, 12, 16, 24, 80)]
    twice = [plan.recomputed for plan in plans]
    assert twice == sorted(twice, reverse=True)
    assert (twice[0], twice[-1]) == (LLAMA.layers, 0)
    assert [plan.fits for plan in plans] == [False, True, True, True, True]


def test_the_pages_table_is_what_the_plan_says() -> None:
    script = runpy.run_path(str(DOCS / "gpu.py"))
    for name, page in script["pages"]().items():
        assert (DOCS / name).read_text(encoding="utf-8") == page, "run: python docs/gpu.py"
        assert page.count(" GB, ") >= 20, "a table is there"
