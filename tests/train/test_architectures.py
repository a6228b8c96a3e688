"""What `check` passes, `train` trains: over the architectures that transformers knows, each as a tiny folder.

A few of them in every run; all of them with SAPWOOD_ALL_ARCHITECTURES=1. SAPWOOD_FAMILIES=FILE gets a line of
JSON for each: docs/families.py makes its page of them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sapwood import finetune
from sapwood.base.tiny import tiny_config, tiny_model
from sapwood.commands.data import check_config
from sapwood.errors import SapwoodError
from sapwood.gguf.families import FAMILIES
from sapwood.serve.generate import Settings, answer_batch
from sapwood.serve.load import open_target
from tests.base.tiny import VOCAB_SIZE, tiny_tokenizer

SAMPLE = ("llama", "exaone4", "gpt_oss", "qwen3_moe", "deepseek_v3", "falcon", "mamba", "gpt_bigcode", "bart")
EVERY = sorted(kind for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if kind in CONFIG_MAPPING)
KINDS = EVERY if os.environ.get("SAPWOOD_ALL_ARCHITECTURES") else SAMPLE
NO_INPUT_OF_LAYERS = {
    "model_type": "gemma4_text",
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 0,
}
EXPERTS: dict[str, Any] = {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1}
CHANGES: dict[
    str, dict[str, Any]
] = {  # where the defaults of a config are no model that runs, and as released
    "bamba": {"attn_layer_indices": [9, 18, 27]},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}
    },
    "dbrx": {
        "d_model": 256,
        "n_heads": 4,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 500000.0, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 128, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": EXPERTS,
    "dots1": EXPERTS,
    "gemma4_assistant": {"text_config": NO_INPUT_OF_LAYERS},
    "granitemoehybrid": {
        "layer_types": ["linear_attention"] * 5 + ["full_attention"] + ["linear_attention"] * 26
    },
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "lfm2_moe": {"layer_types": ["conv"] * 2 + ["full_attention"] + ["conv"] * 29},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "qwen4_exp_text": {
        "indexer_n_heads": 8,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 256,
        "indexer_budget": 64,
        "indexer_compress_ratio": 8,
    },
    "reformer": {"is_decoder": True, "vocab_size": VOCAB_SIZE},
    "xmod": {"default_language": "en_XX", "is_decoder": True},
}


def folder_of(kind: str, folder: Path) -> Path:
    """A tiny model with a tokenizer. Of more than a language model config.json alone is true: that decides.
    Skipped where transformers makes none of that kind."""
    config: Any = CONFIG_MAPPING[kind](**CHANGES.get(kind, {}))
    for key in ("bos_token_id", "pad_token_id", "eos_token_id"):
        setattr(config, key, {"eos_token_id": 2}.get(key, 0))
    tiny_tokenizer().save_pretrained(folder)
    if config.is_encoder_decoder or is_composed(config):
        config.save_pretrained(folder)
        save_file({"whatever": torch.zeros(4)}, folder / "model.safetensors")
        return folder
    try:
        tiny_model(config, folder, vocabulary=VOCAB_SIZE)
    except Exception:  # each architecture has its own; what doesn't run by itself can still be downloaded
        try:
            AutoModelForCausalLM.from_config(tiny_config(config, VOCAB_SIZE)).save_pretrained(folder)
        except Exception as error:
            pytest.skip(f"no tiny {kind}: {type(error).__name__}: {error}")
    return folder


def is_composed(config: Any) -> bool:
    """Does it say of a model beside the text's what it is?"""
    parts = [
        part for name, part in config.to_dict().items() if isinstance(part, dict) and name != "text_config"
    ]
    return any(part.get("model_type") in CONFIG_MAPPING for part in parts) or hasattr(config, "vision_config")


@pytest.mark.parametrize("kind", KINDS)
def test_what_check_passes_train_trains(kind: str, tmp_path: Path) -> None:
    from sapwood.config.file import load_config

    base = folder_of(kind, tmp_path / "base")
    rows = [{"instruction": f"tree {i}?", "output": f"It is number {i}."} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "run.yaml").write_text(
        f"base: {{model: {base}, storage: fp32}}\n"
        f"data: {{train: {tmp_path / 'rows.jsonl'}, eval: 0}}\n"
        "lora: {rank: 4}\npack: {length: 256}\ntrain: {max_steps: 1, batch_size: 4}\neval: {samples: 0}\n"
        f"save: {{dir: {tmp_path / 'runs'}}}\n"
    )
    try:
        check_config(tmp_path / "run.yaml", [], as_json=False)
    except SapwoodError as error:
        assert all(problem.what for problem in error.problems)
        composed = (base / "model.safetensors").stat().st_size < 200
        assert not composed or "more than a language model" in error.problems[0].what
        note(kind, "refused", f"{error.problems[0].what}: {error.problems[0].why}")
        return
    adapter = finetune(load_config(tmp_path / "run.yaml", []))
    loaded = open_target(str(adapter.path), tmp_path)
    answers = answer_batch(
        loaded.network, loaded.tokenizer, [[5, 80, 300], [7]], (2,), Settings(max_new_tokens=3)
    )
    assert len(answers) == 2
    rows = load_config(adapter.path.parent / "config.yaml").pack.rows
    gguf = any(kind in family.kinds for family in FAMILIES.values())
    note(kind, rows, adapter.facts["proof"]["trial"]["why"], gguf=gguf)


def note(kind: str, rows: str, why: str, **facts: Any) -> None:
    if (file := os.environ.get("SAPWOOD_FAMILIES")) is not None:
        with Path(file).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"kind": kind, "rows": rows, "why": why, **facts}) + "\n")
