"""Folders that sapwood writes, opened by transformers 4.57: the same tokens, the same logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sapwood.adapter.full import unfreeze, write_model
from sapwood.base.inspect import inspect_base
from sapwood.base.load import load_base
from sapwood.config.sections import BaseConfig
from sapwood.export.ship import Order, export
from sapwood.template.render import Renderer
from tests.base.tiny import CHATML, tiny_model_dir
from tests.compat.old import require_old
from tests.export.tuned import tuned_on
from tests.gguf.tiny_gguf import tiny_gguf

THETA = {"rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0}}
LLAMA3 = {
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
}
YARN = {
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10_000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 1024,
    }
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama 3.1": ("llama", LLAMA3),
    "qwen2": ("qwen2", THETA),
    "qwen3 yarn": ("qwen3", YARN),
    "mistral": ("mistral", THETA),
    "gemma2": ("gemma2", {}),
    "gemma3": ("gemma3", {}),
    "glm": ("chatglm", {}),
    "glm4": ("glm4", {}),
    "mixtral": ("mixtral", {}),
    "qwen3 moe": ("qwen3moe", {}),
    "a head of its own": ("llama", {"tie_word_embeddings": False}),
}
IDS = [(7 * k) % 597 + 3 for k in range(120)]
TEXT = "<|im_start|>user\nWhen should I plant an apple tree? 什么时候<|im_end|>\n"

OPEN = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from safetensors.torch import save_file
folder, out, ids, text = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
model, report = AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
)
with torch.no_grad():
    save_file({"logits": model.eval()(torch.tensor([ids])).logits}, out)
tokenizer = AutoTokenizer.from_pretrained(folder)
print(json.dumps({
    "lost": sorted(report["missing_keys"]), "unexpected": sorted(report["unexpected_keys"]),
    "ids": tokenizer(text)["input_ids"], "template": tokenizer.chat_template, "fast": tokenizer.is_fast,
    "stops": model.generation_config.eos_token_id,
}))
"""


def opened_before(folder: Path) -> tuple[torch.Tensor, dict[str, Any]]:
    """Logits and what else transformers 4.57 says of a folder."""
    out = folder.parent / "logits.safetensors"
    told = require_old().run(OPEN, folder, out, str(IDS), TEXT)
    return load_file(out)["logits"], told


def opened_today(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    plain: Any = {"dtype": torch.float32, "attn_implementation": "eager"}  # sdpa leaves Gemma's cap out
    model: Any = AutoModelForCausalLM.from_pretrained(folder, **plain)
    with torch.no_grad():
        return model.eval()(torch.tensor([IDS])).logits


def held_alike(folder: Path, tokenizer: Any, template: str, stop_ids: Any) -> None:
    logits, told = opened_before(folder)
    assert not told["lost"] and not told["unexpected"]
    assert (logits - opened_today(folder)).abs().max() <= 1e-4
    assert told["fast"] and told["ids"] == tokenizer(TEXT)["input_ids"]
    assert told["template"] == template and told["stops"] == list(stop_ids)


@pytest.mark.parametrize("name", MODELS)
def test_a_merged_folder_says_the_same_in_transformers_4(name: str, tmp_path: Path) -> None:
    require_old()
    arch, changes = MODELS[name]
    trained = tuned_on(tiny_model_dir(arch, tmp_path, **changes), strength=0.2)
    done = export(trained, Order("merged"), tmp_path / "out")
    held_alike(done.path, trained.tokenizer, CHATML, trained.renderer.stop_ids)


@pytest.mark.parametrize("name", ["qwen2", "llama 3.1", "mixtral", "a head of its own"])
def test_a_model_trained_whole_says_the_same_in_transformers_4(name: str, tmp_path: Path) -> None:
    require_old()
    arch, changes = MODELS[name]
    config = BaseConfig(model=str(tiny_model_dir(arch, tmp_path, **changes)), storage="fp32")
    spec = inspect_base(config)
    model = unfreeze(load_base(spec, config), 0)
    with torch.no_grad():
        for parameter in model.parameters.values():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    folder = tmp_path / "whole"
    folder.mkdir()
    write_model(model, spec, Renderer(spec.tokenizer, None, spec.stop_ids), folder)
    held_alike(folder, spec.tokenizer, CHATML, spec.stop_ids)
    with torch.no_grad():
        trained = model.network(torch.tensor([IDS])).logits
    assert (opened_today(folder) - trained).abs().max() <= 1e-4


def test_a_model_out_of_a_gguf_file_says_the_same_in_transformers_4(tmp_path: Path) -> None:
    require_old()
    tiny_gguf("qwen2", tmp_path / "base.gguf", kind="Q8_0")
    trained = tuned_on(tmp_path / "base.gguf")
    done = export(trained, Order("merged"), tmp_path / "out")
    held_alike(done.path, trained.tokenizer, CHATML, trained.renderer.stop_ids)


def test_a_head_that_the_config_calls_tied_is_kept(tmp_path: Path) -> None:
    """A checkpoint with a head of its own under ``tie_word_embeddings: true``."""
    import json

    folder = tiny_model_dir("llama", tmp_path, tie_word_embeddings=False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    trained = tuned_on(folder, strength=0.2)
    done = export(trained, Order("merged"), tmp_path / "out")
    assert not json.loads((done.path / "config.json").read_text())["tie_word_embeddings"]
    held_alike(done.path, trained.tokenizer, CHATML, trained.renderer.stop_ids)
