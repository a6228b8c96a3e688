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
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sapwood import finetune
from sapwood.base.tiny import tiny_config, tiny_model
from sapwood.commands.data import check_config
from sapwood.errors import SapwoodError
from sapwood.gguf.families import FAMILIES
from sapwood.serve.generate import Settings, answer_batch
from sapwood.serve.load import open_target
from tests.base.tiny import VOCAB_SIZE, tiny_tokenizer

SAMPLE = ("llama", "exaone4", "gpt_oss", "qwen3_moe", "deepseek_v3", "falcon", "mamba", "gpt_bigcode")
EVERY = sorted(kind for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if kind in CONFIG_MAPPING)
KINDS = EVERY if os.environ.get("SAPWOOD_ALL_ARCHITECTURES") else SAMPLE


def folder_of(kind: str, folder: Path) -> Path:
    """A tiny model with a tokenizer; skipped where transformers itself makes none of that kind tiny."""
    try:
        config: Any = tiny_config(CONFIG_MAPPING[kind](vocab_size=VOCAB_SIZE), VOCAB_SIZE)
        for key in ("bos_token_id", "pad_token_id", "eos_token_id"):
            setattr(config, key, {"eos_token_id": 2}.get(key, 0))
        tiny_model(config, folder, vocabulary=VOCAB_SIZE)
    except Exception as error:  # each architecture has its own
        pytest.skip(f"no tiny {kind}: {type(error).__name__}")
    tiny_tokenizer().save_pretrained(folder)
    return folder


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
