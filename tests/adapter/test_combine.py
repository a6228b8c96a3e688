"""Adapters as one: the sum is the sum, the facts are kept, and what can't be added is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from sapwood.adapter.files import write_adapter
from sapwood.adapter.folder import load_adapter
from sapwood.cli import app
from sapwood.config.sections import LoraConfig
from sapwood.errors import ConfigError, ModelError, SapwoodError
from sapwood.run.files import staged_dir
from sapwood.serve.load import open_target
from tests.base.tiny import tiny_llama
from tests.serve.tiny_chat import tuned

IDS = torch.tensor([[5, 80, 300, 41]])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adapters of one base, one of another rank, one of another method, one of another base."""
    folder = tmp_path_factory.mktemp("combine")
    for name, config in {
        "a": LoraConfig(rank=4, alpha=8),
        "b": LoraConfig(rank=4, alpha=4, method="rslora"),
        "wide": LoraConfig(rank=6, alpha=8),
        "dora": LoraConfig(rank=4, method="dora"),
    }.items():
        write(folder, folder / name, config, scale={"a": 1.0, "b": -0.5}.get(name, 2.0))
    other = folder / "elsewhere"
    tiny_llama(other, seed=9)
    write(other, folder / "stranger", LoraConfig(rank=4), scale=1.0)
    return folder


def write(base: Path, folder: Path, config: LoraConfig, scale: float) -> None:
    model, facts = tuned(
        tiny_llama(base) if not (base / "tiny-llama").exists() else base / "tiny-llama", config
    )
    with torch.no_grad():
        for name, parameter in model.parameters.items():
            if "lora_B" in name:
                parameter.mul_(scale)
    facts |= {"first_loss": 2.0, "data_sha256": "", "lora": facts["lora"] | {"targets": list(model.targets)}}
    with staged_dir(folder) as staging:
        write_adapter(model, staging)
        (staging / "sapwood.json").write_text(json.dumps(facts), encoding="utf-8")


def call(*arguments: Any) -> str:
    result = CliRunner().invoke(app, ["combine", *map(str, arguments)])
    if isinstance(result.exception, SapwoodError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def updates(folder: Path) -> dict[str, torch.Tensor]:
    """s B A of every layer."""
    tensors = load_file(folder / "adapter_model.safetensors")
    settings = json.loads((folder / "adapter_config.json").read_text())
    rank = settings["r"]
    scale = settings["lora_alpha"] / (rank**0.5 if settings.get("use_rslora") else rank)
    return {
        name.replace("lora_A", "B A"): scale * tensors[name.replace("lora_A", "lora_B")] @ tensors[name]
        for name in tensors
        if "lora_A" in name
    }


@pytest.mark.parametrize(("how", "rank"), [("cat", 8), ("svd", 4)])
def test_the_sum_is_the_weighted_sum_of_the_updates(how: str, rank: int, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "sum"
    told = json.loads(
        call(place / "a", place / "b", "--weights", "0.7,0.3", "--how", how, "--out", out, "--json")
    )
    assert told["rank"] == rank and [part["weight"] for part in told["parts"]] == [0.7, 0.3]
    a, b, found = updates(place / "a"), updates(place / "b"), updates(out)
    assert found.keys() == a.keys()
    for name, update in found.items():
        wanted = 0.7 * a[name] + 0.3 * b[name]
        if how == "svd":
            u, s, vh = torch.linalg.svd(wanted, full_matrices=False)
            wanted = (u[:, :rank] * s[:rank]) @ vh[:rank]
        torch.testing.assert_close(update, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["linear", "ties", "dare-ties", "dare-linear", "magnitude-prune"])
def test_the_other_combinations_are_the_same_each_time(how: str, place: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        call(place / "a", place / "b", "--how", how, "--out", tmp_path / name)
    one, two = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    assert load_adapter(tmp_path / "one").rank == 4


def test_it_can_be_talked_to_and_knows_its_parts(place: Path, tmp_path: Path) -> None:
    assert "0.500" in call(place / "a", place / "wide", "--out", tmp_path / "sum")
    adapter = load_adapter(tmp_path / "sum")
    assert adapter.rank == 10 and adapter.final_loss is None
    assert [part["adapter"] for part in adapter.facts["combined"]["parts"]] == [
        str(place / "a"),
        str(place / "wide"),
    ]
    loaded = open_target(str(tmp_path / "sum"), tmp_path)
    with torch.no_grad():
        own = loaded.network(IDS).logits
        with loaded.without_adapter():
            assert not torch.equal(own, loaded.network(IDS).logits)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["a"], ConfigError, "one adapter is no combination"),
        (["a", "b", "--weights", "1"], ConfigError, "2 adapters need 2 numbers"),
        (["a", "b", "--weights", "1,x"], ConfigError, "the weights don't fit"),
        (["a", "b", "--weights", "1,inf"], ConfigError, "the weights don't fit"),
        (["a", "b", "--how", "mean"], ConfigError, "no combination 'mean'"),
        (["a", "wide", "--how", "ties"], ConfigError, "ranks differ .* these have 4, 6"),
        (["a", "dora"], ModelError, "a DoRA adapter can't be combined"),
        (["a", "stranger"], ModelError, "on another base"),
    ],
)
def test_what_does_not_add_up_is_refused(
    arguments: list[str], error: type[SapwoodError], message: str, place: Path, tmp_path: Path
) -> None:
    named = [place / name if (place / name).is_dir() else name for name in arguments]
    with pytest.raises(error, match=message):
        call(*named, "--out", tmp_path / "sum")
    assert not (tmp_path / "sum").exists()
