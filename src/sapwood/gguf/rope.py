"""The rotary embedding: transformers' ``rope_parameters``, and what a GGUF file says of them.

Llama 3.1's stretched frequencies lie in a file as a tensor of divisors (``rope_freqs``), in transformers as
four numbers. The numbers are recovered from the tensor, and checked against it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import ModelError, Problem
from sapwood.gguf.file import GgufFile
from sapwood.gguf.keys import integer, number
from sapwood.gguf.table.families import FAMILIES, SECTIONS
from sapwood.gguf.table.family import Family

FOLDER = "use the model's safetensors folder in place of the GGUF file"
DIVISORS = "rope_freqs.weight"
TEMPERED = "attention.temperature_length"
FACTORS = {"short_factor": "rope_factors_short.weight", "long_factor": "rope_factors_long.weight"}
# Numbers of each scaling, by transformers' name, with the key that holds them; Llama 3.1's lie in the tensor.
SCALINGS: Mapping[str, Mapping[str, str]] = {
    "default": {},
    "linear": {"factor": "rope.scaling.factor"},
    "yarn": {
        "factor": "rope.scaling.factor",
        "original_max_position_embeddings": "rope.scaling.original_context_length",
        "beta_fast": "rope.scaling.yarn_beta_fast",
        "beta_slow": "rope.scaling.yarn_beta_slow",
    },
    "proportional": {},  # the tensor of divisors says which part of a head is turned
    "longrope": {
        "short_factor": "",
        "long_factor": "",
        "original_max_position_embeddings": "rope.scaling.original_context_length",
    },
    "llama3": {
        "factor": "",
        "low_freq_factor": "",
        "high_freq_factor": "",
        "original_max_position_embeddings": "",
    },
}
UNTURNED = 1e30  # divides a frequency that doesn't turn
BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}  # of YaRN, on both sides
OF_EVERY = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
# Another name of a value, a context that no class reads, and positions of pictures: a token of text has one.
UNREAD = ("type", "max_position_embeddings", "mrope_section", "mrope_interleaved")


# --- reading ----------------------------------------------------------------------------------------------


def read_rope(file: GgufFile, family: Family, width: int) -> dict[str, Any]:
    """``rope_parameters`` of layers that see everything. ``width``: of one head."""
    rope: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": number(file, "rope.freq_base", 10_000.0),
    }
    rotated = integer(file, "rope.dimension_count", width)
    if family.partial:
        rope["partial_rotary_factor"] = part_of(rotated, width)
    elif rotated != width:
        raise ModelError("a rotary embedding on part of each head isn't supported", str(file.path))
    if family.sections and (sections := _sections(file)):
        rope["mrope_section"] = sections
    rope |= _read_scaling(file, family, rope["rope_theta"], width)
    if rope["rope_type"] not in family.scalings:
        why = f"{file.architecture} is computed with {', '.join(family.scalings)}"
        raise ModelError(_unread(rope["rope_type"]), str(file.path), why, FOLDER)
    return rope


def _sections(file: GgufFile) -> list[int]:
    """How many frequencies turn by time, height and width. A fourth count is always 0."""
    return [int(count) for count in file.metadata.get(f"{file.architecture}.{SECTIONS}", [])][:3]


def _unread(kind: Any) -> str:
    return f"rotary scaling {kind!r} isn't supported in GGUF files"


def _read_scaling(file: GgufFile, family: Family, theta: float, width: int) -> dict[str, Any]:
    if DIVISORS in file.tensors and "proportional" in family.scalings:
        return _read_proportional(file, width)
    if DIVISORS in file.tensors:
        return _read_llama3(file, theta, width)
    if any(tensor in file.tensors for tensor in FACTORS.values()):
        return _read_longrope(file)
    kind = file.metadata.get(f"{file.architecture}.rope.scaling.type", "none")
    factor = number(file, "rope.scaling.factor", number(file, "rope.scale_linear", 1.0))
    if kind == "none" and factor == 1.0:
        return {}
    if kind in ("none", "linear"):
        return {"rope_type": "linear", "factor": factor}
    original = integer(file, "rope.scaling.original_context_length", 0)
    if family.tempered and (told := integer(file, TEMPERED, original)) != original:
        why = f"{TEMPERED} is {told}, the original context {original}"
        raise ModelError(_unread(kind), str(file.path), why, FOLDER)
    if kind == "yarn" and original:
        keys = SCALINGS["yarn"]
        betas = {name: number(file, keys[name], default) for name, default in BETAS.items()}
        changed = {name: value for name, value in betas.items() if value != BETAS[name]}
        scaling = {"factor": factor, "original_max_position_embeddings": original}
        return {"rope_type": "yarn", **scaling, **changed, **_read_more(file, family)}
    raise ModelError(_unread(kind), str(file.path), mend=FOLDER)


def _read_proportional(file: GgufFile, width: int) -> dict[str, Any]:
    """The first frequencies turn, the others are divided by so much that they don't."""
    found = file.tensors[DIVISORS].dense().ravel()
    turned = int((found == 1).sum())
    part = {"rope_type": "proportional", "partial_rotary_factor": 2 * turned / width}
    if found.tolist() != _unturned(part, width).tolist():
        why = "each frequency is to be divided by 1, or by 1e30"
        raise ModelError(_unread("proportional"), str(file.path), why, FOLDER)
    return part


def _read_longrope(file: GgufFile) -> dict[str, Any]:
    """Factors of each frequency. Which of the two sets is taken depends in llama.cpp on the context that it
    is started with, in transformers on a text's length: both take the short ones if there are no longer
    contexts than the original one."""
    context = integer(file, "context_length")
    original = integer(file, "rope.scaling.original_context_length", context)
    if context > original or not all(tensor in file.tensors for tensor in FACTORS.values()):
        why = f"contexts go up to {context} tokens, and the model was first trained on {original}"
        raise ModelError(_unread("longrope"), str(file.path), why, FOLDER)
    factors = {name: file.tensors[tensor].dense().ravel() for name, tensor in FACTORS.items()}
    told = {name: [float(f"{value:.7g}") for value in found] for name, found in factors.items()}
    return {"rope_type": "longrope", "original_max_position_embeddings": original, **told}


def _read_more(file: GgufFile, family: Family) -> dict[str, Any]:
    """Numbers of the family's own YaRN. llama.cpp takes ``mscale`` to be 1, or in latent attention to be
    ``mscale_all_dim``, without which nothing in transformers computes the same."""
    told = {
        name: number(file, key, None)
        for name, key in family.yarn.items()
        if f"{file.architecture}.{key}" in file.metadata
    }
    if "mscale_all_dim" in told:
        told["mscale_all_dim"] = float(f"{told['mscale_all_dim'] / family.log_unit:.7g}")
    elif family.latent:
        key = f"{file.architecture}.{family.yarn['mscale_all_dim']}"
        raise ModelError(_unread("yarn"), str(file.path), f"{key} is missing", FOLDER)
    if "llama_4_scaling_beta" in family.yarn:
        told.setdefault("llama_4_scaling_beta", 0.0)
    if family.tempered and told["mscale_all_dim"] != 1:  # llama.cpp computes others otherwise: 0.013 nat
        raise ModelError(_unread("yarn"), str(file.path), f"mscale_all_dim: {told['mscale_all_dim']}", FOLDER)
    same = told["mscale_all_dim"] if family.latent else 1.0
    return told | ({"mscale": same} if "mscale_all_dim" in told else {})


def _read_llama3(file: GgufFile, theta: float, width: int) -> dict[str, Any]:
    """Llama 3.1's four numbers. One is the same in every published model, one is 4, or 1 in Llama 4. The
    largest divisor is the third. The fourth is a power of two: 8,192 in all of Meta's models."""
    found = file.tensors[DIVISORS].dense().ravel()
    originals = (8192, *(1 << bits for bits in range(6, 20)))
    for high, original in product((4.0, 1.0), originals):
        scaling: dict[str, Any] = {
            "factor": float(found.max()),
            "low_freq_factor": 1.0,
            "high_freq_factor": high,
            "original_max_position_embeddings": original,
        }
        expected = llama3_divisors(theta, width, **scaling)
        if found.shape == expected.shape and np.allclose(found, expected, rtol=1e-3):
            return {"rope_type": "llama3", **scaling}
    raise ModelError("rope_freqs isn't one of Llama 3.1's scalings", str(file.path), mend=FOLDER)


# --- writing ----------------------------------------------------------------------------------------------


def rope_values(family: Family, rope: Mapping[str, Any], width: int) -> dict[str, Any]:
    """What a file says about ``rope_parameters``, by key below the architecture's name."""
    kind = rope.get("rope_type", "default")
    part = 1.0 if kind == "proportional" else rope.get("partial_rotary_factor", 1.0)
    values: dict[str, Any] = {
        "rope.dimension_count": int(width * part),
        "rope.freq_base": float(rope["rope_theta"]),
    }
    if kind in ("linear", "yarn", "longrope"):
        values["rope.scaling.type"] = kind
    for name, key in _numbers(family, kind).items():
        value = rope.get(name)
        if key and value is not None:
            unit = family.log_unit if name == "mscale_all_dim" else 1.0
            values[key] = int(value) if name.startswith("original") else float(value) * unit
    if family.tempered:
        values[TEMPERED] = int(rope["original_max_position_embeddings"])
    return values


def _numbers(family: Family, kind: str) -> Mapping[str, str]:
    """What a scaling is made of, with the keys of a file."""
    return {**SCALINGS[kind], **(family.yarn if kind == "yarn" else {})}


def rope_divisors(rope: Mapping[str, Any], width: int) -> NDArray[np.float32] | None:
    """The tensor ``rope_freqs``, if the scaling is Llama 3.1's, or turns a part of each head."""
    if rope.get("rope_type") == "proportional":
        return _unturned(rope, width)
    if rope.get("rope_type") != "llama3":
        return None
    numbers = {name: rope[name] for name in SCALINGS["llama3"]}
    return llama3_divisors(rope["rope_theta"], width, **numbers).astype(np.float32)


def _unturned(rope: Mapping[str, Any], width: int) -> NDArray[np.float32]:
    turned = int(rope.get("partial_rotary_factor", 1.0) * width // 2)
    return np.where(np.arange(width // 2) < turned, 1.0, UNTURNED).astype(np.float32)


def rope_factors(rope: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    """The two tensors of longrope, if the scaling is that one."""
    if rope.get("rope_type") != "longrope":
        return {}
    return {tensor: np.asarray(rope[name], np.float32) for name, tensor in FACTORS.items()}


def unwritable_rope(rope: Mapping[str, Any], architecture: str) -> list[Problem]:
    """What of ``rope_parameters`` llama.cpp would leave out."""
    family, kind = FAMILIES[architecture], rope.get("rope_type", "default")
    if kind not in family.scalings:
        known = f"llama.cpp computes {', '.join(family.scalings)} for {architecture}"
        return [Problem(f"GGUF can't store rotary scaling {kind!r}", "rope_parameters", known)]
    strangers = {
        name: value
        for name, value in rope.items()
        if value is not None and name not in OF_EVERY | _numbers(family, kind).keys()
    }
    all_dim = rope.get("mscale_all_dim")
    if all_dim is not None and rope.get("mscale") != (all_dim if family.latent else 1):
        strangers["mscale"] = rope.get("mscale")
    if family.latent and kind == "yarn" and (not all_dim or (family.tempered and all_dim != 1)):
        strangers["mscale_all_dim"] = all_dim
    if kind != "proportional" and not family.partial and rope.get("partial_rotary_factor", 1.0) != 1.0:
        strangers["partial_rotary_factor"] = rope["partial_rotary_factor"]
    return [
        Problem(f"GGUF can't store {name}: {value!r}", "rope_parameters", f"llama.cpp's {architecture}")
        for name, value in strangers.items()
    ]


def plain_rope(rope: Mapping[str, Any]) -> dict[str, Any]:
    """``rope_parameters`` without another name of a value, and without values that both sides take by
    themselves or that no text is computed with. Ministral 3 has a second context there, which its class
    doesn't read."""
    plain = {name: value for name, value in rope.items() if name not in UNREAD}
    if plain.get("rope_type") == "yarn":
        if math.isclose(plain.get("attention_factor") or 0, _yarn_factor(plain["factor"])):
            del plain["attention_factor"]
        taken = {**BETAS, "truncate": True}
        plain = {name: value for name, value in plain.items() if value != taken.get(name, ...)}
    return plain


def part_of(turned: int, width: int) -> float:
    """The part of a head of ``width`` numbers of which transformers makes ``turned`` again: it cuts the
    product off, and 44 * (30 / 44) is a little less than 30."""
    part = turned / width
    return part if int(width * part) == turned else math.nextafter(part, 1)


def _yarn_factor(factor: float) -> float:
    """arXiv 2309.00071, equation 22."""
    return 0.1 * math.log(factor) + 1 if factor > 1 else 1.0


def llama3_divisors(
    theta: float,
    width: int,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: int,
) -> NDArray[np.float64]:
    """What divides each rotary frequency: 1 for short waves, ``factor`` for long ones, a ramp between, which
    Llama 4 hasn't."""
    waves = 2 * math.pi * theta ** (np.arange(0, width, 2) / width)
    above, ramp = (
        original_max_position_embeddings / waves - low_freq_factor,
        high_freq_factor - low_freq_factor,
    )
    smooth = np.clip(above / ramp, 0.0, 1.0) if ramp else np.where(above < 0, 0.0, 1.0)
    return 1 / ((1 - smooth) / factor + smooth)
