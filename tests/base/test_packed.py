"""Quantised checkpoints are read as what their files mean: against the formula of each format's source, and
against transformers' own reader if it runs here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GptOssConfig

from sapwood import finetune
from sapwood.base.inspect import inspect_base
from sapwood.base.load import load_base
from sapwood.base.tiny import tiny_model
from sapwood.config.sections import BaseConfig
from sapwood.errors import ModelError
from tests.base.quantised import awq, fp8, gptq, int4_words, mxfp4, quantised
from tests.base.tiny import VOCAB_SIZE, tiny_model_dir, tiny_tokenizer

FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
GPTQ = {"quant_method": "gptq", "group_size": 32, "sym": False}
WRITTEN = {
    "fp8 in blocks": (fp8(48), FP8 | {"weight_block_size": [48, 48]}),
    "fp8 with one scale": (fp8(None), FP8),
    "fp8 of compressed-tensors": (fp8(None, "weight_scale"), {"quant_method": "compressed-tensors"}),
    "gptq": (gptq(32, 4, order=False), GPTQ | {"bits": 4}),
    "gptq in the order of activations": (gptq(32, 4, order=True), GPTQ | {"bits": 4, "desc_act": True}),
    "gptq of 8 bits": (gptq(32, 8, order=False), GPTQ | {"bits": 8}),
    "awq": (awq(32), {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}),
    "int4 of compressed-tensors": (int4_words(32), {"quant_method": "compressed-tensors"}),
}
ALIKE = 1e-3  # nats: the loss, against transformers' own on the same file


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_dir("llama", tmp_path_factory.mktemp("dense"))


def loaded(folder: Path, storage: Any = "fp32") -> Any:
    config = BaseConfig(model=str(folder), storage=storage, compute_dtype="fp32")
    return load_base(inspect_base(config), config).model


@torch.no_grad()
def loss(model: Any) -> float:
    ids = torch.randint(3, VOCAB_SIZE, (2, 40), generator=torch.Generator().manual_seed(0))
    return float(model(input_ids=ids, labels=ids, use_cache=False).loss)


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_checkpoint_means_what_the_formula_of_its_format_says(
    kind: str, dense: Path, tmp_path: Path
) -> None:
    make, settings = WRITTEN[kind]
    meant = quantised(dense, tmp_path / "base", make, settings)
    found = dict(loaded(tmp_path / "base").named_parameters())
    for name, weight in meant.items():
        torch.testing.assert_close(found[name].data, weight, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["nf4", "nf4 twice", "fp4", "int8"])
def test_bitsandbytes_files_give_transformers_own_loss(kind: str, dense: Path, tmp_path: Path) -> None:
    settings = BitsAndBytesConfig(load_in_8bit=True)
    if kind != "int8":
        settings = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type=kind[:3], bnb_4bit_use_double_quant=kind.endswith("twice"),
            bnb_4bit_compute_dtype=torch.float32,
        )  # fmt: skip
    made = AutoModelForCausalLM.from_pretrained(dense, quantization_config=settings, dtype=torch.float32)
    made.save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    # their first product packs the codes anew, on a processor with bf16
    named = theirs.named_parameters()
    codes = {name: code.detach().clone() for name, code in named if code.dtype == torch.uint8}
    alike = ALIKE if kind != "int8" else 0.02  # there they round activations too
    assert loss(loaded(tmp_path / "base")) == pytest.approx(loss(theirs), abs=alike)
    if kind == "nf4":  # the codes that the file holds, in our own storage
        kept = dict(loaded(tmp_path / "base", "nf4").named_parameters())
        assert codes and all(torch.equal(kept[name], code) for name, code in codes.items())


@pytest.mark.parametrize("kind", ["fp8 in blocks", "fp8 with one scale"])
def test_fp8_gives_transformers_own_loss(kind: str, dense: Path, tmp_path: Path) -> None:
    make, settings = (fp8(32), FP8 | {"weight_block_size": [32, 32]}) if "blocks" in kind else WRITTEN[kind]
    quantised(dense, tmp_path / "base", make, settings)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    assert loss(loaded(tmp_path / "base")) == pytest.approx(loss(theirs), abs=ALIKE)


def test_mxfp4_gives_transformers_own_loss(tmp_path: Path) -> None:
    config = GptOssConfig(vocab_size=VOCAB_SIZE, bos_token_id=0, eos_token_id=2, pad_token_id=0)
    tiny_model(config, tmp_path, vocabulary=VOCAB_SIZE)
    tiny_tokenizer().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    meant: dict[str, torch.Tensor] = {}
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        blocks, scales, meant[name] = mxfp4(tensors.pop(name))
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    save_file(tensors, tmp_path / "model.safetensors")
    told = json.loads((tmp_path / "config.json").read_text())
    told["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": []}
    (tmp_path / "config.json").write_text(json.dumps(told))
    found = loaded(tmp_path)
    for name, weight in meant.items():
        torch.testing.assert_close(dict(found.named_parameters())[name].data, weight)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert loss(found) == pytest.approx(loss(theirs), abs=ALIKE)


def test_a_quantised_checkpoint_trains_and_its_adapter_opens(dense: Path, tmp_path: Path) -> None:
    from sapwood.serve.load import open_target

    quantised(dense, tmp_path / "base", *WRITTEN["gptq"])
    rows = [{"instruction": f"tree {i}?", "output": f"It is number {i}."} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    adapter = finetune(
        {
            "base": {"model": str(tmp_path / "base"), "storage": "fp32"},
            "data": {"train": str(tmp_path / "rows.jsonl"), "eval": 0},
            "train": {"max_steps": 1},
            "eval": {"samples": 0},
            "save": {"dir": str(tmp_path / "runs")},
        }
    )
    assert open_target(str(adapter.path), tmp_path).model is not None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quant_method": "aqlm"}, "stored as aqlm"),
        ({"quant_method": "awq", "version": "gemv"}, "stored as AWQ for gemv"),
        ({"quant_method": "gptq", "bits": 3}, "stored as GPTQ"),
        ({"quant_method": "mxfp4"}, "is stored as F8_E4M3"),
    ],
)
def test_what_nobody_reads_is_refused_with_the_original(
    settings: dict[str, Any], said: str, dense: Path, tmp_path: Path
) -> None:
    def bare(name: str, weight: torch.Tensor) -> Any:
        return {name: weight.to(torch.float8_e4m3fn)}, weight

    quantised(dense, tmp_path / "base", bare, settings)
    (tmp_path / "base" / "README.md").write_text("---\nbase_model:\n- grove/oak-7b\n---\n")
    with pytest.raises(ModelError, match=said) as caught:
        inspect_base(BaseConfig(model=str(tmp_path / "base")))
    assert "grove/oak-7b" in caught.value.problems[0].mend
