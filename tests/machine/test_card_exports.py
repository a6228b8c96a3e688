"""What was trained on a card is exported as what was trained on the CPU: a GGUF file and a merged folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sapwood import finetune
from sapwood.base.inspect import inspect_base
from sapwood.base.load import load_base
from sapwood.compute.attention import seam
from sapwood.config.file import parse_config
from sapwood.config.sections import BaseConfig
from sapwood.export.ship import Kind, Order, export
from sapwood.machine import device as device_module
from sapwood.machine import selftest
from sapwood.machine.device import Device
from sapwood.run.query import find_run
from sapwood.serve.load import open_target
from tests.machine.pretended import Card, plug_in
from tests.test_pipeline import make_config

Weights = dict[str, torch.Tensor]
NEAR = 0.05  # of what training changed: Adam makes much of the last bits of a small gradient


def exported(kind: Kind, folder: Path, runs: Path, device_map: str) -> Weights:
    """The weights that an export holds of a run of six steps."""
    tree = make_config(folder, runs).model_dump(mode="json")
    tree["base"] |= {"storage": "fp32", "products": "stored", "device_map": device_map}
    tree["lora"] |= {"dropout": 0.0}
    tree["train"] |= {"lr": 1e-2}
    finetune(parse_config(tree))
    trained = open_target(str(find_run(runs, "last").name), runs, exact=True)
    done = export(trained, Order(kind), runs / "out")
    assert done.check.same_ids == done.check.prompts
    return weights_of(done.path / "model.gguf" if kind == "gguf" else done.path)


def weights_of(model: Path) -> dict[str, torch.Tensor]:
    config = BaseConfig(model=str(model), storage="fp32")
    network = load_base(inspect_base(config), config).model
    return {name: one.detach() for name, one in network.named_parameters()}


def assert_same_change(folder: Path, found: Weights, wanted: Weights) -> None:
    """Of all weights together: by how much they differ, against how much training changed them."""
    base = weights_of(folder / "tiny-llama")
    assert found.keys() == wanted.keys() == base.keys()
    apart, changed = (
        sum(float((one - others[name]).square().sum()) for name, one in wanted.items()) ** 0.5
        for others in (found, base)
    )
    assert changed > 0.1
    assert apart <= NEAR * changed, (apart, changed)


KINDS: tuple[Kind, ...] = ("gguf", "merged")


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_of_a_gpus_run_holds_the_cpus_weights(kind: Kind, device: str, tmp_path: Path) -> None:
    wanted = exported(kind, tmp_path, tmp_path / "here", "cpu")
    found = exported(kind, tmp_path, tmp_path / "there", device.partition(":")[0])
    assert_same_change(tmp_path, found, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_of_a_pretended_cards_run_holds_the_cpus_weights(
    kind: Kind, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All is decided as on a card; tensors lie on the CPU, and the references compute."""
    wanted = exported(kind, tmp_path, tmp_path / "here", "cpu")
    honest = selftest.results
    monkeypatch.setattr(selftest, "results", lambda operation, place, dtype: honest(operation, "cpu", dtype))
    selftest.prove.cache_clear()
    monkeypatch.setattr(Device, "compiled", False)
    plug_in(monkeypatch, Card(free=3 << 30))
    monkeypatch.setattr(Device, "__str__", lambda device: "cpu")
    monkeypatch.setattr(seam, "refusal", lambda query, value: "no gradient on a CPU")
    monkeypatch.setattr(device_module, "keep_kernels", lambda _: None)
    found = exported(kind, tmp_path, tmp_path / "there", "cuda")
    assert_same_change(tmp_path, found, wanted)
