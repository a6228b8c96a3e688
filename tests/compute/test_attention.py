"""The segment kernel == one dense mask and autograd, in float64, values and gradients."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from sapwood.compute.attention import seam as attention
from sapwood.compute.attention import segments as kernel
from sapwood.compute.attention.seam import packed_attention
from sapwood.compute.attention.segments import (
    AttentionPlan,
    Rule,
    segment_attention,
)
from sapwood.compute.backend import REFERENCE
from sapwood.errors import ModelError
from sapwood.pack.build import build_pack
from sapwood.types import Segment
from tests.base.tiny import tiny_model
from tests.compute.slow import dense_attention, dense_mask
from tests.pack.forests import as_examples, forests

DIM = 6


def tree(*sizes_and_parents: tuple[int, int | None]) -> tuple[Segment, ...]:
    """Segments side by side; (size, index of the parent)."""
    segments: list[Segment] = []
    total = 0
    for size, parent in sizes_and_parents:
        position = 0 if parent is None else segments[parent].position + len(segments[parent])
        segments.append(Segment(total, total + size, position, parent))
        total += size
    return tuple(segments)


def tensors(total: int, heads: int, kv: int, value_dim: int = DIM) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(total)
    shapes = ((heads, total, DIM), (kv, total, DIM), (kv, total, value_dim), (heads, total, value_dim))
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)


def assert_equal_to_reference(
    segments: tuple[Segment, ...], *, heads: int = 4, kv: int = 2, value_dim: int = DIM, **rule: Any
) -> None:
    plan = AttentionPlan(segments)
    *inputs, weight = tensors(segments[-1].stop, heads, kv, value_dim)
    results: list[list[Tensor]] = []
    for function in (segment_attention, dense_attention):
        own = [x.clone().requires_grad_() for x in inputs]
        out = function(*own, plan, Rule(scale=0.4, **rule))
        out.backward(weight)
        results.append([out.detach(), *[x.grad for x in own if x.grad is not None]])
    assert len(results[0]) == 4
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


RULES = [{}, {"window": 5}, {"softcap": 1.5}, {"window": 3, "softcap": 0.8}, {"window": 1}]
TREES = {
    "one token": tree((1, None)),
    "one-token segments": tree(*[(1, None)] * 5, (1, 0), (1, 5)),
    "side by side": tree((7, None), (3, None), (12, None), (7, None)),
    "children": tree((9, None), (4, 0), (1, 0), (6, 1), (5, None), (2, 4)),
    "a long one among short ones": tree((40, None), (2, None), (1, None), (3, 0)),
}


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_values_and_gradients_equal_the_dense_reference(name: str, rule: dict[str, Any]) -> None:
    assert_equal_to_reference(TREES[name], **rule)


@pytest.mark.parametrize(("heads", "kv"), [(1, 1), (4, 4), (6, 2), (8, 1)])
def test_grouped_heads(heads: int, kv: int) -> None:
    assert_equal_to_reference(TREES["children"], heads=heads, kv=kv, window=6)


@pytest.mark.parametrize("value_dim", [2, 4, 9])
def test_values_narrower_or_wider_than_queries(value_dim: int) -> None:
    for segments in TREES.values():
        assert_equal_to_reference(segments, value_dim=value_dim)


@pytest.mark.parametrize("block", [1, 3, 4, 40])
@pytest.mark.parametrize("rule", RULES[:3], ids=str)
def test_blocks_of_long_segments(block: int, rule: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "BLOCK", block)
    assert_equal_to_reference(TREES["a long one among short ones"], **rule)


@pytest.mark.parametrize("keep", [0, 10, 10_000])
def test_probabilities_kept_or_computed_again(keep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "KEEP_KEYS", keep)
    assert_equal_to_reference(TREES["children"], window=7)


def test_chains_longer_than_the_kept_probabilities_and_than_a_block() -> None:
    segments = tree((290, None), (30, 0), (5, 1), (20, 0))
    assert kernel.KEEP_KEYS < 290 and kernel.BLOCK < 290
    assert_equal_to_reference(segments, heads=2, kv=1)
    assert_equal_to_reference(segments, heads=2, kv=1, window=64, softcap=2.0)


@settings(max_examples=40, deadline=None)
@given(forests(), st.integers(1, 20), st.sampled_from([None, 4]), st.sampled_from([None, 1.0]))
def test_any_forest(
    sequences: list[NDArray[np.int32]], block: int, window: int | None, softcap: float | None
) -> None:
    segments = build_pack(as_examples(sequences)).segments
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "BLOCK", block)
        assert_equal_to_reference(segments, window=window, softcap=softcap)


def test_gradcheck_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "BLOCK", 2)
    plan = AttentionPlan(tree((3, None), (2, 0), (1, 0)))
    query, key, value, _ = (x.requires_grad_() for x in tensors(6, 2, 1))
    assert torch.autograd.gradcheck(
        lambda q, k, v: segment_attention(q, k, v, plan, Rule(scale=0.5, window=4, softcap=1.0)),
        (query, key, value),
    )


def test_the_dense_mask_is_itself_and_ancestors() -> None:
    seen = dense_mask(tree((2, None), (2, 0), (1, 0)))
    expected = [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]
    assert seen.int().tolist() == expected
    windowed = dense_mask(tree((2, None), (2, 0), (1, 0)), window=2)
    assert windowed[3].int().tolist() == [0, 0, 1, 1, 0]
    assert windowed[4].int().tolist() == [0, 1, 0, 0, 1]


def test_nothing_outside_the_chain_reaches_an_output() -> None:
    segments = TREES["children"]
    plan = AttentionPlan(segments)
    query, key, value, _ = tensors(segments[-1].stop, 4, 2)
    before = segment_attention(query, key, value, plan, Rule(scale=1.0))
    spoilt = [x.clone() for x in (query, key, value)]
    for x in spoilt:
        x[:, segments[4].start : segments[4].stop] = 1e3
    after = segment_attention(*spoilt, plan, Rule(scale=1.0))
    torch.testing.assert_close(after[:, : segments[4].start], before[:, : segments[4].start])


def test_every_token_is_a_query_once_behind_its_chain() -> None:
    segments = tree(*[(16 * (1 + 7 * i % 6), i - 1 if i % 3 else None) for i in range(60)], (600, None))
    blocks = kernel.blocks_of(segments)
    queries = [token for block in blocks for token in range(block.start, block.stop)]
    assert queries == list(range(segments[-1].stop))
    for block in blocks:
        assert block.keys[block.position :].tolist() == list(range(block.start, block.stop))
        assert block.stop - block.start <= kernel.BLOCK


def test_a_transposed_query_is_taken_as_transformers_hands_it_over() -> None:
    plan = AttentionPlan(TREES["children"])
    query, key, value, _ = tensors(TREES["children"][-1].stop, 4, 2)
    turned = query.transpose(0, 1).contiguous().transpose(0, 1)
    assert not turned.is_contiguous()
    expected = segment_attention(query, key, value, plan, Rule(scale=1.0))
    torch.testing.assert_close(segment_attention(turned, key, value, plan, Rule(scale=1.0)), expected)


def test_the_seam_takes_the_window_of_the_call_or_else_of_the_module() -> None:
    plan = AttentionPlan(TREES["side by side"])
    query, key, value, _ = (x[None] for x in tensors(TREES["side by side"][-1].stop, 4, 2))

    def through(module: Any, **options: Any) -> Tensor:
        heads = query, key, value
        out, weights = attention._interface(REFERENCE, module, *heads, None, segments=plan, **options)
        assert weights is None
        return out[0].transpose(0, 1)

    def wanted(window: int | None) -> Tensor:
        return dense_attention(query[0], key[0], value[0], plan, Rule(scale=DIM**-0.5, window=window))

    torch.testing.assert_close(through(SimpleNamespace()), wanted(None))
    torch.testing.assert_close(through(SimpleNamespace(sliding_window=2)), wanted(2))
    torch.testing.assert_close(through(SimpleNamespace(sliding_window=2), sliding_window=4), wanted(4))
    torch.testing.assert_close(through(SimpleNamespace(sliding_window=2), sliding_window=None), wanted(None))


def test_the_models_own_attention_comes_back_even_after_an_error() -> None:
    model = tiny_model()
    before = model.config._attn_implementation
    with pytest.raises(RuntimeError), packed_attention(model, REFERENCE):
        assert model.config._attn_implementation == "sapwood_reference"
        raise RuntimeError
    assert model.config._attn_implementation == before


def test_what_the_kernel_does_not_know_is_refused_by_name() -> None:
    from transformers import AutoModelForCausalLM, GptOssConfig

    config = GptOssConfig(
        vocab_size=100, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, num_local_experts=2, num_experts_per_tok=1, pad_token_id=0,
    )  # fmt: skip
    network = AutoModelForCausalLM.from_config(config)
    ids = torch.arange(6)[None]
    plan = AttentionPlan((Segment(0, 6, 0),))
    refused = pytest.raises(ModelError, match="also uses attention sinks, output_router_logits")
    with packed_attention(network, REFERENCE), refused:
        network(input_ids=ids, position_ids=ids, segments=plan, use_cache=False)
