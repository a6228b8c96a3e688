"""Full fine-tuning leaves a model by itself, with the template that was trained with: it needs no base."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sapwood import finetune
from sapwood.serve.load import open_target
from tests.base.tiny import tiny_llama

IDS = torch.tensor([[1, 300, 301, 302, 2, 1, 77, 78, 79]])


def test_the_folder_has_the_template_that_was_trained_with_and_needs_no_base(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path)
    template = tmp_path / "mine.jinja"
    template.write_text("{# mine #}" + (base / "chat_template.jinja").read_text())
    rows = [{"instruction": f"tree {i}?", "output": f"It is number {i}."} for i in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    adapter = finetune(
        {
            "base": {"model": str(base), "storage": "fp32"},
            "data": {"train": str(tmp_path / "rows.jsonl"), "eval": 0},
            "template": {"name": str(template)},
            "lora": {"method": "full"},
            "train": {"max_steps": 1, "batch_size": 4},
            "eval": {"samples": 0},
            "save": {"dir": str(tmp_path / "runs")},
        }
    )
    told = AutoTokenizer.from_pretrained(adapter.path)
    assert told.chat_template == template.read_text()
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(adapter.path, dtype=torch.float32)(IDS).logits
    base.rename(tmp_path / "gone")
    template.unlink()
    loaded = open_target(str(adapter.path), tmp_path)
    assert "mine" in loaded.renderer.template and loaded.model is None
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(IDS).logits, expected)
