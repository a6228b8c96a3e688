"""A run is tried out on a tiny copy of its model: what can't be trained is said before a weight is loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING

from sapwood.base.tiny import VOCABULARY, WINDOW, tiny_config, tiny_model
from sapwood.compute.attention import seam
from sapwood.config.sections import LoraConfig
from sapwood.errors import ConfigError, ModelError, SapwoodError
from sapwood.train.trial import try_out
from sapwood.types import BaseSpec

HALF_SLIDING: dict[str, Any] = {
    "sliding_window": 4096,
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
EXPERTS: dict[str, Any] = {"n_routed_experts": 64, "num_experts_per_tok": 8, "n_group": 1, "topk_group": 1}
TRAINED: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 4096},
    "gemma2": {},
    "exaone4": HALF_SLIDING,
    "glm4_moe": EXPERTS,
    "deepseek_v3": EXPERTS,
    "minicpm3": {},
    "mixtral": {},
    "gemma4_text": {},  # heads of two widths
    "phimoe": {},  # draws its experts in training mode
    "gpt2": {},  # matrices that lie across
    "llama4_text": {},  # calls itself its decoder
    "qwen2_5_vl": {},  # the language model in it
    "paligemma": {},  # says that its attention looks ahead
}
ALONE = {  # and why
    "gpt_oss": "the model also uses attention sinks",
    "stablelm": "don't pass on",
    "falcon": "",
    "qwen3_next": "",
    "lfm2": "the loss of a pack is",
    "blip": "the loss of a pack is",  # a language model that answers in the place of its wrapper
    "mamba": "",
    "falcon_mamba": "",  # norms with a buffer for a weight
    "zamba2": "",  # norms that take a gate, layers that are named by their numbers
}
if os.environ.get("SAPWOOD_ALL_ARCHITECTURES"):
    ALONE["xlstm"] = ""  # a cap on its logits that no other calls so; half a minute of loops in Python
CONVOLUTIONS: dict[str, Any] = {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention"] * 2}


def spec_of(kind: str, **values: Any) -> BaseSpec:
    return BaseSpec(kind, Path(kind), "", None, CONFIG_MAPPING[kind](**values), ())


@pytest.mark.parametrize("kind", TRAINED)
def test_a_full_size_config_is_tried_out_on_a_tiny_copy(kind: str) -> None:
    spec = spec_of(kind, **TRAINED[kind])
    before, state = spec.hf_config.to_dict(), torch.random.get_rng_state()
    trial = try_out(spec, LoraConfig())
    window = getattr(spec.hf_config, "sliding_window", None)
    assert trial.window == (WINDOW if window else None) and trial.rows == 3
    assert spec.hf_config.to_dict() == before and torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("kind", ALONE)
def test_a_model_that_a_pack_would_spoil_takes_each_row_alone(kind: str) -> None:
    trial = try_out(spec_of(kind, **(CONVOLUTIONS if kind == "lfm2" else {})), LoraConfig())
    assert trial.alone and ALONE[kind] in trial.why and trial.rows == 3


@pytest.mark.parametrize(
    ("kind", "why"),
    [("xlm", "tokens see those after them"), ("bert-generation", "tokens see those after them")],
)
def test_what_cannot_be_trained_is_refused_with_its_reason(kind: str, why: str) -> None:
    with pytest.raises(SapwoodError, match=why) as caught:
        try_out(spec_of(kind), LoraConfig())
    assert all(problem.mend and "/tmp" not in problem.where for problem in caught.value.problems)


def test_a_config_that_wants_packs_gets_them_or_the_reason() -> None:
    assert not try_out(spec_of("llama"), LoraConfig(), "together").alone
    assert try_out(spec_of("llama"), LoraConfig(), "alone").why == ""
    with pytest.raises(ModelError, match="the loss of a pack is"):
        try_out(spec_of("lfm2", **CONVOLUTIONS), LoraConfig(), "together")


def test_a_window_where_there_is_none_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As EXAONE 4 was trained once: its modules keep a window that full layers don't have."""
    rule = seam.Rule
    monkeypatch.setattr(seam, "Rule", lambda **values: rule(**values | {"window": WINDOW}))
    with pytest.raises(ModelError, match="the loss of a pack is"):
        try_out(spec_of("exaone4", **HALF_SLIDING), LoraConfig(), "together")


def test_a_gradient_that_is_lost_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = seam.attend
    monkeypatch.setattr(seam, "attend", lambda query, key, *rest: attend(query, key.detach(), *rest))
    with pytest.raises(ModelError, match="the gradient of"):
        try_out(spec_of("llama"), LoraConfig(), "together")


@pytest.mark.parametrize("method", ["rslora", "dora", "pissa", "ia3", "prefix", "full"])
def test_every_method_is_tried(method: Any) -> None:
    assert try_out(spec_of("qwen2"), LoraConfig(method=method)).rows == 3


def test_the_copy_keeps_each_kind_of_layer_and_the_widths_of_heads() -> None:
    big = CONFIG_MAPPING["gemma3_text"]()
    small = tiny_config(big)
    assert set(small.layer_types) == set(big.layer_types) and small.num_hidden_layers == 2
    assert small.head_dim == big.head_dim and small.vocab_size == VOCABULARY
    assert small.sliding_window == WINDOW
    assert json.dumps(big.to_dict()) == json.dumps(CONFIG_MAPPING["gemma3_text"]().to_dict())


def test_the_copy_keeps_layers_that_are_named_by_their_numbers() -> None:
    small = tiny_config(CONFIG_MAPPING["bamba"](attn_layer_indices=[9, 18, 27]))
    assert small.layers_block_type == ["linear_attention", "full_attention"]
    assert small.mamba_n_heads * small.mamba_d_head == small.mamba_expand * small.hidden_size


def test_the_copy_keeps_what_single_layers_have_of_their_own() -> None:
    small = tiny_config(CONFIG_MAPPING["gemma4_text"]())
    assert [small.per_layer_config[i].head_dim for i in range(2)] == [256, 512]


def test_a_copy_holds_nothing_that_lay_in_memory_by_chance(tmp_path: Path) -> None:
    """transformers' initialiser passes over BLIP's bias of the head."""
    for size in range(100, 2000, 100):  # what is freed lies there for the next
        torch.full((size,), 1e9)
    tiny_model(CONFIG_MAPPING["blip"](), tmp_path)
    bias = load_file(tmp_path / "model.safetensors")["text_decoder.cls.predictions.bias"]
    assert 0 < bias.abs().max() < 1


def test_a_family_whose_adapters_plain_peft_loses_is_refused() -> None:
    with pytest.raises(ConfigError, match="plain PEFT doesn't open LoRA adapters of unlimited_ocr"):
        try_out(spec_of("unlimited_ocr"), LoraConfig())


def test_what_a_library_says_stands_behind_a_sentence() -> None:
    with pytest.raises(
        ModelError, match=r"can't make a tiny copy of it here: the library says \"If you want"
    ):
        try_out(spec_of("reformer"), LoraConfig())
