"""A GPU's run never falls back in silence: each thing that is lacking has a sentence with its cost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sapwood.compute import fused, lacking
from sapwood.compute.attention import varlen
from sapwood.compute.backend import Backend
from sapwood.compute.fused import TRIALS
from sapwood.machine.device import CPU, Device
from tests.machine.pretended import Card, plug_in

GPU = Device("cuda")


@pytest.fixture(autouse=True)
def nothing_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "installed", lambda: True)
    monkeypatch.setattr(fused, "refused", lambda *_: {})
    monkeypatch.setattr(varlen, "why_not", lambda _: None)
    monkeypatch.setattr(lacking, "find_spec", lambda name: name)
    plug_in(monkeypatch, Card())


def model(**told: Any) -> Any:
    text = SimpleNamespace(**{"hidden_size": 1024, "num_attention_heads": 8, "head_dim": None, **told})
    return SimpleNamespace(get_text_config=lambda: text)


def test_a_card_that_lacks_nothing_is_passed_over() -> None:
    assert lacking.lacking(GPU, model()) == {}
    assert Backend.of(GPU) == Backend(GPU, flex=True, varlen=True, fused=frozenset(TRIALS))


def test_a_cpu_lacks_nothing_that_is_for_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lacking, "find_spec", lambda name: None)
    assert lacking.lacking(CPU, model(head_dim=96)) == {}


def test_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, Card(bf16=False))
    assert lacking.lacking(GPU) == {
        "bf16": "the card has no bf16: fp16 is used, and a step whose gradients overflow is computed again"
    }


def test_no_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lacking, "find_spec", lambda name: None if name == "bitsandbytes" else name)
    found = lacking.lacking(GPU)
    assert list(found) == ["bits"]
    assert "nf4, fp4 and int8 are refused" in found["bits"] and "four times the memory" in found["bits"]


def test_kernels_of_liger_that_are_left_out_are_named_by_their_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    why = {"norm": "old", "loss": "old", "rotary": "bfloat16: 0.2 apart"}
    monkeypatch.setattr(fused, "refused", lambda *_: why)
    assert lacking.lacking(GPU) == {
        "fused": "norm and loss are left to torch (old); rotary is left to torch (bfloat16: 0.2 apart): "
        "several passes over memory instead of one"
    }
    assert Backend.of(GPU).fused == {"gated"}


@pytest.mark.parametrize(
    ("triton", "by_length", "said"),
    [
        (True, "too old", ("FlexAttention; torch's varlen isn't used (too old)", "compiles")),
        (False, None, ("share a beginning attend by plain products (Triton isn't installed)", "slower")),
        (
            False,
            "too old",
            ("plain products; FlexAttention isn't used", "varlen (too old)", "keep their scores"),
        ),
    ],
)
def test_attention_without_a_kernel(
    triton: bool, by_length: str | None, said: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(varlen, "why_not", lambda _: by_length)
    plug_in(monkeypatch, Card(triton=triton))
    found = lacking.lacking(GPU, model(head_dim=96 if not triton else 64))
    assert list(found) == ["attention"]
    assert all(words in found["attention"] for words in said), found
    backend = Backend.of(GPU)
    assert (backend.flex, backend.varlen) == (triton, by_length is None)


def test_heads_that_flex_attention_refuses() -> None:
    assert lacking.lacking(GPU, model(head_dim=128)) == {}
    said = lacking.lacking(GPU, model(head_dim=96))
    assert said == {
        "heads": "FlexAttention refuses heads of 96: a power of two from 16 to 256 is wanted; packs whose "
        "rows share a beginning attend by plain products, slower"
    }
    assert lacking.lacking(GPU, model(hidden_size=768)) == said, "the size follows from the others"
