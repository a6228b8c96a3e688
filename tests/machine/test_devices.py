"""The same on every device: kernels against their slow truth, number formats, storages, whole runs, memory.

Each test runs on the CPU, so that it is known to be right, and on a GPU if there is one (`-m gpu`). Bits
are promised on a CPU only: on a GPU runs agree within rounding.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from sapwood import finetune, resume
from sapwood.adapter.attach import attach_lora
from sapwood.adapter.model import LoraModel
from sapwood.base.inspect import inspect_base
from sapwood.base.load import load_base, move
from sapwood.compute.attention.seam import attend
from sapwood.compute.attention.segments import (
    AttentionPlan,
    Rule,
)
from sapwood.compute.backend import Backend
from sapwood.compute.loss import label_loss
from sapwood.config.file import dump_config, parse_config
from sapwood.config.kinds import Method, Optimizer
from sapwood.config.sections import BaseConfig, LoraConfig, RunConfig
from sapwood.errors import Stopped
from sapwood.machine.device import device_for
from sapwood.pack.build import build_pack
from sapwood.run.query import find_run, list_runs, read_events
from sapwood.serve.generate import Settings, answer_batch
from sapwood.serve.load import open_target
from sapwood.types import Event, Head, Stepped
from tests.base.tiny import ARCHITECTURES, tiny_llama
from tests.compute.slow import dense_attention, whole_loss
from tests.compute.test_linear import assert_same, by_peft, results, wake
from tests.compute.test_loss import HEADS, case
from tests.compute.test_loss import run as loss_and_gradient
from tests.gguf.tiny_gguf import tiny_gguf
from tests.parity.cases import lora_model, random_examples
from tests.parity.test_packed_equals_alone import alone, through_packs
from tests.parity.test_packed_equals_alone import assert_same as same_gradients
from tests.test_pipeline import make_config

NEAR = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}  # of two ways to compute the same
STORAGES = ("fp32", "bf16", "fp16", "gguf", "nf4", "fp4", "int8")
PROMPTS = [[5, 80, 300, 41, 17], [7, 9]]


# --- kernels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (40, None), (None, 2.0), (40, 2.0)])
def test_attention_is_that_of_the_dense_mask(
    window: int | None, softcap: float | None, dtype: torch.dtype, device: str
) -> None:
    """Values and gradients of the device's kernel, of a pack of several blocks, against fp32."""
    pack = build_pack(random_examples(14, shared=70, longest=60))
    plan = AttentionPlan(pack.segments)
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, len(pack.ids), 32), (2, len(pack.ids), 32), (2, len(pack.ids), 32))
    drawn = [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]
    by_backend = partial(attend, backend=Backend.of(device_for(device.partition(":")[0])))
    found = attended(by_backend, drawn, plan, window, softcap)
    wanted = attended(dense_attention, [x.float() for x in drawn], plan, window, softcap)
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.dtype == dtype
        gap = (mine.float() - theirs).norm() / theirs.norm()
        assert float(gap) <= NEAR[dtype], float(gap)


def attended(
    form: Any, drawn: list[Tensor], plan: Any, window: int | None, softcap: float | None
) -> list[Tensor]:
    inputs = [x.clone().requires_grad_() for x in drawn]
    out = form(*inputs, plan, Rule(scale=0.3, window=window, softcap=softcap))
    return [out.detach(), *torch.autograd.grad(out.float().square().sum(), inputs)]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_pack_equals_its_examples_alone(arch: str, device: str) -> None:
    model = lora_model(arch, device=device_for(device.partition(":")[0]))
    move(model.peft, model.backend.device)
    examples = random_examples(6, shared=20)
    expected, expected_grads = alone(model, examples)
    found, found_grads = through_packs(model, [build_pack(examples)])
    assert found == pytest.approx(expected, rel=1e-4)
    same_gradients(found_grads, expected_grads, tolerance=1e-4)


@pytest.mark.parametrize("dtype", NEAR, ids=str)
def test_the_loss_is_cross_entropy(dtype: torch.dtype, device: str) -> None:
    hidden, predict_at, targets, weight, bias = (x.to(device) for x in case(dtype))
    backend = Backend.of(device_for(device.partition(":")[0]))
    for options in HEADS:
        head = Head(weight, **(options | {"bias": bias if "bias" in options else None}))
        value, grad = loss_and_gradient(label_loss, hidden, predict_at, targets, head, backend)
        wanted, wanted_grad = loss_and_gradient(whole_loss, hidden, predict_at, targets, head)
        assert value == pytest.approx(wanted, rel=NEAR[dtype])
        gap = (grad.float() - wanted_grad.float()).norm() / wanted_grad.float().norm()
        assert float(gap) <= NEAR[dtype]


# --- storages and formats ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf("llama", tmp_path_factory.mktemp("base") / "m.gguf", kind="Q8_0")[0]


def adapted(path: Path, storage: str, device: str) -> LoraModel:
    packed = storage not in ("fp32", "bf16", "fp16")
    format = {"compute_dtype": "fp32"} if packed else {"products": "stored"}
    config = BaseConfig.model_validate({"model": str(path), "storage": storage, **format})
    base = load_base(inspect_base(config), config, device_for(device.partition(":")[0]))
    model = wake(attach_lora(base, LoraConfig(rank=4, dropout=0.0)))
    move(model.peft, base.device)
    model.peft.train()
    return model


@pytest.mark.parametrize("storage", STORAGES)
def test_the_fast_path_is_pefts(storage: str, gguf_file: Path, device: str) -> None:
    model = adapted(gguf_file, storage, device)
    found, expected = results(model), results(by_peft(model))
    rounds = storage == "int8" and device != "cpu"  # bitsandbytes rounds activations there; our path doesn't
    if storage not in ("bf16", "fp16") and not rounds:
        assert_same(found, expected, tolerance=1e-4)
        return
    torch.testing.assert_close(found[0], expected[0], rtol=0.05, atol=0.15)
    for name, grad in expected[1].items():
        alike = torch.nn.functional.cosine_similarity(found[1][name].flatten(), grad.flatten(), dim=0)
        assert alike > 0.99, name


@pytest.mark.parametrize("storage", STORAGES)
def test_a_model_that_moves_leaves_nothing_behind(storage: str, gguf_file: Path, device: str) -> None:
    model = adapted(gguf_file, storage, device)
    results(model)
    elsewhere = [t for t in tensors_of(model) if t.numel() > 1 and str(t.device) != device]
    assert not elsewhere, [(t.dtype, tuple(t.shape), t.device) for t in elsewhere]
    assert model.head.weight.device == model.network.get_output_embeddings().weight.device


def tensors_of(model: LoraModel) -> list[Tensor]:
    """Every tensor that the model reaches, by attributes of any kind."""
    seen, todo, found = set[int](), [model.peft, model.head], list[Tensor]()
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, type | ModuleType | FunctionType):
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            found.append(one)
            todo += vars(one).values()
        else:
            todo += [x for x in gc.get_referents(one) if not isinstance(x, str | int | float | bytes)]
    return found


def test_codes_of_8_bits_follow_their_weight(gguf_file: Path) -> None:
    """bitsandbytes keeps them outside of what a module moves with its parent."""
    from sapwood.base.storage.bnb_linear import follow, is_quantised

    model = adapted(gguf_file, "int8", "cpu")
    expected = results(model)
    for module in filter(is_quantised, model.network.modules()):
        module.weight.data = module.weight.data.clone()  # as if it had gone to another device
        module.state.CB.zero_()
        follow(module)
    assert_same(results(model), expected, tolerance=0.0)


# --- whole runs -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("devices")
    tiny_llama(folder, attention_bias=True)
    return folder


def run_config(place: Path, device: str, runs: Path, **sections: dict[str, Any]) -> RunConfig:
    tree = make_config(place, runs).model_dump(mode="json")
    tree["lora"] |= {
        "dropout": 0.0,
        "virtual_tokens": 5,
    }  # masks are drawn on the CPU, DoRA's where it computes
    tree["base"] |= {"device_map": device.partition(":")[0]}
    tree["save"] |= {"every": 1}
    for section, keys in sections.items():
        tree[section] |= keys
    return parse_config(tree)


def losses_of(config: RunConfig) -> list[float]:
    events: list[Event] = []
    finetune(config, events.append)
    return [event.loss for event in events if isinstance(event, Stepped)]


@pytest.fixture(scope="module")
def in_fp32(place: Path) -> list[float]:
    return losses_of(run_config(place, "cpu", place / "fp32"))


@pytest.mark.parametrize("storage", ["fp32", "bf16", "fp16", "nf4", "int8"])
def test_a_run_learns_in_every_format(
    storage: str, place: Path, in_fp32: list[float], device: str, tmp_path: Path
) -> None:
    base = {"storage": storage, "compute_dtype": "bf16" if storage in ("nf4", "int8") else "auto"}
    found = losses_of(run_config(place, device, tmp_path, base=base))
    exact = 1e-4 if device == "cpu" else 2e-3  # Adam makes much of the last bits of a small gradient
    apart = {"fp32": exact, "nf4": 0.2}.get(storage, 0.05)
    assert found == pytest.approx(in_fp32, abs=apart)
    (run,) = list_runs(tmp_path)
    loaded = open_target(str(run.path), tmp_path)
    assert len(answers(loaded.network, loaded.tokenizer)[0]) == 6


def answers(network: Any, tokenizer: Any) -> list[tuple[int, ...]]:
    return [a.ids for a in answer_batch(network, tokenizer, PROMPTS, (), Settings(max_new_tokens=6))]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_goes_on_where_it_was_stopped_on_a_gpu(
    method: Method, place: Path, tmp_path: Path
) -> None:
    """`tests/adapter/test_methods.py` has them all on the CPU, where they end with the same bytes."""
    device = "cuda:0"
    base = {"storage": "nf4", "compute_dtype": "fp32"} if method == "loftq" else {}
    sections: dict[str, Any] = {"base": base, "lora": {"method": method}, "eval": {"samples": 0}}
    whole = losses_of(run_config(place, device, tmp_path / "whole", **sections))
    with pytest.raises(Stopped):
        finetune(run_config(place, device, tmp_path / "stopped", **sections), partial(stop_after, 2))
    path = find_run(tmp_path / "stopped", "last")
    resume(path)
    again = [e["data"]["loss"] for e in read_events(path)[0] if e["kind"] == "stepped"]
    assert again == pytest.approx(whole, rel=1e-3)


def stop_after(step: int, event: Event) -> None:
    if isinstance(event, Stepped) and event.step == step:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimizer", get_args(Optimizer))
def test_every_optimizer_steps_on_a_gpu(optimizer: Optimizer, place: Path, tmp_path: Path) -> None:
    """The paged ones are paged there only; on the CPU `tests/train/test_optim.py` has them all."""
    found = losses_of(run_config(place, "cuda:0", tmp_path, train={"optimizer": optimizer, "lr": 1e-3}))
    assert all(loss > 0 for loss in found)
    resume(find_run(tmp_path, "last"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("storage", ["fp32", "bf16", "nf4"])
@pytest.mark.parametrize("recomputed", [0, 6])
def test_memory_on_a_gpu_stays_within_the_plan(storage: str, recomputed: int, tmp_path: Path) -> None:
    wide = {"hidden_size": 512, "intermediate_size": 1376, "num_attention_heads": 8, "num_hidden_layers": 6}
    tiny_llama(tmp_path, num_key_value_heads=4, head_dim=64, **wide)
    base = {"storage": storage, "compute_dtype": "auto"}
    train = {"gradient_checkpointing": recomputed, "batch_size": 12, "max_steps": 3}
    config = run_config(tmp_path, "cuda:0", tmp_path / "runs", base=base, train=train)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    finetune(config)
    (run,) = list_runs(tmp_path / "runs")
    plan = json.loads((run.path / "run.json").read_text())["facts"]["memory"]
    peak = torch.cuda.max_memory_allocated()
    assert held + plan["weights"] < peak <= plan["peak"]
    assert plan["available"] <= torch.cuda.get_device_properties(0).total_memory


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("shard", ["none", "base"])
def test_two_gpus_give_the_losses_of_one(shard: str, place: Path, tmp_path: Path) -> None:
    """Over NCCL, started as a person would."""
    config = run_config(place, "cuda:0", tmp_path / "two", train={"shard": shard}, pack={"length": 64})
    alone = losses_of(run_config(place, "cuda:0", tmp_path / "one", pack={"length": 64}))
    (tmp_path / "config.yaml").write_text(dump_config(config))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "sapwood"]
    done = subprocess.run(
        [*command, "train", str(tmp_path / "config.yaml")], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    (run,) = list_runs(tmp_path / "two")
    found = [e["data"]["loss"] for e in read_events(run.path)[0] if e["kind"] == "stepped"]
    assert found == pytest.approx(alone, abs=1e-4)
