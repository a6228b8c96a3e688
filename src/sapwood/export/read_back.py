"""What the files of an export say about the model, held against the config that was trained.

Logits on eight short prompts don't show a wrong window of 4,096 tokens, a wrong context or a wrong epsilon.
So these values are read back and compared, one by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sapwood.base.folder import read_json
from sapwood.errors import ModelError, Problem
from sapwood.gguf.facts import config_values
from sapwood.gguf.file import read_gguf
from sapwood.gguf.settled import flat, flattened, settled, settled_rope
from sapwood.gguf.table.families import FAMILIES, architecture_of
from sapwood.gguf.written import context_of, stored_name

# Keys that an export sets by itself, and keys that name the reader and not the model.
SET_ANEW = {
    *("architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "model_type"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "use_cache"),
}
NEW_KEYS = {"rope_parameters", "dtype"}  # of transformers 5


def gguf_facts(path: Path, config: Any, tied: bool) -> list[Problem]:
    """Values of a GGUF file that aren't those of ``config``. ``tied``: the model's head is its embedding."""
    try:
        read = config_values(read_gguf(path))
        if "rope_parameters" in read:
            family = FAMILIES[architecture_of(config)]
            read["rope_parameters"] = settled_rope(read["rope_parameters"], family)
        found = flattened(read, type(config))
    except ModelError as error:
        return list(error.problems)
    wanted = {**flat(settled(config)), "max_position_embeddings": context_of(config)}
    head = {"tie_word_embeddings": tied}
    told = {stored_name(config, name): value for name, value in found.items() if name not in SET_ANEW} | {
        "tie_word_embeddings": found["tie_word_embeddings"]
    }
    return _different(told, {name: wanted[name] for name in told if name in wanted} | head)


def config_facts(folder: Path, config: Any, tied: bool) -> list[Problem]:
    """Values of a folder's config.json that aren't those of ``config``: as today's transformers reads it, and
    as it reads what transformers 4 knows of it, which is silent about the rest."""
    told = read_json(folder / "config.json")
    wanted = {name: value for name, value in config.to_dict().items() if name not in SET_ANEW}
    old = {name: value for name, value in told.items() if name not in NEW_KEYS}
    problems: list[Problem] = []
    for values in (told, old):
        found = type(config).from_dict(values).to_dict()
        problems += _different(found, wanted)
    if bool(told.get("tie_word_embeddings")) != tied:
        problems.append(
            Problem(f"the export says tie_word_embeddings: {str(not tied).lower()}", "config.json")
        )
    return list(dict.fromkeys(problems))


def _different(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[Problem]:
    return [
        Problem(f"the export says {name}: {found.get(name)!r}", why=f"trained with {value!r}")
        for name, value in wanted.items()
        if not _equal(found.get(name), value)
    ]


def _equal(a: Any, b: Any) -> bool:
    """Floats within the 32 bits that files keep; a key that is None is a key that isn't there; a tuple is a
    list in JSON."""
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_equal(one, other) for one, other in zip(a, b, strict=True))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return all(_equal(a.get(key), b.get(key)) for key in a.keys() | b.keys())
    if isinstance(a, float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-5)
    return a == b
