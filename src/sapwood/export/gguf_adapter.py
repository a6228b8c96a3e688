"""The adapter as llama.cpp reads it.

The format is that of llama.cpp's `llama-adapter.cpp`: tensors ``NAME.weight.lora_a`` [r, in] and
``.lora_b`` [out, r]; at run time the product is scaled by ``adapter.lora.alpha / r``, one alpha for the whole
file, and no key says rsLoRA. So if PEFT scales by another factor, that factor is multiplied into B.

Experts have ``lora_a`` [experts, r, in] and ``lora_b`` [experts, out, r]. Gate and up are one stack in
transformers and two in a file, which then have the same A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapwood.adapter.pairs import LoraPair, lora_pairs
from sapwood.base.network.parts import text_names
from sapwood.errors import ExportError, Problem
from sapwood.gguf.layout import Grouped, apart, to_file_columns, to_file_rows
from sapwood.gguf.names import of_layer, tensor_names
from sapwood.gguf.table.families import FAMILIES, architecture_of, in_files
from sapwood.serve.load import Loaded


@dataclass(frozen=True, slots=True)
class GgufPair:
    """One adapted tensor. a: float32[…, r, in]; b: float32[…, out, r], rows in the file's order, scaled."""

    name: str
    a: NDArray[np.float32]
    b: NDArray[np.float32]


def write_gguf_adapter(trained: Loaded, path: Path) -> None:
    """Write the adapter of ``trained``. Raises ExportError if llama.cpp has no place for it."""
    from gguf import GGUFWriter

    if trained.model is None:
        mend = "export the whole model: --to gguf, or --to merged"
        raise ExportError("there is no adapter", trained.name, "the model's own weights were trained", mend)
    config, alone = trained.base.spec.text, text_names(trained.base.model)
    architecture = architecture_of(config)
    own = [replace(pair, module=alone(pair.module)) for pair in lora_pairs(trained.model)]
    alpha, pairs = gguf_pairs(own, config)
    writer = GGUFWriter(path, in_files(architecture))
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for pair in pairs:
        writer.add_tensor(f"{pair.name}.weight.lora_a", pair.a)
        writer.add_tensor(f"{pair.name}.weight.lora_b", pair.b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_pairs(pairs: Sequence[LoraPair], config: Any) -> tuple[float, list[GgufPair]]:
    """The file's alpha, and its tensors.

    The alpha is the one that leaves the first module's B as it is: if all modules have one scale, every
    byte of B is the adapter's own.
    """
    architecture = architecture_of(config)
    names = tensor_names(architecture, config.num_hidden_layers)
    strangers = [
        Problem(f"llama.cpp's form of {architecture} has no place for the adapter of {p.module}")
        for p in pairs
        if p.module not in names
    ]
    unadapted = FAMILIES[architecture].unadapted
    strangers += [
        Problem(
            f"llama.cpp computes {tensor} without adapters",
            "lora.targets",
            f"the adapter changes {p.module}",
            "--to gguf writes the whole model; or train without these layers",
        )
        for p in pairs
        for tensor in names.get(p.module, ())
        if of_layer(tensor).partition(".")[0] in unadapted
    ]
    if strangers:
        raise ExportError(strangers)
    alpha = pairs[0].scale * pairs[0].rank
    written = [part for pair in pairs for part in _parts(pair, names[pair.module], alpha, config)]
    return alpha, written


def _parts(pair: LoraPair, names: Sequence[str], alpha: float, config: Any) -> list[GgufPair]:
    """A pair as the tensors of its module in a file."""
    architecture, a = architecture_of(config), np.ascontiguousarray(pair.a.numpy())
    b = pair.b.numpy() * np.float32(pair.scale * pair.rank / alpha)
    grouped = Grouped.of_config(architecture, names, config)
    by_turns = FAMILIES[architecture].turned == "by turns"
    parts = zip(names, grouped.apart(b) if grouped else apart(names, b, by_turns), strict=True)
    return [
        GgufPair(
            name,
            to_file_columns(architecture, name, a, config),
            to_file_rows(architecture, name, part, config),
        )
        for name, part in parts
    ]
