"""From what a person named to the files that llama.cpp loads, by the exporters that there are. Kept in the
cache: the second start reads them."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapwood.base.cache import cache_dir, file_sha256, publish, write_atomic
from sapwood.endpoint.reference import ADAPTER, KEPT, TOLD, Line, Reference
from sapwood.errors import SapwoodError, StorageError
from sapwood.machine.doing import doing
from sapwood.run.disk import storage_error
from sapwood.run.files import discard_dir, staged_dir, verify_dir
from sapwood.serve.load import Found, load_found

VERSION = 1  # raise it when the same adapter would give other files
FLOATS = ("auto", "fp32", "bf16", "fp16", "gguf")  # storages whose weights a file in F16 stands for


class Unfit(Exception):
    """llama.cpp can't hold this model or this adapter; torch can."""


@dataclass(frozen=True, slots=True)
class Files:
    """What an engine loads, and what it has to say then. ``adapter``: None where the base itself is meant."""

    base: Path
    adapter: Path | None
    reference: Reference


def base_key(found: Found) -> str:
    """Equal for all that can be served on one base: its weights, how they were held, and its tokens."""
    own = _content(found.folder) if found.whole and found.folder is not None else ""
    held = found.facts.base if found.facts is not None and not found.whole else None
    kind = "float"
    if held is not None and held.storage not in FLOATS and not found.spec.path.is_file():
        kind = f"{held.storage} {held.compute_dtype} {held.double_quant}"
    return _digest("base", found.spec.fingerprint, own, kind, len(found.spec.tokenizer))


def ready_files(found: Found) -> Files:
    """The files of ``found``, made where the cache has none of this content.

    Raises:
        Unfit: the architecture or the kind of adapter is none of llama.cpp's.
        ModelError, StorageError: the adapter is damaged, or the disk refused.
    """
    base = _base_path(found)
    if base != found.spec.path and not _sound(base):
        base.unlink(missing_ok=True)
    folder = cache_dir() / "serve" / _digest(
        VERSION, base_key(found), found.renderer.fingerprint, found.system or "",
        _content(found.folder) if found.folder is not None else "",
    )  # fmt: skip
    if folder.is_dir() and base.is_file():
        try:
            verify_dir(folder)
            return _files(found, base, folder)
        except (StorageError, ValueError, KeyError, TypeError):
            discard_dir(folder)
    if folder.is_dir():
        discard_dir(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _make(found, base, folder)
    except StorageError:
        if not folder.is_dir():  # else another process was faster
            raise
    except OSError as error:
        raise storage_error(error, folder) from None
    return _files(found, base, folder)


def _files(found: Found, base: Path, folder: Path) -> Files:
    adapter = folder / ADAPTER
    return Files(base, adapter if adapter.is_file() else None, Reference.read(folder))


def _base_path(found: Found) -> Path:
    if found.spec.path.is_file() and not found.whole:
        return found.spec.path
    return cache_dir() / "serve" / f"{base_key(found)}.gguf"


def _sound(base: Path) -> bool:
    """Is a base of the cache still what was written?"""
    try:
        return _seal(base).read_text(encoding="ascii") == file_sha256(base)
    except (OSError, ValueError):
        return False


def _seal(base: Path) -> Path:
    return base.with_suffix(".sha256")


def _content(folder: Path) -> str:
    """A hash over an adapter's files, or over those of a model that was trained whole."""
    if folder.is_file():
        return file_sha256(folder)
    names = sorted(path for path in folder.iterdir() if path.suffix != ".md")
    return _digest(*((path.name, file_sha256(path)) for path in names if path.is_file()))


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _make(found: Found, base: Path, folder: Path) -> None:
    """Open what was trained, as for an export; write its files, and what it says."""
    from sapwood.adapter.pairs import lora_pairs
    from sapwood.export.gguf_adapter import write_gguf_adapter
    from sapwood.gguf.facts import refuse_unwritable

    try:
        refuse_unwritable(found.spec.hf_config)
    except SapwoodError as error:
        raise Unfit(str(error)) from None
    with doing(f"loading {found.name}"):
        trained = load_found(found, exact=True)
    adapted = trained.model is not None
    with staged_dir(folder) as stage, doing(f"writing {found.name} for llama.cpp"):
        try:
            if trained.model is not None:
                lora_pairs(trained.model)
                write_gguf_adapter(trained, stage / ADAPTER)
            if not base.is_file():
                _write_base(trained, base)
        except SapwoodError as error:
            if isinstance(error, StorageError):
                raise
            raise Unfit(
                error.problems[0].what + (f": {error.problems[0].why}" if error.problems[0].why else "")
            ) from None
        _reference(trained, own_file=base == found.spec.path, adapted=adapted).write(stage)


def _write_base(trained: Any, path: Path) -> None:
    """The base's weights as they were trained on, in F16."""
    from sapwood.export.gguf_model import write_gguf_model
    from sapwood.export.merge import base_parameters, merged_parameters

    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    parameters = (
        base_parameters(trained.base.model) if trained.model is not None else merged_parameters(trained)
    )
    try:
        write_gguf_model(parameters, trained.base.spec, trained.renderer, temporary, "F16")
        digest = file_sha256(temporary)
        publish(temporary, path)
        write_atomic(_seal(path), digest.encode())
    finally:
        temporary.unlink(missing_ok=True)


def _reference(trained: Any, *, own_file: bool, adapted: bool) -> Reference:
    from sapwood.export.check import allowed
    from sapwood.export.rounded import types_in, whole_file, yardstick
    from sapwood.export.traces import rows_of, trace_prompts

    traces = trace_prompts(trained)
    form, usual = types_in(trained.base.spec.path) if own_file else (whole_file("F16"), "F16")
    noise = yardstick(trained.network, traces, form, None, written=not own_file)
    with trained.without_adapter():
        base = rows_of(trained.network, traces)
    lines: list[Line] = []
    effects: list[float] = []
    firsts: list[float] = []
    for trace, plain in zip(traces, base, strict=True):
        top = trace.trained.topk(KEPT, -1)
        beside = plain.gather(-1, top.indices)
        least = plain[0].topk(min(TOLD, plain.shape[-1])).values[-1]
        effects.append(float((top.values - beside).abs().mean()))
        firsts.append(float((top.values[0] - beside[0].clamp(min=least)).abs().mean()))
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        rows = [list(zip(ids, values, strict=True)) for ids, values in pairs]
        lines.append(Line(trace.ids, trace.answer, rows))
    effect = sum(effects) / len(effects) if adapted else None
    first = sum(firsts) / len(firsts) if adapted else None
    return Reference(lines, allowed(noise, usual), effect, first)
