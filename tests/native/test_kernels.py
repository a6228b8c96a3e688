"""Every compiled kernel against torch's plain operations, in each number format, with one thread and with
two."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sapwood.base.storage.frozen import freeze_together
from sapwood.base.storage.int8_linear import Int8Linear
from sapwood.compute.attention.compiled import blocks_of, native_attention
from sapwood.compute.attention.segments import AttentionPlan, Rule
from sapwood.compute.linear.compiled import NativeCall, gated_backward, gated_forward
from sapwood.compute.linear.reference import Call
from sapwood.compute.loss import read_logits as read_by_torch
from sapwood.compute.mlp import activated, activated_backward
from sapwood.compute.norm import RmsNorm
from sapwood.native import attention, norm, ops
from sapwood.native.build import why_not
from sapwood.native.loss import Streams, read_logits
from sapwood.native.ops import Dropout
from sapwood.types import Segment
from tests.compute.slow import dense_attention

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

FP32, BF16 = torch.float32, torch.bfloat16
FORMS = ((FP32, None), (FP32, BF16), (BF16, None))  # of activations, and of what is kept where that differs
CLOSE = {FP32: 1e-5, BF16: 2e-2}
RATE = 0.3


@pytest.fixture(params=[1, 2], autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def numbers(*shape: int, seed: int, dtype: torch.dtype = FP32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_near(found: Tensor | None, expected: Tensor | None, tolerance: float) -> None:
    assert found is not None and expected is not None and found.shape == expected.shape
    wide = expected.double()
    assert float((found.double() - wide).norm()) <= tolerance * max(float(wide.norm()), 1e-6)


def weights(outs: tuple[int, ...], width: int, dtype: torch.dtype, *, rounded: bool) -> tuple[Any, ...]:
    found: list[Any] = []
    for i, out in enumerate(outs):
        with torch.random.fork_rng():
            torch.manual_seed(i)
            linear = nn.Linear(width, out, bias=i % 2 == 0).requires_grad_(False)
        found.append(Int8Linear(linear) if rounded else linear.to(dtype))
    return tuple(freeze_together(found))


def adapter_of(outs: tuple[int, ...], width: int, ranks: tuple[int, ...]) -> list[Tensor]:
    a = [numbers(rank, width, seed=10 + i) * 0.1 for i, rank in enumerate(ranks)]
    return a + [
        numbers(out, rank, seed=20 + i) * 0.1 for i, (out, rank) in enumerate(zip(outs, ranks, strict=True))
    ]


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize(("dtype", "kept"), FORMS)
@pytest.mark.parametrize(
    ("outs", "width", "ranks", "rows"),
    [
        ((64, 32, 32), 64, (8, 8, 8), 70),
        ((96, 64, 32), 96, (8, 8, 8), 50),
        ((80,), 48, (5,), 33),
        ((48,), 160, (8,), 64),
        ((32, 16), 144, (1, 3), 37),
    ],
)
def test_adapted_linears(
    outs: tuple[int, ...], width: int, ranks: tuple[int, ...], rows: int, dtype: torch.dtype,
    kept: torch.dtype | None, rounded: bool,
) -> None:  # fmt: skip
    own, adapter = weights(outs, width, dtype, rounded=rounded), adapter_of(outs, width, ranks)
    x = numbers(rows, width, seed=1, dtype=dtype)
    grads = [numbers(rows, out, seed=30 + i, dtype=dtype) for i, out in enumerate(outs)]
    found: list[Any] = []
    for kind in (NativeCall, Call):
        call = kind(own, tuple(2.0 + i for i in range(len(outs))), RATE, 77, dtype, kept)
        outputs, left, h = call.forward(x, adapter)
        outputs = [y.clone() for y in outputs]
        grad_x, grad_adapter = call.backward(left, h, adapter, [g.clone() for g in grads])
        found.append([*outputs, grad_x, *grad_adapter])
    tolerance = max(
        CLOSE[dtype], CLOSE[kept or dtype], 1e-3 if rounded else 0
    )  # a number may round the other way
    for one, other in zip(*found, strict=True):
        assert_near(one, other, tolerance)


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize(("dtype", "kept"), FORMS)
def test_a_gated_mlp(dtype: torch.dtype, kept: torch.dtype | None, gelu: bool, rounded: bool) -> None:
    width, inner, rows = 32, 80, 45
    wide_own, down_own = (
        weights((inner, inner), width, dtype, rounded=rounded),
        weights((width,), inner, dtype, rounded=rounded),
    )
    adapter = [*adapter_of((inner, inner), width, (4, 3)), *adapter_of((width,), inner, (5,))]
    x, grad = numbers(rows, width, seed=1, dtype=dtype), numbers(rows, width, seed=2, dtype=dtype)
    wide, down = (
        (kind(wide_own, (2.0, 3.0), RATE, 5, dtype, kept) for kind in (NativeCall, Call)),
        (kind(down_own, (0.5,), RATE, 6, dtype, kept) for kind in (NativeCall, Call)),
    )
    (native_wide, plain_wide), (native_down, plain_down) = wide, down
    y, left = gated_forward(native_wide, native_down, gelu, x, adapter)
    grad_x, grads = gated_backward(native_wide, native_down, gelu, grad, left, adapter, need_x=True)

    (gate, up), x_kept, h_wide = plain_wide.forward(x, adapter[:4])
    (expected,), _, h_down = plain_down.forward(activated(gate, gelu) * up, adapter[4:])
    gate, up = (part.to(x_kept.dtype).to(dtype) for part in (gate, up))
    active = activated(gate, gelu)
    through, grad_down = plain_down.backward((active * up).to(x_kept.dtype), h_down, adapter[4:], [grad])
    assert through is not None
    sides = [activated_backward(through * up, gate, gelu), active * through]
    expected_x, grad_wide = plain_wide.backward(x_kept, h_wide, adapter[:4], sides)
    tolerance = 2 * max(CLOSE[dtype], CLOSE[kept or dtype], 2e-2 if rounded else 0)
    assert_near(y, expected, tolerance)
    assert_near(grad_x, expected_x, tolerance)
    for one, other in zip(grads, (*grad_wide, *grad_down), strict=True):
        assert_near(one, other, tolerance)


# a prefix, three that go on from it, one of them long and with a child, and one by itself
SEGMENTS = (
    Segment(0, 21, 0),
    Segment(21, 30, 21, 0),
    Segment(30, 170, 21, 0),
    Segment(170, 175, 161, 2),
    Segment(175, 176, 21, 0),
    Segment(176, 192, 0),
)


@pytest.mark.parametrize(("dtype", "kept"), FORMS)
@pytest.mark.parametrize(
    "rule", [Rule(0.2), Rule(0.2, window=17), Rule(0.3, softcap=4.0), Rule(0.2, window=100, softcap=2.0)]
)
@pytest.mark.parametrize(("heads", "kv", "dim"), [(4, 2, 32), (3, 3, 16), (6, 1, 80)])
def test_attention(
    heads: int, kv: int, dim: int, rule: Rule, dtype: torch.dtype, kept: torch.dtype | None
) -> None:
    length = SEGMENTS[-1].stop
    plan = AttentionPlan(SEGMENTS)
    if kept is not None:
        plan = AttentionPlan(SEGMENTS, saved_dtype=kept)
    q, k, v = (numbers(n, length, dim, seed=i, dtype=dtype) for i, n in enumerate((heads, kv, kv)))
    q = q.transpose(0, 1).contiguous().transpose(0, 1)  # as transformers hands it over
    grad = numbers(heads, length, dim, seed=9, dtype=dtype)
    found: list[list[Tensor]] = []
    for attend, wide in ((native_attention, dtype), (dense_attention, FP32)):
        inputs = [x.to(wide).detach().requires_grad_() for x in (q, k, v)]
        out = attend(*inputs, plan, rule)
        out.backward(grad.to(wide))
        found.append([out.detach(), *(x.grad for x in inputs if x.grad is not None)])
    for one, other in zip(*found, strict=True):
        assert_near(one, other, max(CLOSE[dtype], CLOSE[kept or dtype]))


def test_blocks_cover_every_token_once() -> None:
    blocks = blocks_of(SEGMENTS)
    rows = [(int(start), int(count)) for start, count, _, _ in blocks.blocks]
    assert sorted(t for start, count in rows for t in range(start, start + count)) == list(range(192))
    for start, count, position, at in blocks.blocks.tolist():
        chain = blocks.chains[at : at + position + count].tolist()
        assert chain[position:] == list(range(start, start + count)), "a chain ends with the block itself"


@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_rotary_positions(dtype: torch.dtype) -> None:
    angle = numbers(50, 32, seed=3).repeat(1, 2)
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    x = numbers(3, 50, 64, seed=4, dtype=dtype)
    turned = attention.rotate(x, cos, sin).transpose(0, 1)
    half = torch.cat([-x[..., 32:], x[..., :32]], -1)
    assert_near(turned, x.double() * cos.double() + half.double() * sin.double(), CLOSE[dtype])
    assert_near(attention.rotate(turned, cos, sin, back=True).transpose(0, 1), x, 2 * CLOSE[dtype])


@pytest.mark.parametrize("unit_offset", [False, True])
@pytest.mark.parametrize(("dtype", "kept"), FORMS)
def test_norms(dtype: torch.dtype, kept: torch.dtype | None, unit_offset: bool) -> None:
    weight = numbers(48, seed=1, dtype=kept or dtype)
    x, grad = numbers(2, 19, 48, seed=2, dtype=dtype), numbers(2, 19, 48, seed=3, dtype=dtype)
    wide = x.float().requires_grad_()
    expected = RmsNorm.apply(wide, weight.float(), 1e-5, unit_offset)
    assert isinstance(expected, Tensor)
    expected.backward(grad.float())
    scale = weight.float() + 1.0 if unit_offset else weight.float()
    y, left, rstd = norm.norm_forward(x, scale, 1e-5, kept or dtype)
    tolerance = max(CLOSE[dtype], CLOSE[kept or dtype])
    assert_near(y, expected.detach(), tolerance)
    assert_near(norm.norm_backward(grad, left, scale, rstd), wide.grad, tolerance)


# --- dropout ----------------------------------------------------------------------------------------------


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32 with 7 rounds, from its description (Salmon et al., 2011), number by number."""
    a, b, c, d = counter
    for _ in range(7):
        first, second = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (
            (second >> 32) ^ b ^ key[0],
            second & 0xFFFFFFFF,
            (first >> 32) ^ d ^ key[1],
            first & 0xFFFFFFFF,
        )
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return [a, b, c, d]


def test_masks_are_those_of_the_generator() -> None:
    seed, rate = 0x1234_5678_9ABC_DEF0 >> 1, 0.25
    mask = ops.keep_mask(3, 160, Dropout(rate, seed))
    for row, column in ((0, 0), (0, 15), (1, 16), (2, 63), (1, 64), (2, 127), (0, 128), (2, 159)):
        lane, word, half = column % 16, column % 64 // 16, column % 128 // 64
        words = philox([column // 128 * 16 + lane, row, 0, 0], [seed & 0xFFFFFFFF, seed >> 32])
        number = words[word] >> 16 if half else words[word] & 0xFFFF
        assert float(mask[row, column]) == pytest.approx(0.0 if number < rate * 65536 else 1 / (1 - rate))


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 0.9])
def test_the_share_kept_and_its_scaling_are_within_three_standard_errors(rate: float) -> None:
    mask = ops.keep_mask(700, 576, Dropout(rate, 11)).double()
    share, error = float((mask > 0).double().mean()), math.sqrt(rate * (1 - rate) / mask.numel())
    assert abs(share - (1 - rate)) < 3 * error + 1 / ops.LEVELS
    assert abs(float(mask.mean()) - 1) < 3 * error / (1 - rate) + 1 / ops.LEVELS


def test_neighbours_in_any_direction_are_independent() -> None:
    kept = (ops.keep_mask(512, 512, Dropout(0.5, 3)) > 0).double()
    other = (ops.keep_mask(512, 512, Dropout(0.5, 4)) > 0).double()
    for rows, columns in ((0, 1), (1, 0), (1, 1), (0, 16), (0, 64), (0, 128)):
        pairs = kept[rows:, columns:], kept[: 512 - rows, : 512 - columns]
        joint = float((pairs[0] * pairs[1]).mean())
        assert abs(joint - 0.25) < 4 * math.sqrt(0.25 * 0.75 / pairs[0].numel())
    assert abs(float((kept * other).mean()) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / kept.numel())


def test_the_same_bits_every_time_whatever_memory_held_before() -> None:
    own, adapter = weights((64, 64), 64, FP32, rounded=False), adapter_of((64, 64), 64, (8, 8))
    x, grads = numbers(90, 64, seed=1), [numbers(90, 64, seed=2), numbers(90, 64, seed=3)]
    call, first = NativeCall(own, (2.0, 2.0), RATE, 9, FP32), None
    for _ in range(5):
        outputs, left, h = call.forward(x, adapter)
        grad_x, grad_adapter = call.backward(left, h, adapter, grads)
        bits = b"".join(
            np.ascontiguousarray(t.numpy()).tobytes()
            for t in (*outputs, grad_x, *grad_adapter)
            if t is not None
        )
        first = first or bits
        assert bits == first
        _ = [torch.full((size,), math.nan) for size in (90 * 64, 64 * 8, 90 * 16)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_no_numbers_come_out(bad: float) -> None:
    """A kernel that lost one would let a broken step into the adapter."""
    for rounded in (False, True):
        call = NativeCall(weights((32,), 64, FP32, rounded=rounded), (1.0,), 0.0, 0, FP32)
        x = numbers(40, 64, seed=1)
        x[3, 5] = bad
        (y,), left, h = call.forward(x, adapter := adapter_of((32,), 64, (4,)))
        assert not bool(torch.isfinite(y[3]).all()) and bool(torch.isfinite(y[:3]).all())
        grad = numbers(40, 32, seed=2)
        grad[7, 1] = bad
        grad_x, _ = call.backward(left, h, adapter, [grad])
        assert grad_x is not None and not bool(torch.isfinite(grad_x[7]).all())
    q = numbers(2, 40, 32, seed=1)
    q[0, 9, 0] = bad
    out, _ = attention.attention_forward(q, q, q, blocks_of((Segment(0, 40, 0),)), 0.2, None, None)
    assert not bool(torch.isfinite(out[9, 0]).all())


@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize(("softcap", "scale"), [(None, 1.0), (20.0, 0.7)])
@pytest.mark.parametrize("size", [5, 64, 75])
def test_logits_are_read_as_torch_reads_them(
    size: int, softcap: float | None, scale: float, dtype: torch.dtype
) -> None:
    """Two parts of a vocabulary, one after the other."""
    targets = torch.tensor([0, size - 1, size, 2 * size - 1, 3, 4, 5])
    ours, theirs = Streams.of(targets), Streams.of(targets)
    for part in (0, 1):
        logits = 20 * numbers(len(targets), size, seed=part, dtype=dtype)
        found = read_logits(logits.clone(), targets, part * size, softcap, scale, ours, weigh=True)
        expected = read_by_torch(logits, targets, part * size, softcap, scale, theirs, weigh=True)
        for x, y in zip(found, expected, strict=True):
            torch.testing.assert_close(x.float(), y.float(), rtol=CLOSE[dtype], atol=CLOSE[dtype])
    for name in ("top", "total", "label", "slope"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-5, atol=1e-5)
