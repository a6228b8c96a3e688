"""Embedding and head trained as wholes, and the rows of new tokens: against plain PEFT, tied or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

from sapwood import finetune
from sapwood.adapter.effective import effective_head
from sapwood.adapter.places.ends import ends_settings
from sapwood.config.file import parse_config
from sapwood.config.sections import LoraConfig
from sapwood.errors import ConfigError
from sapwood.export.ship import Order, export
from sapwood.serve.load import open_target
from tests.base.tiny import VOCAB_SIZE, tiny_model_dir

NEW = ("<oak>", "<elm>")


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "apart"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ends")
    rows = [{"instruction": f"What is <oak> {i}?", "output": f"It is <elm> number {i}."} for i in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tiny_model_dir("llama", folder, tie_word_embeddings=request.param)


def values(base: Path, **sections: Any) -> dict[str, Any]:
    return {
        "base": {"model": str(base), "storage": "fp32"},
        "data": {"train": str(base.parent / "rows.jsonl"), "eval": 0, **sections.pop("data", {})},
        "lora": {"rank": 2, "dropout": 0.0, **sections.pop("lora", {})},
        "train": {"max_steps": 2, "batch_size": 4, "lr": 0.05},
        "eval": {"samples": 0},
        "save": {"dir": str(base.parent / "runs")},
        **sections,
    }


@torch.no_grad()
def logits(model: Any, highest: int = VOCAB_SIZE) -> torch.Tensor:
    return model(input_ids=torch.arange(highest - 25, highest)[None]).logits


def is_tied(base: Path) -> bool:
    return bool(json.loads((base / "config.json").read_text())["tie_word_embeddings"])


def test_a_head_that_peft_takes_for_other_layers_is_left_alone_or_refused() -> None:
    network = torch.nn.Module()
    network.output, network.layer = torch.nn.Linear(2, 2), torch.nn.Module()
    network.layer.output, network.embedding = torch.nn.Linear(2, 2), torch.nn.Embedding(2, 2)
    found: Any = network
    found.get_input_embeddings, found.get_output_embeddings = (
        lambda: network.embedding,
        lambda: network.output,
    )
    kind: Any = PreTrainedConfig
    found.config = kind(tie_word_embeddings=False)
    assert not any(ends_settings(found, LoraConfig(), ()).values())
    with pytest.raises(ConfigError, match="other layers end in 'output' too"):
        ends_settings(found, LoraConfig(train_also=("lm_head",)), ())


def test_new_tokens_are_rows_that_plain_peft_opens(base: Path) -> None:
    adapter = finetune(parse_config(values(base, data={"new_tokens": list(NEW)}))).path
    loaded = open_target(str(adapter), base.parent)
    assert loaded.renderer.prompt_ids([]) is not None
    ids = loaded.tokenizer("<oak><elm>", add_special_tokens=False)["input_ids"]
    assert ids == [VOCAB_SIZE, VOCAB_SIZE + 1]
    network: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    network.resize_token_embeddings(len(tokenizer))
    plain = peft.PeftModel.from_pretrained(network, str(adapter)).eval()
    own = loaded.network
    torch.testing.assert_close(
        logits(own, VOCAB_SIZE + 2), logits(plain, VOCAB_SIZE + 2), rtol=1e-4, atol=1e-4
    )
    rows = own.get_input_embeddings().token_adapter.get_merged_weights(["default"])[-2:]
    fresh = network.get_input_embeddings()
    assert not torch.allclose(rows, getattr(fresh, "original_module", fresh).weight[:2])


def test_a_new_token_in_a_row_is_one_token_of_it(base: Path) -> None:
    from sapwood.prepare.study import study_config

    study = study_config(parse_config(values(base, data={"new_tokens": list(NEW)})))
    ids = [int(id) for example in study.data.train for id in example.ids]
    assert ids.count(VOCAB_SIZE) == ids.count(VOCAB_SIZE + 1) == len(study.data.train)


@pytest.mark.parametrize("part", ["embed_tokens", "lm_head"])
def test_a_part_that_is_trained_whole_opens_in_plain_peft(base: Path, part: str) -> None:
    adapter = finetune(parse_config(values(base, lora={"train_also": [part]}))).path
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = plain.get_parameter("lm_head.weight").detach().clone()
    opened = peft.PeftModel.from_pretrained(plain, str(adapter)).eval()
    own = open_target(str(adapter), base.parent)
    torch.testing.assert_close(logits(own.network), logits(opened), rtol=1e-4, atol=1e-4)
    assert own.model is not None
    moved = not torch.equal(effective_head(own.model).weight, before)  # type: ignore[arg-type]
    assert moved == (is_tied(base) or part == "lm_head")


def test_an_export_carries_new_rows(base: Path, tmp_path: Path) -> None:
    adapter = finetune(parse_config(values(base, data={"new_tokens": list(NEW)}))).path
    loaded = open_target(str(adapter), base.parent)
    export(loaded, Order("merged"), tmp_path / "merged")
    merged: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert merged.get_input_embeddings().weight.shape[0] == VOCAB_SIZE + 2
    assert (merged.lm_head.weight is merged.model.embed_tokens.weight) == is_tied(base)
    own, found = (logits(model, VOCAB_SIZE + 2) for model in (loaded.network, merged))
    assert (own - found).abs().max() <= 0.05 * own.abs().max()


def test_a_token_that_the_model_has_is_no_new_one(base: Path) -> None:
    config = parse_config(values(base, data={"new_tokens": ["<|im_end|>"]}))
    with pytest.raises(ConfigError, match="no new token"):
        finetune(config)


def test_methods_that_train_no_rows_say_so(base: Path) -> None:
    config = parse_config(values(base, lora={"method": "ia3"}, data={"new_tokens": list(NEW)}))
    with pytest.raises(ConfigError, match="can't train the embedding or the head too"):
        finetune(config)
