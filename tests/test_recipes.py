"""Every recipe runs as it stands: only the model, the steps, the length of answers and (where a hub has them)
the rows change."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from sapwood import finetune, load_config
from sapwood.config.sections import RunConfig
from sapwood.run.query import list_runs, read_events
from sapwood.serve.load import open_target
from tests.base.tiny import tiny_model
from tests.base.tiny_chatglm import tiny_chatglm_dir
from tests.template.real_tokenizers import real_tokenizer, tokenizer_files

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes"
STEPS = 2
ROWS = 60
CONTEXT = 192  # tokens that the tiny models hold
NARROW = {
    "hidden_size": 32
}  # of models with a vocabulary of 150,000 or more, in bf16 which this may not have


def family(arch: str, tokenizer: str, **changes: Any) -> Callable[[Path, Any], Path]:
    """A tiny model of ``arch`` with random weights, in a folder with a family's real tokenizer."""

    def make(folder: Path, _: Any) -> Path:
        known = real_tokenizer(tokenizer)
        ids = {"bos_token_id": known.bos_token_id, "eos_token_id": known.eos_token_id}
        size = 64 * (len(known) // 64 + 1)
        ids |= {"pad_token_id": known.pad_token_id}
        model = tiny_model(arch, vocab_size=size, max_position_embeddings=CONTEXT, **ids, **changes)
        model.generation_config.eos_token_id = [known.eos_token_id]
        path = folder / "model"
        model.save_pretrained(path)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(tokenizer_files(tokenizer) / name, path / name)
        return path

    return make


def smollm2(folder: Path, spec: Any) -> Path:
    model = tiny_model("llama", vocab_size=spec.hf_config.vocab_size, max_position_embeddings=CONTEXT)
    model.generation_config.eos_token_id = [spec.tokenizer.eos_token_id]
    model.config.eos_token_id = spec.tokenizer.eos_token_id
    model.save_pretrained(folder / "model")
    spec.tokenizer.save_pretrained(folder / "model")
    return folder / "model"


def chatglm(folder: Path, _: Any) -> Path:
    return tiny_chatglm_dir(folder, seq_length=CONTEXT)


@dataclass(frozen=True)
class Case:
    """model: makes the tiny one; file: the name under which the recipe looks for its rows, or None where a
    hub has them; stop: what each answer must end with; storage: how the base is held."""

    model: Callable[[Path, Any], Path]
    file: str | None
    stop: str
    storage: str


GEMMA, QWEN = family("gemma2", "gemma2", **NARROW), family("qwen2", "qwen1_5", **NARROW)
CASES = {
    "gemma-2-9b-it": Case(family("gemma2", "gemma2", **NARROW), "huanhuan.json", "<end_of_turn>", "bf16"),
    "qwen1.5-7b-chat-swanlab": Case(
        family("qwen2", "qwen1_5", **NARROW), "huanhuan.json", "<|im_end|>", "bf16"
    ),
    "chatglm3-6b-4bit": Case(chatglm, "data.jsonl", "</s>", "nf4"),
    "llama-2-7b-chat": Case(family("llama", "llama2"), "data.jsonl", "</s>", "nf4"),
    "llama-2-7b-guanaco-qlora": Case(family("llama", "llama2"), None, "</s>", "nf4"),
    "smollm2-huanhuan": Case(smollm2, "huanhuan.json", "<|im_end|>", ""),
}


def alpaca(i: int) -> dict[str, Any]:
    return {
        "instruction": f"第{i}棵树要怎么照看？",
        "input": "" if i % 2 else None,
        "output": f"给第{i}棵树浇水。",
    }


def genshin(i: int) -> dict[str, Any]:
    """Tutorial 002's rows have no instruction."""
    return {"input": f"园丁#关于第{i}棵树", "output": f"听说第{i}棵树很会结果。"}


def llama_text(i: int) -> dict[str, str]:
    """Ready text, one turn and two."""
    turn = f"<s>[INST] What about tree {i}? [/INST] Water tree {i} well. </s>"
    return {"text": turn + (f"<s>[INST] And then? [/INST] Wait for rain, {i} days. </s>" if i % 2 else "")}


SHAPES = {"huanhuan.json": alpaca, "data.jsonl": genshin}


def write_rows(path: Path, make: Callable[[int], Any]) -> None:
    rows = [make(i) for i in range(ROWS)]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(json.dumps(rows, ensure_ascii=False) if path.suffix == ".json" else lines + "\n", "utf-8")


def test_the_recipes_on_disk_are_the_recipes_that_run() -> None:
    assert {path.stem for path in RECIPES.glob("*")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_recipe_is_commented_in_both_languages(name: str) -> None:
    comments = "\n".join(re.findall(r"#(.*)", (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")))
    assert len(re.findall(r"[一-鿿]", comments)) > 60
    assert len(re.findall(r"[A-Za-z]+", comments)) > 60


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "tutorials").glob("*.md")), ids=lambda p: p.name)
def test_a_page_leads_to_its_recipe_and_to_the_other_language(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert all((page.parent / link).exists() for link in links)
    assert any(link.startswith("../../recipes/") for link in links)
    english = page.with_name(page.name.replace(".zh-CN", ""))
    chinese = english.with_suffix(".zh-CN.md")
    rows = [p.read_text(encoding="utf-8").count("\n|") for p in (english, chinese)]
    assert rows[0] == rows[1], "both languages say the same things"


def test_each_tutorial_has_a_page() -> None:
    for name in CASES:
        told = re.findall(r"docs/tutorials/\S+\.md", (RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
        assert len(told) == (0 if name == "smollm2-huanhuan" else 2)
        assert all((ROOT / path).is_file() for path in told)


@pytest.mark.parametrize("name", CASES)
def test_a_recipe_runs(name: str, smollm2_spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    monkeypatch.chdir(tmp_path)
    overrides = [f"base.model={case.model(tmp_path, smollm2_spec)}", f"train.max_steps={STEPS}"]
    overrides += ["eval.max_new_tokens=8"]  # a random model never stops by itself
    if name.startswith("llama-2"):
        write_rows(tmp_path / "data.jsonl", llama_text)
    else:
        assert case.file is not None
        write_rows(tmp_path / case.file, SHAPES[case.file])
    config = load_config(
        RECIPES / f"{name}.yaml", [*overrides, *([] if case.file else ["data.train=data.jsonl"])]
    )
    finetune(config)
    (run,) = list_runs(tmp_path / "runs")
    assert (run.status, run.step) == ("finished", STEPS)
    loaded = open_target(str(run.path), run.path.parent)
    assert loaded.renderer.stop_text == case.stop, "what every trained turn was proven to end on"
    assert loaded.base.storage == case.storage or not case.storage
    if case.storage == "nf4":
        layer = loaded.base.model.get_decoder().layers[0]
        packed = [p for p in layer.self_attn.parameters() if p.dtype == torch.uint8]
        assert len(packed) == 4, "query, key, value and output are held in 4 bits"
    assert_told(run.path, config)


def assert_told(run: Path, config: RunConfig) -> None:
    assert not [e for e in read_events(run)[0] if e["kind"] == "note"], "no tracker failed"
    if "swanlab" in config.track.to:
        assert list((run.parent / "trackers" / "swanlab").glob("run-*/*.swanlab"))
    if "tensorboard" in config.track.to:
        assert list((run / "tensorboard").glob("events.*"))
