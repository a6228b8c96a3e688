"""A soft prompt as the beginning that all rows of a pack share == PEFT's own forward over padded rows."""

from __future__ import annotations

import pytest
import torch

from sapwood.adapter.attach import attach_lora
from sapwood.adapter.model import LoraModel
from sapwood.compute.attention.seam import packed_attention
from sapwood.compute.batch import to_batch
from sapwood.config.kinds import Method
from sapwood.config.sections import LoraConfig
from sapwood.train.loop import batch_of, forward_loss, pack_examples
from sapwood.types import Example
from tests.parity.cases import config, random_examples, tiny_base
from tests.parity.test_packed_equals_alone import assert_same, gradients

P = 6
METHODS: tuple[Method, ...] = ("prompt", "p-tuning", "prefix")


def padded(model: LoraModel, examples: list[Example]) -> tuple[float, dict[str, torch.Tensor]]:
    """PEFT's own way: the rows padded on the right, a mask, and the virtual tokens once for each row."""
    width = max(map(len, examples))
    ids = torch.zeros(len(examples), width, dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, example in enumerate(examples):
        own = torch.from_numpy(example.ids).long()
        ids[row, : len(own)], mask[row, : len(own)] = own, 1
        labels[row, : len(own)] = own.masked_fill(~torch.from_numpy(example.trained), -100)
    model.network.set_attn_implementation("eager")
    logits = model.peft(input_ids=ids, attention_mask=mask).logits[:, -width:].float()
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )
    loss.backward()
    return float(loss.detach()), gradients(model)


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gemma2"])
@pytest.mark.parametrize("method", METHODS)
def test_loss_and_gradients_are_those_of_padded_rows(arch: str, method: Method) -> None:
    settings = config(lora={"method": method, "virtual_tokens": P}, pack={"length": 64})
    model = attach_lora(tiny_base(arch), settings.lora, seed=1)
    examples = random_examples(5, shared=20)
    expected, expected_gradients = padded(model, examples)
    packs = pack_examples(examples, settings)
    assert len(packs) > 1 and all(len(batch_of(model, pack).attention.segments[0]) == P for pack in packs)
    total = 0.0
    with packed_attention(model.network, model.backend):
        for pack in packs:
            loss = forward_loss(model, batch_of(model, pack))
            loss.total.backward()
            total += float(loss.total.detach())
    assert total == pytest.approx(expected, rel=1e-5)
    assert_same(gradients(model), expected_gradients, 2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_recomputing_layers_changes_nothing(method: Method) -> None:
    settings = config(lora={"method": method, "virtual_tokens": P})
    model = attach_lora(tiny_base(), LoraConfig(method=method, virtual_tokens=P), seed=1)
    (pack,) = pack_examples(random_examples(3), settings)
    model.peft.train()
    found: list[dict[str, torch.Tensor]] = []
    for again in (False, True):
        if again:
            model.network.activation_checkpointing_enable({"use_reentrant": False})
        with packed_attention(model.network, model.backend):
            forward_loss(model, batch_of(model, pack)).total.backward()
        found.append(gradients(model))
    assert_same(found[1], found[0], 0.0)


@pytest.mark.parametrize("method", METHODS)
def test_switched_off_the_loss_is_the_bases_and_a_pack_without_room_is_refused(method: Method) -> None:
    model = attach_lora(tiny_base(), LoraConfig(method=method, virtual_tokens=P), seed=1)
    (pack,) = pack_examples(random_examples(3), config())
    bare = attach_lora(tiny_base(), LoraConfig(), seed=1)

    def loss(of: LoraModel) -> float:
        with torch.no_grad(), packed_attention(of.network, of.backend):
            return float(forward_loss(of, batch_of(of, pack)).total)

    own = loss(model)
    with model.switched_off():
        # to the last bit but one: LoRA's linears have kernels of their own
        assert loss(model) == pytest.approx(loss(bare), rel=1e-6) != own
    packed = packed_attention(model.network, model.backend)
    with pytest.raises(ValueError, match="no place for 6 virtual tokens"), packed:
        forward_loss(model, to_batch(pack))
