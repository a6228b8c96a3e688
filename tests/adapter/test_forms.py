"""Adapters that PEFT writes: those that are understood answer as in PEFT, every other is refused by its form,
and before a base is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from sapwood.adapter.forms import defaults
from sapwood.errors import ModelError, SapwoodError
from sapwood.evaluate import row_losses
from sapwood.export.merge import merged_parameters
from sapwood.export.ship import load_dense
from sapwood.serve import load
from sapwood.serve.load import open_target
from sapwood.types import Example, RowId
from tests.base.tiny import tiny_llama
from tests.serve.tiny_chat import tiny_adapter

IDS = torch.tensor([[1, 300, 301, 302, 2, 1, 77, 78, 79]])
EXAMPLE = Example(RowId("row", 0), IDS[0].numpy().astype("int32"), np.arange(9) > 0)
BESIDE = ("own biases", "head", "head and embedding", "on the head", "embedding")  # of a tied base
ON: dict[str, Any] = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"]}
UNDERSTOOD = {
    "plain": lambda: peft.LoraConfig(r=4, lora_alpha=8, **ON),
    "rslora": lambda: peft.LoraConfig(r=4, lora_alpha=8, use_rslora=True, **ON),
    "dora": lambda: peft.LoraConfig(r=4, lora_alpha=8, use_dora=True, **ON),
    "gaussian": lambda: peft.LoraConfig(r=4, init_lora_weights="gaussian", **ON),
    "regular expression": lambda: peft.LoraConfig(
        r=4, task_type="CAUSAL_LM", target_modules=r".*self_attn\.(q|v)_proj"
    ),
    "bias": lambda: peft.LoraConfig(r=4, bias="lora_only", **ON),
    "ia3": lambda: peft.IA3Config(feedforward_modules=[], **ON),
    "head": lambda: peft.LoraConfig(r=4, modules_to_save=["lm_head"], **ON),
    "head and embedding": lambda: peft.LoraConfig(r=4, modules_to_save=["lm_head", "embed_tokens"], **ON),
    "token rows": lambda: peft.LoraConfig(r=4, trainable_token_indices=[300, 301], **ON),
    "patterns": lambda: peft.LoraConfig(
        r=4, lora_alpha=8, rank_pattern={"v_proj": 2}, alpha_pattern={"v_proj": 3}, **ON
    ),
    "some layers": lambda: peft.LoraConfig(r=4, layers_to_transform=[1], **ON),
    "all but some": lambda: peft.LoraConfig(r=4, exclude_modules=["model.layers.0.self_attn.v_proj"], **ON),
    "own biases": lambda: peft.LoraConfig(r=4, lora_bias=True, **ON),
    "embedding": lambda: peft.LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=["embed_tokens"]),
    "on the head": lambda: peft.LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=["v_proj", "lm_head"]),
    "adalora": lambda: peft.AdaLoraConfig(init_r=6, target_r=4, total_step=10, **ON),
    "adalora with its ranks": lambda: peft.AdaLoraConfig(init_r=6, target_r=4, total_step=10, **ON),
    "loha": lambda: peft.LoHaConfig(r=4, **ON),
    "lokr": lambda: peft.LoKrConfig(r=4, **ON),
    "vera": lambda: peft.VeraConfig(r=8, **ON),
    "vera by its key": lambda: peft.VeraConfig(r=8, save_projection=False, **ON),
}
REFUSED = {
    "pissa": lambda: peft.LoraConfig(r=4, init_lora_weights="pissa", **ON),
    "pissa_niter_4": lambda: peft.LoraConfig(r=4, init_lora_weights="pissa_niter_4", **ON),
    "olora": lambda: peft.LoraConfig(r=4, init_lora_weights="olora", **ON),
    "alora": lambda: peft.LoraConfig(r=4, alora_invocation_tokens=[300, 301], **ON),
    "other layers": lambda: peft.LoraConfig(r=4, layer_replication=[(0, 2), (0, 2)], **ON),
    "oft": lambda: peft.OFTConfig(oft_block_size=4, **ON),
    "a rank that is no number": lambda: peft.LoraConfig(r=4, rank_pattern={"v_proj": 2**40}, **ON),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forms")
    tiny_adapter(folder)  # the base, and facts that fit it
    return folder


def made(place: Path, config: Any, form: str = "") -> tuple[Path, torch.Tensor]:
    """An adapter as PEFT leaves it, with our facts beside it, and what PEFT answers with it."""
    folder = place / "made"
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(3)
    base = place / "tiny-llama"
    network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    ranks = getattr(config, "rank_pattern", None) or {}
    huge = {key: ranks.pop(key) for key, rank in list(ranks.items()) if rank > 64}
    model = peft.get_peft_model(network, config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    if form == "adalora with its ranks":
        kept = [True, False, True, True, False, True]
        names = [name for name, _ in model.named_parameters() if "lora_E" in name]
        config.rank_pattern = {name.removeprefix("base_model.model."): kept for name in names}
    model.save_pretrained(folder)
    shutil.copy(place / "adapter" / "sapwood.json", folder)
    if huge:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"rank_pattern": huge}))
        return folder, torch.zeros(())
    fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        return folder, peft.PeftModel.from_pretrained(fresh, folder).eval()(IDS).logits


@pytest.mark.parametrize("form", UNDERSTOOD)
def test_a_form_that_is_understood_answers_as_in_peft(form: str, place: Path) -> None:
    folder, expected = made(place, UNDERSTOOD[form](), form)
    (folder / "sapwood.json").unlink()
    loaded = open_target(str(folder), place, exact=True)
    with torch.no_grad():
        found = loaded.network(IDS).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    packed = row_losses(loaded.model, [EXAMPLE])[0]
    rows = expected[0, :-1].log_softmax(-1)
    assert packed == pytest.approx(-float(rows.gather(1, IDS[0, 1:, None]).sum()), rel=1e-4)
    merged = load_dense(loaded, merged_parameters(loaded)) if form not in BESIDE else None
    if merged is not None:
        with torch.no_grad():
            torch.testing.assert_close(merged(IDS).logits, expected, rtol=1e-3, atol=1e-3)
    else:
        with pytest.raises(SapwoodError, match=r"can't be merged|a separate output head"):
            load_dense(loaded, merged_parameters(loaded))


@pytest.mark.parametrize("form", REFUSED)
def test_any_other_form_is_refused_before_a_base_is_loaded(
    form: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "load_base", lambda *_: pytest.fail("the base was loaded"))
    folder, _ = made(place, REFUSED[form]())
    with pytest.raises(ModelError, match="isn't supported"):
        open_target(str(folder), place)


def test_a_field_of_a_later_peft_is_refused_where_it_says_something(place: Path) -> None:
    folder, _ = made(place, UNDERSTOOD["plain"]())
    file = folder / "adapter_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"use_next_thing": False}))
    open_target(str(folder), place)
    file.write_text(json.dumps(settings | {"use_next_thing": True}))
    with pytest.raises(ModelError, match="use_next_thing: True"):
        open_target(str(folder), place)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fine_tune_type": "lora", "lora_parameters": {"rank": 8}}, "scale is None"),
        ({"fine_tune_type": "full", "model": "x"}, "'full' isn't supported"),
        ({"peft_type": "LORA", "task_type": "SEQ_CLS"}, "task_type: SEQ_CLS"),
        ({"peft_type": ["LORA"]}, r"adapter type \['LORA'\]"),
    ],
)
def test_settings_of_another_kind_are_told_apart(
    settings: dict[str, Any], message: str, place: Path, tmp_path: Path
) -> None:
    shutil.copytree(place / "adapter", tmp_path / "other")
    (tmp_path / "other" / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=message):
        open_target(str(tmp_path / "other"), place)


def test_tensors_that_no_plain_adapter_has_are_refused(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "adapter", tmp_path / "other")
    save_file(
        {"base_model.model.lm_head.weight": torch.zeros(600, 64)},
        tmp_path / "other" / "adapter_model.safetensors",
    )
    with pytest.raises(ModelError, match=r"the adapter holds base_model.model.lm_head.weight"):
        open_target(str(tmp_path / "other"), place)


def test_only_what_differs_from_its_default_is_written(place: Path) -> None:
    settings = json.loads((place / "adapter" / "adapter_config.json").read_text())
    usual = defaults("LORA")
    always = {
        "peft_type",
        "task_type",
        "base_model_name_or_path",
        "r",
        "lora_alpha",
        "bias",
        "target_modules",
    }
    assert set(settings) == always | {key for key, value in settings.items() if value != usual[key]}
    assert "peft_version" not in settings and len(settings) < 12


def test_an_adapter_of_another_program_opens_on_the_base_that_is_named(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, expected = made(place, UNDERSTOOD["plain"]())
    (folder / "sapwood.json").unlink()
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": None}))
    with pytest.raises(ModelError, match="name the base: --base MODEL"):
        open_target(str(folder), place)
    with torch.no_grad():
        found = (
            open_target(str(folder), place, exact=True, base=str(tiny_llama(tmp_path))).network(IDS).logits
        )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert "nothing proves what it was trained on" in caplog.text
