"""Quantised checkpoints: which tensors of a folder make up a weight, and how.

Each format is found by the names and number formats of its tensors. What nobody here can read is refused by
the name of the tensor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sapwood.base.folder import PACKED_BITS, Folder
from sapwood.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
Read = Callable[[str], Any]  # a tensor of the folder by its name
UNUSED = re.compile(  # scales of activations and caches; and tensors that say nothing new
    r"\.(input_scale|activation_scale|[kvq]_scale|kv_scale|output_scale|weight_format|input_global_scale)$"
)
METHODS = ("bitsandbytes", "fp8", "fbgemm_fp8", "compressed-tensors", "modelopt", "gptq", "awq", "mxfp4")
WORD = 32  # bits of the integers that codes are packed in
BIT_WIDTHS = (2, 4, 8)  # that fill a word of 32 bits


@dataclass(frozen=True, slots=True)
class Packed:
    """A weight that several tensors make up. ``parts``: their names, in the order of ``rule``, which makes
    float32 of them."""

    shape: Shape
    parts: tuple[str, ...]
    rule: Callable[..., Tensor]

    def __call__(self, read: Read) -> Tensor:
        return self.rule(*(read(name) for name in self.parts))


@dataclass(frozen=True, slots=True)
class Settings:
    """``quantization_config`` of config.json, as far as it decides what numbers mean."""

    method: str
    values: Mapping[str, Any]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Settings | None:
        text: Any = config.get("text_config")
        told = config.get("quantization_config") or (
            text.get("quantization_config") if isinstance(text, Mapping) else None
        )
        if not told:
            return None
        values = cast("Mapping[str, Any]", told if isinstance(told, Mapping) else {})
        return cls(str(values.get("quant_method", told)), values)


def refuse_unknown(folder: Folder) -> None:
    """Raises ModelError for a checkpoint that is quantised in a way that isn't read here, with the name of
    the original if the folder tells it."""
    settings = Settings.of(folder.config)
    if settings is None:
        return
    values = settings.values
    if settings.method not in METHODS:
        _refuse(folder, f"the weights are stored as {settings.method}", f"read here: {', '.join(METHODS)}")
    if settings.method == "awq" and str(values.get("version", "gemm")).lower() != "gemm":
        _refuse(
            folder, f"the weights are stored as AWQ for {values['version']}", "gemm's layout is read here"
        )
    if settings.method == "gptq" and values.get("bits", 4) not in BIT_WIDTHS:
        why = f"{values['bits']} bits lie across words; {', '.join(map(str, BIT_WIDTHS))} are read here"
        _refuse(folder, "the weights are stored as GPTQ", why)
    known = {name for packed in packed_weights(folder, _nothing).values() for name in packed.parts}
    if not known and not any(kind in PACKED_BITS for kind in folder.kinds.values()):
        _refuse(
            folder,
            f"config.json says that weights are stored as {settings.method}",
            "no tensor of the folder is stored so",
        )
    odd = [
        n
        for n, kind in folder.kinds.items()
        if kind in PACKED_BITS and n not in known and not UNUSED.search(n)
    ]
    if odd:
        kind = folder.kinds[odd[0]]
        _refuse(folder, f"{odd[0]} is stored as {kind}", f"as what isn't known of {settings.method} here")


def packed_weights(folder: Folder, read: Read) -> dict[str, Packed]:
    """Every weight that is quantised, by the name that it has in the unquantised checkpoint. ``read``: gives
    the few small tensors that tell a shape."""
    settings = Settings.of(folder.config)
    if settings is None:
        return {}
    return {name: packed for find in FORMATS for name, packed in find(folder, settings, read)}


def without_packing(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without its note on how weights are stored: they are unpacked when they are read."""
    kept = {key: value for key, value in config.items() if key != "quantization_config"}
    if isinstance(text := kept.get("text_config"), Mapping):
        kept["text_config"] = without_packing(cast("Mapping[str, Any]", text))
    return kept


def _nothing(_: str) -> Any:
    """Stands in for reading if only names are asked for."""
    return None


def _refuse(folder: Folder, what: str, why: str) -> None:
    name = original_of(folder.path)
    mend = f"use the original weights{f', {name}' if name else ''}, or a GGUF file of the model"
    raise ModelError(what, str(folder.path / "config.json"), why, mend)


def original_of(path: Path) -> str | None:
    """The model from which the folder was made, as its card says."""
    card = path / "README.md"
    if not card.is_file():
        return None
    found = re.search(r"^base_model:\s*(?:-\s*)?([\w.-]+/[\w.-]+)", card.read_text("utf-8", "replace"), re.M)
    return found[1] if found else None


# --- the formats ------------------------------------------------------------------------------------------

Found = Iterator[tuple[str, Packed]]


def by(name: str, **told: Any) -> Callable[..., Tensor]:
    """A rule of `rules`, which imports torch when the first weight is unpacked."""

    def rule(*parts: Tensor) -> Tensor:
        from sapwood.base.packed import rules

        return getattr(rules, name)(*parts, **told)

    return rule


def _ending(folder: Folder, end: str) -> Iterator[str]:
    """The beginnings of all names that end in ``end``."""
    return (name.removesuffix(end) for name in folder.shapes if name.endswith(end))


def _eight_bits(folder: Folder, settings: Settings, _: Read) -> Found:
    """FP8 and int8: codes under the weight's own name, and a scale beside it."""
    told: Any = settings.values.get("weight_block_size")
    blocks = (int(told[0]), int(told[1])) if told else None
    for name, kind in folder.kinds.items():
        stem, shape = name.removesuffix(".weight"), folder.shapes[name]
        scales = [f"{name}_scale_inv", f"{name}_scale", f"{stem}.scale"]
        scale = next((one for one in scales if one in folder.shapes), None)
        if kind == "I8" and f"{stem}.SCB" in folder.shapes:
            yield name, Packed(shape, (name, f"{stem}.SCB"), by("rows_of_127"))
        elif kind in ("F8_E4M3", "F8_E5M2", "I8") and scale is not None and name not in scales:
            yield name, Packed(shape, (name, scale), by("scaled", blocks=blocks))


def _mxfp4(folder: Folder, _: Settings, __: Read) -> Found:
    for name in _ending(folder, "_blocks"):
        blocks = folder.shapes[f"{name}_blocks"]
        if len(blocks) == 4 and f"{name}_scales" in folder.shapes:
            shape = (blocks[0], 2 * blocks[2] * blocks[3], blocks[1])
            yield name, Packed(shape, (f"{name}_blocks", f"{name}_scales"), by("mxfp4"))


def _words(folder: Folder, settings: Settings, _: Read) -> Found:
    """GPTQ and AWQ call their tensors alike."""
    bits = int(settings.values.get("bits", 4))
    # AutoGPTQ's files hold the value minus one
    below = 0 if settings.values.get("checkpoint_format") == "gptq_v2" else 1
    for stem in _ending(folder, ".qweight"):
        rows, columns = folder.shapes[f"{stem}.qweight"]
        three = tuple(f"{stem}.{part}" for part in ("qweight", "qzeros", "scales"))
        if settings.method == "awq":
            yield f"{stem}.weight", Packed((columns * WORD // 4, rows), three, by("awq"))
            continue
        width = rows * WORD // bits
        told = (f"{stem}.g_idx",) if f"{stem}.g_idx" in folder.shapes else ()
        rule = by("gptq", bits=bits, below=below)
        yield f"{stem}.weight", Packed((columns, width), (*three, *told), rule)


def _signed_words(folder: Folder, _: Settings, read: Read) -> Found:
    """compressed-tensors with integers in words."""
    for stem in _ending(folder, ".weight_packed"):
        if folder.kinds[f"{stem}.weight_packed"] != "I32" or f"{stem}.weight_zero_point" in folder.shapes:
            continue
        told = read(f"{stem}.weight_shape")
        shape = tuple(map(int, told)) if told is not None else folder.shapes[f"{stem}.weight_packed"]
        bits = WORD * folder.shapes[f"{stem}.weight_packed"][1] // shape[1] if told is not None else 4
        parts = tuple(f"{stem}.{part}" for part in ("weight_packed", "weight_scale", "weight_shape"))
        yield f"{stem}.weight", Packed(shape, parts, by("signed_words", bits=bits))


def _four_bits(folder: Folder, _: Settings, read: Read) -> Found:
    """bitsandbytes' nf4 and fp4. Facts that are no tensors stand as JSON in a tensor."""
    for name in (name for name, kind in folder.kinds.items() if kind == "U8" and name.endswith(".weight")):
        state = next((n for n in folder.shapes if n.startswith(f"{name}.quant_state.bitsandbytes__")), None)
        if state is None:
            continue
        parts = (name, f"{name}.quant_map", f"{name}.absmax")
        nested = tuple(f"{name}.nested_{part}" for part in ("quant_map", "absmax"))
        parts = (*parts, *nested) if nested[0] in folder.shapes else parts
        told = read(state)
        facts: dict[str, Any] = {} if told is None else json.loads(bytes(told.tolist()))
        shape = tuple(facts.get("shape") or (0,))
        yield name, Packed(shape, (*parts, state), by("four_bits", facts=facts, shape=shape))


FORMATS = (_eight_bits, _mxfp4, _words, _signed_words, _four_bits)
