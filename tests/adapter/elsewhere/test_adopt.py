"""An adapter of another program becomes one of ours: with proof, with facts, and to be trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sapwood import finetune
from sapwood.adapter.files import read_tensors
from sapwood.config.file import load_config, parse_config
from sapwood.config.sections import LoraConfig
from sapwood.errors import ConfigError, ModelError
from sapwood.export.gguf_adapter import write_gguf_adapter
from sapwood.serve.load import open_target
from tests.adapter.elsewhere.test_read import IDS, call, logits
from tests.base.tiny import tiny_llama
from tests.export.tuned import tuned_on


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, rows, and an adapter that learnt the rows in plain PEFT."""
    folder = tmp_path_factory.mktemp("adopt")
    base = tiny_llama(folder)
    rows = [{"instruction": f"tree {i}?", "output": f"It is number {i}."} for i in range(6)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = finetune(settings(folder, train={"max_steps": 6, "batch_size": 6, "lr": 0.02}, name="learnt"))
    network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    peft.PeftModel.from_pretrained(network, run.path).save_pretrained(folder / "plain")
    return folder


def settings(folder: Path, **sections: Any) -> Any:
    tree: dict[str, Any] = {
        "base": {"model": str(folder / "tiny-llama"), "storage": "fp32"},
        "data": {"train": str(folder / "rows.jsonl"), "eval": 0},
        "lora": {"rank": 4},
        "train": {"max_steps": 1, "batch_size": 6, "lr": 1e-9},
        "eval": {"samples": 0},
        "save": {"dir": str(folder / "runs")},
    }
    return parse_config(tree | sections)


def test_its_facts_are_written_beside_it_after_a_proof(place: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(place / "plain", tmp_path / "plain")
    expected = logits(folder)
    told = call("adopt", folder, "--data", place / "rows.jsonl", "--system", "You name trees.")
    assert "with the adapter" in told and "log p moves by" in told
    facts = json.loads((folder / "sapwood.json").read_text())
    assert facts["final_loss"] < facts["first_loss"] and facts["system"] == "You name trees."
    assert facts["base_fingerprint"] and facts["template_fingerprint"] and facts["lora"]["rank"] == 4
    loaded = open_target(str(folder), tmp_path, exact=True)
    assert loaded.system == "You name trees."
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(IDS).logits, expected)
    with pytest.raises(ConfigError, match="one of ours already"):
        call("adopt", folder)


def test_one_in_another_format_is_converted_into_a_folder(place: Path, tmp_path: Path) -> None:
    trained = tuned_on(place / "tiny-llama", LoraConfig(rank=4, alpha=8), strength=0.3)
    write_gguf_adapter(trained, tmp_path / "a.gguf")
    base = ("--base", place / "tiny-llama")
    with pytest.raises(ConfigError, match="a folder is needed"):
        call("adopt", tmp_path / "a.gguf", *base)
    call("adopt", tmp_path / "a.gguf", *base, "--out", tmp_path / "ours")
    with torch.no_grad():
        expected = trained.network(IDS).logits
    torch.testing.assert_close(logits(tmp_path / "ours"), expected, rtol=1e-4, atol=1e-4)
    network = AutoModelForCausalLM.from_pretrained(place / "tiny-llama", dtype=torch.float32)
    plain = peft.PeftModel.from_pretrained(network, tmp_path / "ours").eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(IDS).logits, expected, rtol=1e-4, atol=1e-4)


def test_rows_that_it_knows_no_better_than_its_base_speak_against_it(place: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(place / "plain", tmp_path / "plain")
    file = folder / "adapter_model.safetensors"
    turned = {name: -t if "lora_B" in name else t for name, t in load_file(file).items()}
    save_file(turned, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="the adapter doesn't know these rows"):
        call("adopt", folder, "--data", place / "rows.jsonl")
    assert not (folder / "sapwood.json").exists()


def test_what_is_no_adapter_is_not_adopted(place: Path) -> None:
    with pytest.raises(ModelError, match="no adapter lies there"):
        call("adopt", place / "tiny-llama")


def test_training_goes_on_from_it(place: Path) -> None:
    """With a rate of nothing the adapter stays what it was, so what the run begins with is seen."""
    adapter = finetune(settings(place, lora={"start_from": str(place / "plain")}))
    began, ended = load_file(place / "plain" / "adapter_model.safetensors"), read_tensors(adapter.path)
    assert began.keys() == ended.keys()
    for name, tensor in began.items():
        torch.testing.assert_close(ended[name], tensor, rtol=0, atol=1e-6)
    told = load_config(adapter.path.parent / "config.yaml").lora
    assert (told.rank, told.method) == (4, "lora") and told.start_from == str(place / "plain")
    again = finetune(settings(place, lora={"start_from": str(adapter.path.parent)}))
    assert read_tensors(again.path).keys() == began.keys()


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"rank": 8}, "lora.rank is 8 .* has 4 .* leave lora.rank out"),
        ({"method": "dora"}, "lora.method is dora"),
        ({"start_from": "nowhere"}, "no adapter lies there"),
    ],
)
def test_a_config_that_says_otherwise_is_refused(lora: dict[str, Any], message: str, place: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        finetune(settings(place, lora={"start_from": str(place / "plain")} | lora))


def test_an_adapter_of_another_base_or_form_is_not_gone_on_from(place: Path, tmp_path: Path) -> None:
    run = next((place / "runs").glob("*learnt*"))
    other = tiny_llama(tmp_path, seed=1)
    base = {"model": str(other), "storage": "fp32"}
    with pytest.raises(ModelError, match="trained on another base"):
        finetune(settings(place, base=base, lora={"start_from": str(run)}))
    network = AutoModelForCausalLM.from_pretrained(place / "tiny-llama")
    config = peft.LoHaConfig(r=4, task_type="CAUSAL_LM", target_modules=["q_proj"])
    peft.get_peft_model(network, config).save_pretrained(tmp_path / "loha")
    with pytest.raises(ModelError, match=r"can't go on from this adapter .* LOHA"):
        finetune(settings(place, lora={"start_from": str(tmp_path / "loha")}))
