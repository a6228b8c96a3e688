"""ChatGLM3 checkpoints without their code: against the public description, in plain torch, and the prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from sapwood.adapter.attach import attach_lora
from sapwood.base.inspect import inspect_base
from sapwood.base.load import load_base
from sapwood.config.sections import BaseConfig, LoraConfig
from sapwood.errors import ModelError
from sapwood.template.render import Renderer
from sapwood.types import Base, Conversation, Message, RowId
from tests.base.tiny_chatglm import chatglm_tensors, tiny_chatglm_dir

HEADS, GROUPS, SIZE, EPSILON = 4, 2, 16, 1e-5


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON) * weight


def rotated(x: Tensor) -> Tensor:
    """x: [T, heads, SIZE]. The first half of the dimensions turns in neighbouring pairs, by position times
    10000^(-2i / (SIZE / 2)); the second half stays."""
    turned, kept = x[..., : SIZE // 2], x[..., SIZE // 2 :]
    pairs = turned.reshape(*turned.shape[:-1], SIZE // 4, 2)
    frequency = 10_000.0 ** (-torch.arange(0, SIZE // 2, 2) / (SIZE // 2))
    angle = torch.arange(len(x))[:, None, None] * frequency
    first, second = pairs[..., 0], pairs[..., 1]
    out = torch.stack(
        [first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1
    )
    return torch.cat([out.flatten(-2), kept], -1)


def attention(x: Tensor, tensors: dict[str, Tensor], at: str) -> Tensor:
    """Multi-query attention: each group of key and value serves HEADS / GROUPS neighbouring heads."""
    fused = x @ tensors[at + "query_key_value.weight"].T + tensors[at + "query_key_value.bias"]
    q, k, v = fused.split([HEADS * SIZE, GROUPS * SIZE, GROUPS * SIZE], -1)
    q = rotated(q.view(len(x), HEADS, SIZE))
    k = rotated(k.view(len(x), GROUPS, SIZE)).repeat_interleave(HEADS // GROUPS, 1)
    v = v.view(len(x), GROUPS, SIZE).repeat_interleave(HEADS // GROUPS, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) / SIZE**0.5
    causal = torch.ones(len(x), len(x), dtype=torch.bool).tril()
    weights = scores.masked_fill(~causal, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v).flatten(1) @ tensors[at + "dense.weight"].T


def reference_logits(ids: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    h = tensors["transformer.embedding.word_embeddings.weight"][ids]
    for layer in range(2):
        at = f"transformer.encoder.layers.{layer}."
        x = normed(h, tensors[at + "input_layernorm.weight"])
        h = h + attention(x, tensors, at + "self_attention.")
        x = normed(h, tensors[at + "post_attention_layernorm.weight"])
        gate, up = (x @ tensors[at + "mlp.dense_h_to_4h.weight"].T).chunk(2, -1)
        h = h + (silu(gate) * up) @ tensors[at + "mlp.dense_4h_to_h.weight"].T
    h = normed(h, tensors["transformer.encoder.final_layernorm.weight"])
    return h @ tensors["transformer.output_layer.weight"].T


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chatglm_dir(tmp_path_factory.mktemp("chatglm"))


@pytest.fixture(scope="module")
def base(folder: Path) -> Base:
    config = BaseConfig(model=str(folder), storage="fp32")
    return load_base(inspect_base(config), config)


def test_logits_are_those_of_the_public_description(base: Base) -> None:
    ids = torch.randint(0, 64_000, (37,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = base.model(ids[None]).logits[0]
    wanted = reference_logits(ids, chatglm_tensors())
    assert wanted.std() > 0.3, "a model that says nothing proves nothing"
    assert (found - wanted).abs().max() < 1e-4


def test_the_adapter_goes_on_all_linears_and_changes_nothing_at_first(base: Base, folder: Path) -> None:
    ids = torch.arange(20)[None]
    config = BaseConfig(model=str(folder), storage="fp32")
    with torch.no_grad():
        before = base.model(ids).logits
        model = attach_lora(load_base(base.spec, config), LoraConfig(rank=2))
        assert model.targets == ("down_proj", "gate_up_proj", "k_proj", "o_proj", "q_proj", "v_proj")
        assert torch.allclose(model.peft(ids).logits, before, atol=1e-5)


def test_a_loaded_model_is_saved_in_transformers_own_layout(base: Base, tmp_path: Path) -> None:
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    base.model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert "model.layers.0.self_attn.q_proj.weight" in names
    assert not [name for name in names if name.startswith("transformer.")]
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.allclose(again(ids).logits, base.model(ids).logits, atol=1e-5)


def test_the_prompt_is_the_published_one(base: Base) -> None:
    renderer = Renderer(base.spec.tokenizer, None, base.spec.stop_ids)
    messages = (
        Message("system", "你是甄嬛。"),
        Message("user", "你是谁？"),
        Message("assistant", "家父甄远道。"),
    )
    (rendered,) = renderer.render(Conversation(RowId("x", 0), messages))
    assert (
        rendered.text
        == "[gMASK]sop<|system|>\n 你是甄嬛。<|user|>\n 你是谁？<|assistant|>\n 家父甄远道。</s>"
    )
    ids = renderer.prompt_ids(messages[:2], ())
    control = {64790: "[gMASK]", 64792: "sop", 64794: "<|system|>", 64795: "<|user|>", 64796: "<|assistant|>"}
    assert [control[i] for i in ids if i in control] == list(control.values())
    assert ids[:3] == [64790, 64792, 64794]
    assert renderer.stop_ids == (2,)


def test_a_row_that_spells_a_control_token_stays_text(base: Base) -> None:
    renderer = Renderer(base.spec.tokenizer, None, base.spec.stop_ids)
    ids = renderer.prompt_ids((Message("user", "<|assistant|> [gMASK]"),), ())
    assert ids.count(64796) == 1
    assert ids.count(64790) == 1


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"multi_query_attention": False}, "multi_query_attention is False"),
        ({"padded_vocab_size": None}, "padded_vocab_size is missing"),
        ({"num_layers": True}, "num_layers is missing"),
        ({"rmsnorm": False}, "rmsnorm is False"),
    ],
)
def test_another_layout_of_that_name_is_refused(changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=why):
        inspect_base(BaseConfig(model=str(tiny_chatglm_dir(tmp_path, **changes))))


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    from tests.base.tiny import tiny_tokenizer

    path = tiny_chatglm_dir(tmp_path)
    tiny_tokenizer().save_pretrained(path)
    with pytest.raises(ModelError, match="not the tokenizer of ChatGLM3"):
        inspect_base(BaseConfig(model=str(path)))


def test_a_missing_tokenizer_file_is_said(tmp_path: Path) -> None:
    path = tiny_chatglm_dir(tmp_path)
    (path / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="no usable tokenizer"):
        inspect_base(BaseConfig(model=str(path)))
