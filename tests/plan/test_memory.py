"""The memory plan: what it counts is what autograd keeps, and what it chooses fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sapwood.base.storage.storages as storages_module
from sapwood.adapter.attach import attach_lora
from sapwood.adapter.model import LoraModel
from sapwood.base.inspect import skeleton
from sapwood.base.storage.storages import with_storage
from sapwood.compute.attention.seam import packed_attention
from sapwood.compute.batch import to_batch
from sapwood.compute.recompute import recompute_layers
from sapwood.config.file import parse_config
from sapwood.config.sections import LoraConfig, RunConfig
from sapwood.errors import ConfigError
from sapwood.machine import device as device_module
from sapwood.machine.device import CPU, Device
from sapwood.pack.build import build_pack
from sapwood.plan import choose
from sapwood.plan.choose import MemoryChoice, cheaper, choose_plan, settings_line, settled
from sapwood.plan.footprint import attention_of, footprint
from sapwood.plan.memory import MARGIN, base_size, plan_memory, workload
from sapwood.plan.shapes import shapes_of, trained_parameters
from sapwood.prepare.study import Study, study_config
from sapwood.train.loop import forward_loss
from sapwood.types import Pack
from tests.base.tiny import ARCHITECTURES, tiny_llama
from tests.machine.pretended import Card, plug_in
from tests.parity.cases import random_examples, tiny_base

GPU = Device("cuda")
PACK = build_pack(random_examples(8, shared=9, longest=60))


def kept_bytes(model: LoraModel, pack: Pack) -> int:
    """What autograd holds after the forward pass, parameters aside."""
    parameters = {p.untyped_storage().data_ptr() for p in model.peft.parameters()}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    model.peft.train()
    packed = packed_attention(model.network, model.backend)
    with packed, torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        loss = forward_loss(model, to_batch(pack))
    assert loss.num_targets
    return sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in parameters)


@pytest.mark.parametrize(("recomputed", "compiled"), [(0, True), (1, True), (2, True), (0, False)])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_what_layers_keep_is_counted_from_shapes(
    arch: str, recomputed: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact but for the adapter's own h, and the loss."""
    if not compiled:
        monkeypatch.setattr(Device, "compiled", False)
    base = tiny_base(arch)
    shapes = shapes_of(base.model)
    model = attach_lora(base, LoraConfig(rank=1, dropout=0.1))
    recompute_layers(model.network, recomputed)
    size = footprint(PACK, attention_of(base.model, CPU))
    layer = shapes.kept * size.tokens + shapes.heads * size.kept_scores
    layers = (shapes.layers - recomputed) * layer + recomputed * shapes.hidden * size.tokens
    last = shapes.hidden * (size.tokens + size.targets)  # the last norm's input, the loss's gradient
    assert kept_bytes(model, PACK) == pytest.approx(4 * (layers + last), rel=0.05)


@pytest.mark.parametrize("arch", ["mixtral", "qwen3moe"])
@pytest.mark.parametrize("chosen", [1, 2])
def test_what_experts_keep_is_counted_for_each_that_a_token_goes_through(arch: str, chosen: int) -> None:
    wide = {"intermediate_size": 512, "moe_intermediate_size": 512}
    base = tiny_base(arch, num_experts_per_tok=chosen, **wide)
    shapes = shapes_of(base.model)
    model = attach_lora(base, LoraConfig(rank=1, dropout=0.1))
    size = footprint(PACK, attention_of(base.model, CPU))
    layers = shapes.layers * (shapes.kept * size.tokens + shapes.heads * size.kept_scores)
    last = shapes.hidden * (size.tokens + size.targets)
    assert kept_bytes(model, PACK) == pytest.approx(4 * (layers + last), rel=0.08)


def test_weights_and_adapter_are_counted_from_shapes() -> None:
    for tied in (True, False):
        base = tiny_base("llama", tie_word_embeddings=tied)
        shapes = shapes_of(base.model)
        norms = 0.01 * shapes.weights
        assert shapes.weights == pytest.approx(sum(p.numel() for p in base.model.parameters()), abs=norms)
        counted = trained_parameters(base.model, LoraConfig(rank=4))
        model = attach_lora(base, LoraConfig(rank=4))
        assert counted == sum(p.numel() for p in model.parameters.values())


# --- choosing ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    tiny_llama(folder, num_hidden_layers=6)
    lines = [{"instruction": f"Tree {i}?", "output": "Water it well. " * 160} for i in range(12)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def make(folder: Path, **sections: Any) -> RunConfig:
    tree = {"data": {"train": str(folder / "rows.jsonl"), "eval": 2}, "pack": {"length": 2048}}
    return parse_config({"base": {"model": str(folder / "tiny-llama")}} | tree | sections)


@pytest.fixture(scope="module")
def study(rows: Path) -> Study:
    return study_config(make(rows))


def memory_of(monkeypatch: pytest.MonkeyPatch, num_bytes: float, fastest: str = "fp32") -> None:
    """A machine that has so many bytes left and is fastest in ``fastest``; the process holds nothing yet."""
    monkeypatch.setattr(Device, "memory", lambda device: (0, int(num_bytes)))
    monkeypatch.setattr(storages_module, "machine_facts", lambda device: {"dtype": fastest})


def plans(study: Study, config: RunConfig) -> dict[tuple[str, int], float]:
    network = skeleton(study.spec)
    shapes, work = shapes_of(network), workload(study, config, network, CPU)
    counts = range(shapes.layers + 1)
    held = (with_storage(study.spec, config.base, s, CPU) for s in ("fp32", "bf16", "nf4"))
    ways = {base.storage: base_size(study.spec, base) for base in held}
    return {(s, n): plan_memory(shapes, work, way, n).peak for s, way in ways.items() for n in counts}


def test_nothing_is_recomputed_where_everything_fits(
    rows: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory_of(monkeypatch, 1e12)
    choice = choose_plan(study, make(rows), CPU)
    assert (choice.plan.storage, choice.plan.recomputed, choice.plan.fits) == ("fp32", 0, True)
    assert "fp32 is the fastest here" in choice.why


def test_layers_are_recomputed_only_as_far_as_memory_asks(
    rows: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory_of(monkeypatch, 1e12)
    config = make(rows)
    peaks = plans(study, config)
    assert peaks["fp32", 0] > peaks["fp32", 3] > peaks["fp32", 5] > peaks["bf16", 5]
    for wanted in (1, 3, 5):
        memory_of(monkeypatch, (peaks["fp32", wanted] + 1) / MARGIN)
        choice = choose_plan(study, config, CPU)
        assert (choice.plan.storage, choice.plan.recomputed) == ("fp32", wanted)
        settled_config = settled(config, choice, CPU)
        assert settled_config.train.gradient_checkpointing == wanted
        assert settled_config.base.storage == "fp32"
        assert choose_plan(study, settled_config, CPU).plan.recomputed == wanted


def test_auto_takes_a_narrower_storage_before_it_gives_up(
    rows: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory_of(monkeypatch, 1e12)
    peaks = plans(study, make(rows))
    least = min(peak for (storage, _), peak in peaks.items() if storage == "fp32")
    assert least > min(peak for (storage, _), peak in peaks.items() if storage == "nf4")
    memory_of(monkeypatch, (least - 1) / MARGIN)
    choice = choose_plan(study, make(rows), CPU)
    assert (choice.plan.storage, choice.plan.fits) == ("nf4", True)
    assert "fp32 would be faster, and needs" in choice.why
    fixed = choose_plan(study, make(rows, base={"model": study.spec.source, "storage": "fp32"}), CPU)
    assert (fixed.plan.storage, fixed.plan.fits) == ("fp32", False)
    assert "does NOT fit" in fixed.lines()[0]


def test_the_table_marks_the_plan_that_is_taken(
    rows: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory_of(monkeypatch, 1e9, fastest="bf16")
    choice = choose_plan(study, make(rows, train={"gradient_checkpointing": 2}), CPU)
    head, *table = choice.lines()
    assert "at most: fits in the 1.0 GB available; bf16 is the fastest here" in head
    assert [line.split()[0] for line in table].count("▸") == 1
    marked = next(line for line in table if "▸" in line)
    assert "bf16" in marked and "2 of 6 layers recomputed" in marked
    assert {(other.storage, other.recomputed) for other in choice.others} == {
        (storage, count) for storage in ("fp32", "bf16", "nf4") for count in (0, 6)
    }  # fmt: skip
    assert MemoryChoice(choice.plan, choice.base, "").to_json()["fits"] is True


def on_a_card(
    study: Study, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> dict[tuple[str, bool], float]:
    """Peaks on a pretended card, all layers computed twice; by storage: with the inputs in RAM?"""
    plug_in(monkeypatch, Card(free=1 << 40))
    monkeypatch.setattr(device_module, "prove", lambda *_: None)
    network = skeleton(study.spec)
    shapes, work = shapes_of(network), workload(study, config, network, GPU)
    ways = {s: base_size(study.spec, with_storage(study.spec, config.base, s, GPU)) for s in ("bf16", "nf4")}
    return {
        (s, moved): plan_memory(shapes, work, way, shapes.layers, offload=moved).peak
        for s, way in ways.items()
        for moved in (False, True)
    }


def test_a_gpu_moves_layers_inputs_to_ram_only_as_a_last_resort(
    rows: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make(rows)
    peaks = on_a_card(study, config, monkeypatch)
    smaller, larger = sorted(("bf16", "nf4"), key=lambda storage: peaks[storage, False])
    assert peaks[larger, True] <= peaks[smaller, False] < peaks[larger, False]
    monkeypatch.setattr(choose, "candidates", lambda *_: (larger, smaller))
    plug_in(monkeypatch, Card(free=int(peaks[smaller, False] / MARGIN) + 2))
    plan = choose_plan(study, config, GPU).plan
    assert (plan.storage, plan.offloaded, plan.fits) == (smaller, 0, True), "another storage comes first"


def test_a_plan_with_inputs_in_ram_is_said_and_kept(
    rows: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make(rows, base={"model": study.spec.source, "storage": "nf4"})
    peak = on_a_card(study, config, monkeypatch)["nf4", True]
    plug_in(monkeypatch, Card(free=int(peak / MARGIN) + 2))
    choice = choose_plan(study, config, GPU)
    assert choice.plan.fits and choice.plan.offloaded and choice.plan.recomputed == choice.plan.layers
    assert "6 of 6 layers recomputed, inputs in RAM" in next(line for line in choice.lines() if "▸" in line)
    resolved = settled(config, choice, GPU)
    assert resolved.train.gradient_checkpointing == "offload"
    assert "all layers computed twice, with their inputs in RAM" in settings_line(resolved)
    assert choose_plan(study, resolved, GPU).plan.recomputed == 6
    assert choose_plan(study, resolved, GPU).plan.fits
    monkeypatch.setattr(Device, "ram", lambda _: int(choice.plan.offloaded))
    assert not choose_plan(study, config, GPU).plan.fits, "RAM is full too"


def test_what_needs_less_on_a_gpu_ends_with_ram(
    rows: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_card(study, make(rows), monkeypatch)
    base = {"model": study.spec.source, "storage": "nf4"}
    config = make(rows, base=base, train={"gradient_checkpointing": True})
    config = settled(config, choose_plan(study, config, GPU), GPU)
    assert any("train.gradient_checkpointing=offload (about" in text for text in cheaper(study, config, GPU))


def test_inputs_are_in_ram_anyway_on_a_cpu(rows: Path, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    memory_of(monkeypatch, 1e9)
    base = {"model": study.spec.source, "storage": "fp32"}
    plain, moved = (
        choose_plan(study, make(rows, base=base, train={"gradient_checkpointing": choice}), CPU).plan
        for choice in (True, "offload")
    )
    assert moved == plain


def test_advice_names_what_needs_less(rows: Path, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    memory_of(monkeypatch, 1e9)
    config = settled(make(rows), choose_plan(study, make(rows), CPU), CPU)
    advice = cheaper(study, config, CPU)
    assert [text.split(" (about ")[0].split("=")[0] for text in advice] == [
        "pack.length", "train.gradient_checkpointing", "base.storage"
    ]  # fmt: skip


@pytest.mark.parametrize("value", [-1, "some", 1.5])
def test_the_key_takes_auto_a_truth_value_or_a_number(rows: Path, value: object) -> None:
    with pytest.raises(ConfigError, match=r"train\.gradient_checkpointing"):
        make(rows, train={"gradient_checkpointing": value})
    for good in ("auto", "offload", True, False, 0, 4):
        assert make(rows, train={"gradient_checkpointing": good}).train.gradient_checkpointing is good
