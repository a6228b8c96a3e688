"""A model folder in Hugging Face layout, checked before any library opens it.

A folder from elsewhere is untrusted: it may hold pickles, an adapter that loads by itself, an index that
points outside, a config that asks for code. `check_layout` looks at names only; `read_folder` reads the small
files and the safetensors headers. Neither reads a weight.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from sapwood.errors import ModelError, Problem, brief

MAX_JSON = 8_000_000
MAX_INDEX = 64_000_000
MAX_HEADER = 8_000_000
MAX_TENSORS = 50_000  # of one file; the largest mixtures of experts keep a thousand or two in each
MAX_RANK = 8
ENDLESS = [("__float__", "Infinity")]  # as transformers 5 spells it in JSON
DTYPE_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16}
PACKED_BITS = {
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "U8", "I8"), 8),
    "I32": 32,
}  # of quantised ones
TABLE_BITS = {"I64": 64}  # of tables, which aren't multiplied: for example the experts of each token
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Folder:
    """What a model folder holds.

    Attributes:
        config: config.json without the keys that make a library run or fetch code.
        shards: the safetensors files, in order.
        shapes, kinds: tensor name -> shape, and safetensors' name of its number format, over all shards.
    """

    path: Path
    config: Mapping[str, Any]
    shards: tuple[Path, ...]
    shapes: Mapping[str, tuple[int, ...]]
    kinds: Mapping[str, str]


def check_layout(path: Path) -> None:
    """Refuse a folder that can't be a base model, by the names in it. Raises ModelError with the reason."""
    try:
        entries = list(path.iterdir())
    except OSError as error:
        raise ModelError("the model folder can't be read", str(path), str(error.strerror)) from None
    names = {entry.name for entry in entries}
    for entry in sorted(entries):
        check_inside(entry)  # libraries also follow the links of other files
    if planted := [name for name in ADAPTER_FILES if name in names]:
        raise ModelError(
            "the folder holds an adapter",
            str(path / planted[0]),
            "libraries would load it, or the model that it names, in place of this one",
            "name the base model's own folder, or move the adapter files out of it",
        )
    if "config.json" not in names:
        files = sorted(name for name in names if name.endswith(".gguf"))
        mend = f"name the file: {path / files[0]}" if files else "name the folder that holds config.json"
        raise ModelError("not a model folder", str(path), "it has no config.json", mend)
    if not any(name.endswith(".safetensors") for name in names):
        pickles = sorted(name for name in names if name.endswith(PICKLES))
        why = f"only {pickles[0]}, which runs code when it is opened" if pickles else "no .safetensors file"
        mend = "use a revision with safetensors, or convert it if you trust it: save_pretrained() writes them"
        raise ModelError("the folder holds no safetensors weights", str(path), why, mend)


def read_folder(path: Path) -> Folder:
    """Read config.json, the index and every safetensors header. Raises ModelError listing what is wrong."""
    check_layout(path)
    config = _without_code(read_json(path / "config.json"))
    shards, mapped = _shards(path)
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    problems: list[Problem] = []
    known = DTYPE_BITS | (PACKED_BITS if _quantised(config) else {})
    for shard in shards:
        try:
            header = _header(shard, known)
        except ModelError as error:
            problems += error.problems
            continue
        twice = tensors.keys() & header.keys()
        problems += [Problem(f"tensor {name} is in two shards", str(shard)) for name in sorted(twice)]
        tensors |= header
    if lost := sorted(mapped - tensors.keys()) if not problems else []:
        why = f"and {len(lost) - 1:,} more" if len(lost) > 1 else ""
        problems.append(Problem(f"the index names {lost[0]!r}, which no shard holds", str(path / INDEX), why))
    if problems:
        raise ModelError(problems)
    kinds = {name: kind for name, (kind, _) in tensors.items()}
    return Folder(path, config, tuple(shards), {name: shape for name, (_, shape) in tensors.items()}, kinds)


def _quantised(config: Mapping[str, Any]) -> bool:
    text = config.get("text_config")
    return any("quantization_config" in part for part in (config, text) if isinstance(part, Mapping))


def read_json(path: Path, limit: int = MAX_JSON) -> dict[str, Any]:
    """A JSON object from a file of the model's: bounded, inside its folder, no key twice, no NaN. Infinity,
    as transformers writes it if there is no limit, is a number."""
    check_inside(path)

    def constant(name: str) -> float:
        if name == "Infinity":
            return math.inf
        raise ValueError(f"{name} is not a JSON value")

    try:
        if not path.is_file():
            what = "not a file" if path.exists() else "the file can't be read"
            raise ModelError(what, str(path), "" if path.exists() else "no such file")
        if path.stat().st_size > limit:
            raise ModelError("the file is too large", str(path), f"more than {limit:,} bytes")
        text = path.read_text(encoding="utf-8-sig")
        value = json.loads(text, object_pairs_hook=_pairs, parse_constant=constant)
    except OSError as error:
        raise ModelError("the file can't be read", str(path), _whose(path, error)) from None
    except (ValueError, RecursionError) as error:
        raise ModelError("not valid JSON", str(path), brief(error)) from None
    if not isinstance(value, dict):
        raise ModelError(
            "not a JSON object",
            str(path),
            f"found {'a list' if isinstance(value, list) else 'a single value'}",
        )
    return value


def _pairs(found: list[tuple[str, Any]]) -> Any:
    if len({key for key, _ in found}) != len(found):
        raise ValueError("a key appears twice")
    return math.inf if found == ENDLESS else dict(found)


def _whose(path: Path, error: OSError) -> str:
    """The system's reason; if rights are missing, also the owner of the file."""
    if not isinstance(error, PermissionError):
        return str(error.strerror)
    stat = path.stat()
    return f"{error.strerror}: it belongs to user {stat.st_uid}, mode {stat.st_mode & 0o777:04o}"


def check_inside(path: Path) -> None:
    """Refuse a link that leaves the model's folder; the hub's cache links into the ``blobs`` beside it."""
    if not path.is_symlink():
        return
    folder = path.parent.resolve()
    homes = [folder]
    if folder.parent.name == "snapshots":
        homes.append(folder.parents[1] / "blobs")
    if not any(path.resolve().is_relative_to(home) for home in homes):
        mend = "name the folder that holds the files themselves"
        raise ModelError(
            "a link leaves the model's folder", str(path), f"it points to {path.resolve()}", mend
        )


def _without_code(config: dict[str, Any]) -> dict[str, Any]:
    """The config without private keys and choices of implementation, at any depth: some make transformers
    download and run kernels. ``auto_map`` stays at the top: `base` decides about it."""

    def clean(value: Any, top: bool) -> Any:
        if isinstance(value, dict):
            return {key: clean(item, False) for key, item in value.items() if not _runs_code(key, top)}
        return [clean(item, False) for item in value] if isinstance(value, list) else value

    return clean(config, True)


def _runs_code(key: str, top: bool) -> bool:
    if key == "auto_map":
        return not top
    return key.startswith("_") or "implementation" in key or key == "trust_remote_code"


def _shards(path: Path) -> tuple[list[Path], set[str]]:
    """The files to load, by the index if there is one, and the tensors that it names. Names must be plain
    and the files present."""
    if not (path / INDEX).exists():
        if not (path / SINGLE).exists():
            found = sorted(file.name for file in path.glob("*.safetensors"))
            why = f"{len(found)} safetensors files, and neither {SINGLE} nor {INDEX} says what to load"
            raise ModelError("the folder's weights can't be told apart", str(path), why)
        return [path / SINGLE], set()
    weight_map = read_json(path / INDEX, MAX_INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError("the index maps no tensor", str(path / INDEX), "weight_map is missing or empty")
    shards: list[Path] = []
    problems: list[Problem] = []
    for name in sorted({str(value) for value in weight_map.values()}):
        if not re.fullmatch(r"[\w.-]+\.safetensors", name):
            problems.append(
                Problem(f"the index names {name[:200]!r}", str(path / INDEX), "not a plain file name")
            )
        elif not (path / name).is_file():
            mend = "download the folder again; a file is missing"
            problems.append(Problem(f"shard {name} is missing", str(path / INDEX), mend=mend))
        else:
            shards.append(path / name)
    if problems:
        raise ModelError(problems)
    if (path / SINGLE).exists() and path / SINGLE not in shards:  # libraries would take the single file
        raise ModelError("the folder's weights can't be told apart", str(path), f"{SINGLE} beside {INDEX}")
    return shards, set(weight_map)


def _header(path: Path, known: Mapping[str, int]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Names, number formats and shapes of a safetensors file; sizes and offsets must fit the file exactly.
    ``known``: the bits of each number format that may be in it."""
    if not path.is_file():
        raise ModelError("not a file", str(path), "weights are read from a plain file")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if length < 2 or length > MAX_HEADER or 8 + length > size:
            raise ModelError("damaged safetensors file", str(path), f"{size:,} bytes, header of {length:,}")
        raw = file.read(length)
    try:
        table = json.loads(raw, object_pairs_hook=_pairs)
        if not isinstance(table, dict) or len(table) > MAX_TENSORS:
            raise ValueError("not a table of tensors")
        return dict(_entries(table, size - 8 - length, known))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError("damaged safetensors file", str(path), brief(error)) from None


def _entries(
    table: Mapping[str, Any], data_size: int, known: Mapping[str, int]
) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    """Check each entry of a header: tensors lie side by side, without holes, to the end of the file. Raises
    ValueError, KeyError or TypeError for one that doesn't fit."""
    ranges: list[tuple[int, int, str]] = []
    for name, entry in table.items():
        if name == "__metadata__":
            if not isinstance(entry, dict) or not all(isinstance(text, str) for text in entry.values()):
                raise ValueError("__metadata__ holds more than text")
            continue
        if not re.fullmatch(r"[\w.\-]{1,512}", name):
            raise ValueError(f"tensor name {name[:80]!r}")
        kind, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
        bits = {**known, **({} if name.endswith((".weight", ".bias")) else TABLE_BITS)}
        if kind not in bits:
            raise ValueError(f"{name} is stored as {kind}; weights in {', '.join(known)} can be trained on")
        if len(shape) > MAX_RANK or not all(type(n) is int and n >= 0 for n in (*shape, first, last)):
            raise ValueError(f"{name} has the shape {str(shape)[:80]} at {first}, {last}")
        if last - first != math.prod(shape) * bits[kind] // 8 or last > data_size:
            raise ValueError(f"{name} ends at byte {last:,} of {data_size:,}: the download may be cut")
        ranges.append((first, last, name))
        yield name, (kind, tuple(shape))
    for (_, end, _), (start, _, name) in pairwise(sorted(ranges)):
        if start < end:
            raise ValueError(f"{name} lies on the same bytes as another tensor")
    if (held := sum(last - first for first, last, _ in ranges)) != data_size:
        raise ValueError(f"{data_size - held:,} bytes belong to no tensor")
