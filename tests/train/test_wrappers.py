"""The language model inside a model for pictures: trained by itself, opened by plain PEFT on the whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText

from sapwood import finetune
from sapwood.base.inspect import inspect_base
from sapwood.base.load import load_base
from sapwood.base.network.parts import whole_class
from sapwood.config.sections import BaseConfig
from sapwood.errors import ConfigError, ExportError
from sapwood.serve.load import open_target
from tests.base.tiny import tiny_tokenizer
from tests.base.wrappers import tiny_wrapper

TEXT = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
# Of each: changes of its parts for text, and of those for pictures.
QWEN = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2}
KINDS: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {
    "gemma3": (TEXT | {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 32}, {}),
    "qwen2_5_vl": (None, QWEN | {"out_hidden_size": 512}),
    "qwen3_5": (
        TEXT | {"num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 32},
        QWEN | {"out_hidden_size": 64},
    ),
    "mistral3": (None, {}),
    "llama4": (
        None,
        {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 2,
         "projector_input_dim": 64, "projector_output_dim": 64, "vision_output_dim": 64},
    ),
}  # fmt: skip
SLOW = ("llama4", "qwen3_5")
LARGEST = 300_000_000  # bytes of a folder; a whole with parts of their usual size takes gigabytes
PARTS = AutoModelForImageTextToText  # what the tutorials of these models open them with


@pytest.fixture(scope="module", params=KINDS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    text, pictures = KINDS[request.param]
    parts = {"vision_config": pictures} if pictures else {}
    tiny_wrapper(request.param, folder / "base", text, **parts)
    with torch.device("meta"):
        whole = PARTS.from_config(AutoConfig.from_pretrained(folder / "base"))
    assert sum(p.numel() for p in whole.parameters()) * 4 < LARGEST, "a part of it isn't tiny"
    rows = [{"instruction": f"What is tree {i}?", "output": f"It is number {i}."} for i in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "base"


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return trained(base)


def trained(base: Path, **lora: Any) -> Path:
    return finetune(
        {
            "base": {"model": str(base), "storage": "fp32"},
            "data": {"train": str(base.parent / "rows.jsonl"), "eval": 0},
            "lora": {"rank": 4, **lora},
            "train": {"max_steps": 2, "batch_size": 4, "lr": 0.01},
            "eval": {"samples": 0},
            "save": {"dir": str(base.parent / "runs")},
        }
    ).path


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(5, 45)[None], use_cache=False).logits


def test_plain_peft_opens_the_adapter_on_the_whole_checkpoint(base: Path, adapter: Path) -> None:
    whole = PARTS.from_pretrained(base, dtype=torch.float32)
    bare = logits(whole)
    plain = peft.PeftModel.from_pretrained(whole, str(adapter)).eval()
    own = logits(open_target(str(adapter), base.parent).network)
    assert (own - logits(plain)).abs().max() <= 1e-4 and (own - bare).abs().max() > 1e-3


def test_no_name_of_the_adapter_is_of_another_part(base: Path, adapter: Path) -> None:
    settings = json.loads((adapter / "adapter_config.json").read_text())
    whole = PARTS.from_pretrained(base)
    adapted = peft.get_peft_model(whole, peft.LoraConfig(target_modules=settings["target_modules"]))
    names = {name.replace(".default", "") for name, p in adapted.named_parameters() if p.requires_grad}
    assert names == load_file(adapter / "adapter_model.safetensors").keys()


def test_the_rest_is_there_by_name_and_holds_no_weights(base: Path) -> None:
    config = BaseConfig(model=str(base), storage="fp32")
    network = load_base(inspect_base(config), config).model
    whole = whole_class(AutoConfig.from_pretrained(base)).from_pretrained(base)
    assert {name for name, _ in network.named_modules()} == {name for name, _ in whole.named_modules()}
    lost = dict(whole.named_parameters()).keys() - dict(network.named_parameters()).keys()
    assert lost and not any("layers.0.self_attn.q_proj" in name and "language" in name for name in lost)


def test_a_merged_folder_has_every_part(base: Path, adapter: Path, tmp_path: Path) -> None:
    from sapwood.export.ship import Order, export

    if base.parent.name.startswith(SLOW) and not os.environ.get("SAPWOOD_ALL_ARCHITECTURES"):
        pytest.skip("with SAPWOOD_ALL_ARCHITECTURES=1: experts take long")
    export(open_target(str(adapter), base.parent), Order("merged"), tmp_path / "merged")
    merged = PARTS.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    own = dict(PARTS.from_pretrained(base, dtype=torch.float32).named_parameters())
    found = dict(merged.named_parameters())
    assert found.keys() == own.keys()
    beside = [name for name in own if "vision" in name or "visual" in name]
    assert beside and all(torch.allclose(found[name], own[name], atol=0.01) for name in beside)


def test_a_wrapper_that_takes_no_text_alone_is_merged_whole(tmp_path: Path) -> None:
    from sapwood.export.ship import Order, export

    tiny_wrapper("blip", tmp_path / "base")
    rows = [{"instruction": f"What is tree {i}?", "output": f"It is number {i}."} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    adapter = trained(tmp_path / "base")
    export(open_target(str(adapter), tmp_path), Order("merged"), tmp_path / "merged")
    base, merged = (
        PARTS.from_pretrained(tmp_path / name, dtype=torch.float32) for name in ("base", "merged")
    )
    with pytest.raises((TypeError, ValueError), match="pixel_values"):
        logits(merged)
    own, found = dict(base.named_parameters()), dict(merged.named_parameters())
    assert found.keys() == own.keys()
    beside = [name for name in own if name.startswith("vision_model")]
    assert beside and all(torch.allclose(found[name], own[name], atol=0.01) for name in beside)
    changed, bare = logits(merged.text_decoder), logits(base.text_decoder)
    wanted = logits(open_target(str(adapter), tmp_path).network)
    assert (changed - wanted).abs().max() < 0.2 * (changed - bare).abs().max()


def test_positions_that_are_computed_are_in_the_format_of_the_weights(tmp_path: Path) -> None:
    """Kosmos-2 adds a buffer of positions to its embeddings; in fp32 a norm in bf16 refuses the sum."""
    from sapwood.export.ship import Order, export

    tiny_wrapper("kosmos-2", tmp_path / "base")
    (tmp_path / "rows.jsonl").write_text('{"instruction": "tree?", "output": "It is."}\n')
    opened = open_target(str(trained(tmp_path / "base")), tmp_path)
    check = export(opened, Order("merged"), tmp_path / "merged").check
    assert 0 < check.difference <= check.limit and check.format_difference > 0


def test_what_lies_beside_the_language_model_is_missed_when_it_is_needed(tmp_path: Path) -> None:
    from sapwood.export.ship import Order, export

    tiny_wrapper("kosmos-2", tmp_path / "base")
    (tmp_path / "rows.jsonl").write_text('{"instruction": "tree?", "output": "It is."}\n')
    file = tmp_path / "base" / "model.safetensors"
    lost = "vision_model.model.post_layernorm.weight"
    held = load_file(file)
    held[f"{lost}.of_another_name"] = held.pop(lost)
    save_file(held, file, metadata={"format": "pt"})
    adapter = trained(tmp_path / "base")
    with pytest.raises(ExportError, match=f"tensor {lost} is missing"):
        export(open_target(str(adapter), tmp_path), Order("merged"), tmp_path / "merged")


def test_a_list_of_targets_means_those_of_the_language_model(base: Path) -> None:
    settings = json.loads((trained(base, targets=["q_proj", "v_proj"]) / "adapter_config.json").read_text())
    assert not any("vision" in name or "visual" in name for name in settings["target_modules"])


def test_a_regular_expression_that_names_pictures_too_is_refused(base: Path) -> None:
    with pytest.raises(ConfigError, match="more than linear layers"):
        trained(base, targets=r".*\.\w+")


def test_a_template_that_wants_parts_is_given_text_too(tmp_path: Path) -> None:
    from sapwood.base.tokenizer import read_tokenizer_of

    parts = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
        "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    )
    tokenizer = tiny_tokenizer(None)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": parts}))
    found = read_tokenizer_of(tmp_path)
    said = [{"role": "user", "content": "Plant it."}]
    wanted = "<|im_start|>user\nPlant it.<|im_end|>\n"
    assert found.apply_chat_template(said, tokenize=False) == wanted
    said = [{"role": "user", "content": [{"type": "text", "text": "Plant it."}]}]
    assert found.apply_chat_template(said, tokenize=False) == wanted
