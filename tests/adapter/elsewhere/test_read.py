"""Adapters of other programs: mlx-lm's, llama.cpp's, old PEFT's, and those with new tokens."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from sapwood.adapter.elsewhere.kind import is_adapter
from sapwood.cli import app
from sapwood.config.sections import LoraConfig
from sapwood.errors import ConfigError, ModelError, SapwoodError
from sapwood.export.gguf_adapter import write_gguf_adapter
from sapwood.serve.load import open_target
from tests.base.tiny import tiny_llama
from tests.export.tuned import tuned_on

IDS = torch.tensor([[1, 300, 301, 302, 2, 1, 77, 78, 79]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("base"))


def saved(base: Path, folder: Path, **settings: Any) -> torch.Tensor:
    """An adapter as PEFT leaves it in ``folder``; what PEFT answers with it."""
    torch.manual_seed(3)
    network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    targets = settings.pop("target_modules", ["q_proj", "v_proj", "down_proj"])
    config = peft.LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", target_modules=targets, **settings)
    model = peft.get_peft_model(network, config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    with torch.no_grad():
        return model.eval()(IDS).logits


def logits(target: Path, **options: Any) -> torch.Tensor:
    with torch.no_grad():
        return open_target(str(target), target.parent, exact=True, **options).network(IDS).logits


def as_mlx(folder: Path, out: Path, base: Path, **settings: Any) -> Path:
    """PEFT's adapter the way that mlx-lm writes one."""
    parts = {"lora_A.weight": "lora_a", "lora_B.weight": "lora_b", "lora_magnitude_vector": "m"}
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        own = name.removeprefix("base_model.model.")
        for part, theirs in parts.items():
            if own.endswith(part):
                turned = tensor if part == "lora_magnitude_vector" else tensor.T.contiguous()
                tensors[own.replace(part, theirs)] = turned
    out.mkdir()
    save_file(tensors, out / "adapters.safetensors")
    told = {"fine_tune_type": "lora", "num_layers": 2, "model": str(base)} | settings
    told.setdefault("lora_parameters", {"rank": 4, "dropout": 0.0, "scale": 2.0})
    (out / "adapter_config.json").write_text(json.dumps(told))
    return out


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_one_of_mlx_lm_answers_as_the_same_in_peft(kind: str, base: Path, tmp_path: Path) -> None:
    expected = saved(base, tmp_path / "peft", use_dora=kind == "dora")
    place = as_mlx(tmp_path / "peft", tmp_path / "mlx", base, fine_tune_type=kind)
    torch.testing.assert_close(logits(place), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fine_tune_type": "full"}, "'full' isn't supported .* mlx_lm.fuse"),
        ({"lora_parameters": {"rank": 4, "scale": 10.0, "alpha": 16}}, "have an alpha"),
        ({"lora_parameters": {"rank": 4}}, "scale is None"),
        ({"model": None}, "it isn't known which base"),
        ({"model": "mlx-community/some-4bit"}, "names mlx-community/some-4bit"),
    ],
)
def test_one_of_mlx_lm_that_is_not_whole_is_refused(
    settings: dict[str, Any], message: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    saved(base, tmp_path / "peft")
    place = as_mlx(tmp_path / "peft", tmp_path / "mlx", base, **settings)
    with pytest.raises(ModelError, match=message):
        logits(place)


def test_one_of_llama_cpp_answers_as_what_it_was_made_of(base: Path, tmp_path: Path) -> None:
    trained = tuned_on(base, LoraConfig(rank=4, alpha=8, method="rslora"), strength=0.3)
    write_gguf_adapter(trained, tmp_path / "adapter.gguf")
    assert is_adapter(tmp_path / "adapter.gguf")
    with pytest.raises(ModelError, match="it isn't known which base"):
        logits(tmp_path / "adapter.gguf")
    with torch.no_grad():
        expected = trained.network(IDS).logits
    found = logits(tmp_path / "adapter.gguf", base=str(base))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_an_old_one_is_read_by_a_process_of_its_own(base: Path, tmp_path: Path) -> None:
    expected = saved(base, tmp_path / "old")
    safe = tmp_path / "old" / "adapter_model.safetensors"
    torch.save(load_file(safe), tmp_path / "old" / "adapter_model.bin")
    safe.unlink()
    torch.testing.assert_close(logits(tmp_path / "old"), expected, rtol=1e-4, atol=1e-4)


class Harm:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("kind", ["program", "zip with a program", "garbage", "a list"])
def test_an_old_one_that_is_more_than_tensors_is_refused(kind: str, base: Path, tmp_path: Path) -> None:
    saved(base, tmp_path / "old")
    (tmp_path / "old" / "adapter_model.safetensors").unlink()
    stream = io.BytesIO()
    if kind == "zip with a program":
        torch.save({"a": Harm(tmp_path / "harmed")}, stream)
    elif kind == "a list":
        torch.save([torch.zeros(2)], stream)
    raw = {"program": pickle.dumps(Harm(tmp_path / "harmed")), "garbage": b"PK\x03\x04pickle"}
    (tmp_path / "old" / "adapter_model.bin").write_bytes(raw.get(kind, stream.getvalue()))
    with pytest.raises(ModelError, match=r"adapter_model.bin is refused"):
        logits(tmp_path / "old")
    assert not (tmp_path / "harmed").exists()


def test_new_tokens_come_with_their_rows_their_tokenizer_and_its_template(base: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<tree>", "</tree>"]})
    tokenizer.chat_template = "{# mine #}" + tokenizer.chat_template
    network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    network.resize_token_embeddings(len(tokenizer))
    config = peft.LoraConfig(
        r=4, task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]
    )
    model = peft.get_peft_model(network, config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    folder = tmp_path / "tokens"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    loaded = open_target(str(folder), tmp_path, exact=True)
    new = torch.tensor([[1, len(tokenizer) - 1, 300, len(tokenizer) - 2]])
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(new).logits, model(new).logits, rtol=1e-4, atol=1e-4)
    assert "mine" in loaded.renderer.template
    assert loaded.tokenizer.convert_tokens_to_ids("<tree>") == len(tokenizer) - 2


def test_one_that_changes_nothing_is_refused(base: Path, tmp_path: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=["q_proj"])
    peft.get_peft_model(network, config).save_pretrained(tmp_path / "fresh")
    with pytest.raises(ModelError, match="the adapter changes nothing"):
        logits(tmp_path / "fresh")


def test_one_of_another_shape_names_each_tensor(base: Path, tmp_path: Path) -> None:
    saved(base, tmp_path / "peft")
    other = tiny_llama(tmp_path, hidden_size=96, num_attention_heads=6, num_key_value_heads=2)
    with pytest.raises(ModelError, match=r"lora_A.weight is \[4, 64\]; the model has \[4, 96\]") as caught:
        logits(tmp_path / "peft", base=str(other))
    assert len(caught.value.problems) > 4


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if isinstance(result.exception, SapwoodError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_the_verbs_take_it_with_a_base_and_a_template(base: Path, tmp_path: Path) -> None:
    saved(base, tmp_path / "peft")
    saved(base, tmp_path / "other")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"instruction": f"{i}?", "output": f"{i}."}) + "\n" for i in range(6)))
    template = tmp_path / "mine.jinja"
    template.write_text("{# mine #}" + (base / "chat_template.jinja").read_text())
    both = ("--base", base, "--template", template)
    call("chat", tmp_path / "peft", *both, "-p", "hi", "--max-new-tokens", 2)
    told = json.loads(
        call("eval", tmp_path / "peft", *both, "--data", rows, "--answers", 0, "--json").split("\n", 0)[0]
    )
    assert told["rows"] == 6 and told["figures"]["loss"]["base"] != told["figures"]["loss"]["adapter"]
    call("export", tmp_path / "peft", *both, "--to", "merged", "--out", tmp_path / "merged")
    assert "mine" in (tmp_path / "merged" / "chat_template.jinja").read_text()
    call("combine", tmp_path / "peft", tmp_path / "other", "--out", tmp_path / "sum")
    sum_of_both = logits(tmp_path / "sum")
    assert torch.isfinite(sum_of_both).all() and not (tmp_path / "sum" / "sapwood.json").exists()
    call("verify", tmp_path / "peft", "--base", base)
    with pytest.raises(ConfigError, match="has a template of its own"):
        call("chat", base, "--template", template, "-p", "hi")
