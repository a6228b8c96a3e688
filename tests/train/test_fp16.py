"""A base in fp16, as on a card without bf16: what goes past its largest number is met with a smaller scale,
or named."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from sapwood.adapter.attach import attach_lora
from sapwood.adapter.model import LoraModel
from sapwood.errors import BadStepError, NumericsError
from sapwood.train import loop
from sapwood.train.loop import optimizer_step, pack_examples, train
from sapwood.train.optim import new_state
from tests.parity.cases import tiny_base
from tests.train.runs import adapter, data, same_bits, six_steps

SETTINGS = six_steps(lora={"dropout": 0.0})
STEEP = 2000.0  # by which the head is multiplied: gradients of its input are near fp16's largest number


def steep(dtype: torch.dtype, head: float = STEEP) -> LoraModel:
    """A model of small states before the last norm, and a large head: logits are of the usual size, and a
    gradient of a state is as large as fp16's largest number. The weights are fp16's in both formats."""
    base = tiny_base(tie_word_embeddings=False)
    with torch.no_grad():
        base.model.model.embed_tokens.weight.mul_(1e-2)
        base.model.lm_head.weight.mul_(head)
        for layer in base.model.model.layers:
            for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
                linear.weight.mul_(1e-2)
    base.model.half().to(dtype)
    base = replace(base, matmul_dtype=dtype, head=replace(base.head, weight=base.model.lm_head.weight))
    model = attach_lora(base, SETTINGS.lora, SETTINGS.train.seed)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.parameters.items():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 1e-3
    model.learn()
    return model


def stepped(model: LoraModel, monkeypatch: pytest.MonkeyPatch) -> tuple[float, float, list[Any], int]:
    """(loss, norm of the gradient, gradients, passes for each pack) of one step."""
    passes: list[float] = []
    honest = loop.forward_loss

    def counted(model: LoraModel, batch: Any) -> Any:
        found = honest(model, batch)
        passes.append(float(found.total.detach()))
        return found

    state = new_state(model.parameters, SETTINGS.train)
    packs = pack_examples(data().train, SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "forward_loss", counted)
        loss, norm = optimizer_step(model, packs, state, 0.0, 0.0)
    rounds = len(passes) // len(packs)
    assert passes == passes[: len(packs)] * rounds, "the same passes again"
    return loss, norm, [p.grad for p in model.parameters.values()], rounds


def test_gradients_past_the_largest_number_are_computed_again_smaller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loss, norm, grads, rounds = stepped(steep(torch.float16), monkeypatch)
    wanted_loss, wanted_norm, wanted, once = stepped(steep(torch.float32), monkeypatch)
    assert (rounds, once) == (3, 1), "at 1, a 16th and a 256th"
    assert loss == pytest.approx(wanted_loss, rel=1e-2)
    assert norm == pytest.approx(wanted_norm, rel=5e-2)
    for mine, theirs in zip(grads, wanted, strict=True):
        assert float(torch.nn.functional.cosine_similarity(mine.flatten(), theirs.flatten(), dim=0)) > 0.99


def test_gradients_of_the_usual_size_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stepped(steep(torch.float16, head=1.0), monkeypatch)[3] == 1


def test_gradients_that_no_scale_saves_end_the_step_before_the_adapter_is_touched() -> None:
    model = steep(torch.float16)
    state = new_state(model.parameters, SETTINGS.train)
    before = adapter(model)
    hook = next(iter(model.parameters.values())).register_hook(lambda grad: grad * math.inf)
    with pytest.raises(BadStepError):
        optimizer_step(model, pack_examples(data().train, SETTINGS), state, 0.1, 0.0)
    hook.remove()
    assert same_bits(adapter(model), before)


def test_a_base_that_has_no_room_in_fp16_is_told_where_there_is() -> None:
    model = steep(torch.float16)
    with torch.no_grad():
        model.network.model.layers[0].mlp.down_proj.weight.fill_(6e4)
        model.network.model.layers[0].mlp.up_proj.weight.fill_(6e4)
    events = train(model, data(), new_state(model.parameters, SETTINGS.train), SETTINGS)
    with pytest.raises(NumericsError, match=r"after step 0.*65,504.*fp32 has room"):
        next(events)
