"""The experts of a mixture through PEFT's parameter targets; what chooses among them stays frozen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sapwood import finetune
from sapwood.adapter.places.experts import routers
from sapwood.adapter.places.targets import _linears, resolve_targets
from sapwood.base.inspect import inspect_base, skeleton
from sapwood.base.tiny import tiny_model
from sapwood.commands.data import check_config
from sapwood.config.file import dump_config, parse_config
from sapwood.config.sections import BaseConfig, RunConfig
from sapwood.errors import ConfigError
from sapwood.plan.memory import _trained_bytes
from sapwood.serve.load import open_target
from tests.base.tiny import VOCAB_SIZE, tiny_model_dir, tiny_tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts")
    rows = [{"instruction": f"What is tree {i}?", "output": f"It is number {i}."} for i in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tiny_model_dir("qwen3moe", folder)


def settings(base: Path, **lora: Any) -> RunConfig:
    return parse_config(
        {
            "base": {"model": str(base), "storage": "fp32"},
            "data": {"train": str(base.parent / "rows.jsonl"), "eval": 0},
            "lora": {"rank": 2, "targets": ["q_proj", "experts"], "dropout": 0.1, **lora},
            "train": {"max_steps": 2, "batch_size": 4, "lr": 0.01},
            "eval": {"samples": 0},
            "save": {"dir": str(base.parent / "runs")},
        }
    )


def test_experts_and_linears_are_trained_side_by_side_and_open_in_plain_peft(base: Path) -> None:
    adapter = finetune(settings(base)).path
    told = json.loads((adapter / "adapter_config.json").read_text())
    assert told["target_parameters"] == ["experts.down_proj", "experts.gate_up_proj"]
    tensors = load_file(adapter / "adapter_model.safetensors")
    moved = [name for name, tensor in tensors.items() if "lora_B" in name and tensor.abs().max() > 0]
    assert {"experts" in name for name in moved} == {True, False}
    plain = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).eval()
    ids = torch.arange(5, 30)[None]
    with torch.no_grad():
        own, wanted = (
            m(input_ids=ids).logits for m in (open_target(str(adapter), base.parent).network, plain)
        )
    torch.testing.assert_close(own, wanted, rtol=1e-5, atol=1e-5)


def test_check_says_that_experts_take_no_dropout(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (base.parent / "run.yaml").write_text(dump_config(settings(base)))
    check_config(base.parent / "run.yaml", [], as_json=False)
    told = capsys.readouterr().out
    assert "experts are trained without dropout" in told and "of the experts" not in told


def test_the_plan_counts_what_is_learnt_of_experts(base: Path) -> None:
    network = skeleton(inspect_base(BaseConfig(model=str(base))))
    alone = _trained_bytes(network, settings(base, targets=["q_proj"]))
    both = _trained_bytes(network, settings(base))
    stacks = sum(p.numel() for p in network.parameters() if p.dim() == 3)
    assert both - alone > 4 * stacks


def test_a_router_that_is_a_linear_stays_frozen(tmp_path: Path) -> None:
    from transformers import CONFIG_MAPPING

    config: Any = CONFIG_MAPPING["afmoe"](num_hidden_layers=4, vocab_size=VOCAB_SIZE)
    tiny_model(config, tmp_path, vocabulary=VOCAB_SIZE)
    tiny_tokenizer().save_pretrained(tmp_path)
    network = skeleton(inspect_base(BaseConfig(model=str(tmp_path))))
    found = routers(network, _linears(network))
    assert found and all(name.endswith("router.gate") for name in found)
    targets = resolve_targets(network, "all-linear")
    assert "q_proj" in targets and not any(name.endswith("gate") for name in targets)


def test_a_name_that_only_resembles_experts_is_asked_back(base: Path) -> None:
    network = skeleton(inspect_base(BaseConfig(model=str(base))))
    with pytest.raises(ConfigError) as caught:
        resolve_targets(network, ("expert.gate_up_proj",))
    assert "experts.gate_up_proj" in caught.value.problems[0].mend
