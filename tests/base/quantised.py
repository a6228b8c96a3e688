"""Quantised checkpoints made of a dense folder, each as its own tools lay it out, by plain loops of numpy;
and the weights that they mean, by the formula of the format's source."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]
Array = NDArray[Any]
Make = Callable[[str, Tensor], tuple[Tensors, Tensor]]
LINEARS = ("_proj.weight",)
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def quantised(
    dense: Path,
    folder: Path,
    make: Make,
    settings: Mapping[str, Any],
) -> Tensors:
    """Write ``folder`` with what ``make`` gives for each linear of ``dense``; returns what it means."""
    shutil.copytree(dense, folder)
    stored: Tensors = {}
    meant: Tensors = {}
    for name, tensor in load_file(dense / "model.safetensors").items():
        if name.endswith(LINEARS):
            made, meant[name] = make(name, tensor)
            stored |= made
        else:
            stored[name] = meant[name] = tensor
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, folder / "model.safetensors")
    config = json.loads((dense / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": dict(settings)}))
    return meant


def fp8(block: int | None, scale_name: str = "weight_scale_inv") -> Make:
    """E4M3 with a scale for each block of so many rows and columns, or one for all."""

    def make(name: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        rows, columns = weight.shape
        side = block or max(rows, columns)
        scales = torch.zeros(-(-rows // side), -(-columns // side))
        codes, meant = torch.zeros(rows, columns, dtype=torch.float8_e4m3fn), torch.zeros(rows, columns)
        for i in range(scales.shape[0]):
            for j in range(scales.shape[1]):
                here = (slice(i * side, (i + 1) * side), slice(j * side, (j + 1) * side))
                scales[i, j] = weight[here].abs().max() / 448
                codes[here] = (weight[here] / scales[i, j]).to(torch.float8_e4m3fn)
                meant[here] = codes[here].float() * scales[i, j]
        scale = scales if block else scales.reshape(())
        return {name: codes, name.replace("weight", scale_name): scale}, meant

    return make


def gptq(group: int, bits: int, order: bool) -> Make:
    """AutoGPTQ's layout; ``order``: inputs belong to groups in another order than they lie in."""

    def make(name: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        w = weight.numpy()
        out, width = w.shape
        per, most = 32 // bits, 2**bits - 1
        g_idx = np.arange(width, dtype=np.int32) // group
        if order:
            g_idx = np.random.default_rng(0).permutation(g_idx)
        scales, zeros = _asymmetric(w, g_idx, most)
        scales = scales.astype(np.float16)
        codes = np.clip(np.round(w / scales.T.astype(np.float32)[:, g_idx]) + zeros.T[:, g_idx], 0, most)
        meant = scales.T.astype(np.float32)[:, g_idx] * (codes - zeros.T[:, g_idx])
        qweight = np.zeros((width // per, out), np.uint32)
        for i in range(width):
            qweight[i // per] |= codes[:, i].astype(np.uint32) << np.uint32(bits * (i % per))
        qzeros = np.zeros((len(zeros), out // per), np.uint32)
        for j in range(out):  # one less than is meant
            qzeros[:, j // per] |= (zeros[:, j].astype(np.uint32) - 1) << np.uint32(bits * (j % per))
        stem = name.removesuffix("weight")
        return {
            f"{stem}qweight": _int32(qweight), f"{stem}qzeros": _int32(qzeros),
            f"{stem}scales": torch.from_numpy(scales), f"{stem}g_idx": torch.from_numpy(g_idx),
        }, torch.from_numpy(meant.astype(np.float32))  # fmt: skip

    return make


def awq(group: int) -> Make:
    """AutoAWQ's layout for gemm: eight columns a word, in the order 0, 2, 4, 6, 1, 3, 5, 7."""

    def make(name: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        w = weight.numpy()
        g_idx = np.arange(w.shape[1]) // group
        scales, zeros = _asymmetric(w, g_idx, 15)
        scales = scales.astype(np.float16)
        codes = np.clip(np.round(w.T / scales.astype(np.float32)[g_idx]) + zeros[g_idx], 0, 15)
        meant = (codes - zeros[g_idx]) * scales.astype(np.float32)[g_idx]
        stem = name.removesuffix("weight")
        return {
            f"{stem}qweight": _int32(_awq_words(codes)), f"{stem}qzeros": _int32(_awq_words(zeros)),
            f"{stem}scales": torch.from_numpy(scales),
        }, torch.from_numpy(meant.T.astype(np.float32).copy())  # fmt: skip

    return make


def _awq_words(codes: Array) -> Array:
    words = np.zeros((codes.shape[0], codes.shape[1] // 8), np.uint32)
    for column in range(words.shape[1]):
        for at, which in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
            words[:, column] |= codes[:, 8 * column + which].astype(np.uint32) << np.uint32(4 * at)
    return words


def int4_words(group: int) -> Make:
    """compressed-tensors, packed and quantised: signed numbers of four bits, one scale for a group."""

    def make(name: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        out, width = weight.shape
        grouped = weight.unflatten(1, (-1, group))
        scale = (grouped.abs().amax(-1) / 7).to(torch.bfloat16)
        codes = (grouped / scale.float()[..., None]).round().clamp(-8, 7)
        meant = (codes * scale.float()[..., None]).flatten(1)
        plus = (codes.flatten(1) + 8).numpy().astype(np.uint32)
        words = np.zeros((out, width // 8), np.uint32)
        for i in range(width):
            words[:, i // 8] |= plus[:, i] << np.uint32(4 * (i % 8))
        stem = name.removesuffix("weight")
        shape = torch.tensor([out, width])
        return {
            f"{stem}weight_packed": _int32(words), f"{stem}weight_scale": scale, f"{stem}weight_shape": shape
        }, meant  # fmt: skip

    return make


def mxfp4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """weight: [experts, in, out] -> blocks and scales of gpt-oss's files, and what they mean."""
    turned = weight.transpose(1, 2).unflatten(-1, (-1, 32))
    exponents = (turned.abs().amax(-1) / 6).log2().ceil().clamp(-127, 127)
    table = torch.tensor([*E2M1, *(-value for value in E2M1)])
    codes = (turned / exponents.exp2()[..., None])[..., None].sub(table).abs().argmin(-1)
    meant = (table[codes] * exponents.exp2()[..., None]).flatten(-2).transpose(1, 2)
    blocks = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)
    return blocks, (exponents + 127).to(torch.uint8), meant.contiguous()


def _asymmetric(w: Array, g_idx: Array, most: int) -> tuple[Array, Array]:
    """Scales and zero points of each group: [groups, out]."""
    groups = int(g_idx.max()) + 1
    low = np.stack([w[:, g_idx == g].min(1) for g in range(groups)])
    high = np.stack([w[:, g_idx == g].max(1) for g in range(groups)])
    scales = (high - low) / most
    return scales, np.clip(np.round(-low / scales), 1, most)


def _int32(words: Array) -> Tensor:
    return torch.from_numpy(words.view(np.int32))
