"""From what a person named to what is served: the files that llama.cpp loads, and what must be known beside
them.

The exporters of `export` write the files, and the cache keeps them. A second start reads them from the cache,
and needs neither torch nor transformers. A folder of the cache is named by the content of all that it was
made of: the adapter's files, the base's files, a template. If one of them changes, the folder is another.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sapwood.adapter.facts import READ, AdapterFacts
from sapwood.answers.files import base_file, base_key, digest, sound, write_base
from sapwood.answers.sizes import Sizes, sizes_of
from sapwood.base.cache import cache_dir, file_sha256
from sapwood.base.sources import resolve
from sapwood.config.sections import BaseConfig
from sapwood.endpoint.reference import ADAPTER, KEPT, TOLD, Line, Reference
from sapwood.endpoint.tokens import Tokens
from sapwood.errors import SapwoodError, StorageError
from sapwood.machine.doing import doing
from sapwood.machine.measure import torch_dtype
from sapwood.run.disk import storage_error
from sapwood.run.files import discard_dir, staged_dir, verify_dir
from sapwood.run.store import CONFIG, RUN
from sapwood.serve.found import Found, Place, renderer_of
from sapwood.template.render import Renderer
from sapwood.types import BaseSpec

if TYPE_CHECKING:
    from sapwood.serve.load import Loaded

VERSION = 3  # raise it when the same adapter would give other files
CARD = "model.json"


class Unfit(Exception):
    """llama.cpp can't hold this model or this adapter; torch can."""


@dataclass(frozen=True, slots=True)
class Files:
    """What an engine loads, and the answers that it must give then.

    Attributes:
        adapter: None if the base itself is meant.
        folder: of the cache, with its manifest. seen: a file in which an engine's measured answers may be
        kept.
    """

    base: Path
    adapter: Path | None
    reference: Reference
    folder: Path

    @property
    def seen(self) -> Path:
        return self.folder.with_suffix(".seen")


@dataclass(frozen=True, slots=True)
class Opened:
    """What is served: its renderer, and its files. The files are None if only torch can compute the model.

    Attributes:
        key: equal for all that can be served on one base.
        find: gives the renderer. The call imports what renders, so an engine is started before. What comes
            out of the cache has neither transformers' config nor its tokenizer.
    """

    key: str
    sizes: Sizes
    files: Files | None
    find: Callable[[], Found]


@dataclass(frozen=True, slots=True)
class Card:
    """What the cache keeps beside the files. fingerprint, stop_ids: as in `BaseSpec`."""

    key: str
    fingerprint: str
    stop_ids: list[int]
    sizes: dict[str, int]


def key_of(found: Found) -> str:
    """`base_key` of what was found."""
    own = _content(found.folder) if found.full and found.folder is not None else ""
    return base_key(found.spec, _held(found), own)


def kept(place: Place) -> Opened | None:
    """What the cache has of this content; None if a file is missing there, or isn't as it was written."""
    try:
        base = _base_of(place)
        folder = _folder_of(place, base)
        return _read(place, base, folder) if folder.is_dir() else None
    except (SapwoodError, OSError, ValueError, KeyError, TypeError):
        return None  # `made` finds the fault again, and tells it


def made(place: Place, found: Found) -> Opened:
    """The same as `kept` gives, made of what lies at ``place``.

    Raises:
        Unfit: the architecture or the kind of adapter is none of llama.cpp's.
        ModelError, StorageError: the adapter is damaged, or the disk refused.
    """
    folder = _folder_of(place, _base_of(place))
    base = base_file(found.spec.path, _held(found), key_of(found), full=found.full)
    if base != found.spec.path and not sound(base):
        base.unlink(missing_ok=True)
    if folder.is_dir():
        discard_dir(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _make(found, base, folder)
    except StorageError:
        if not folder.is_dir():  # if it is, another process was faster
            raise
    except OSError as error:
        raise storage_error(error, folder) from None
    opened = _read(place, found.spec.path, folder)
    if opened is None:
        why = "another program changed it meanwhile"
        raise StorageError("the base's file isn't what was written", str(base), why, "start the server again")
    return opened


def by_torch(found: Found) -> Opened:
    """What llama.cpp can't load."""
    return Opened(key_of(found), sizes_of(found.spec.hf_config), None, lambda: found)


# --- the cache --------------------------------------------------------------------------------------------


def _folder_of(place: Place, base: Path) -> Path:
    """The folder's name, by the content of all that it is made of."""
    parts: list[str] = ["" if place.folder is None else _content(place.folder)]
    if place.trained is not None and place.folder is not None:
        run = place.folder.parents[1]
        parts += [file_sha256(run / CONFIG), file_sha256(run / RUN)]
    if not place.whole:
        parts.append(_content(base, READ))
    template = Path(place.facts.template_name) if place.facts is not None else Path()
    if template.is_file():
        parts.append(file_sha256(template))
    return cache_dir() / "serve" / digest(VERSION, *parts)


def _base_of(place: Place) -> Path:
    """Raises ModelError if it isn't there."""
    if place.whole and place.folder is not None:
        return place.folder
    config = place.base_config()
    return resolve(config.model, offline=config.offline)


def _read(place: Place, path: Path, folder: Path) -> Opened | None:
    """``path``: the base's. Raises StorageError if it isn't as it was written."""
    verify_dir(folder)
    card = Card(**json.loads((folder / CARD).read_text(encoding="utf-8")))
    base = base_file(path, _held(place), card.key, full=place.full)
    if base != path and not sound(base):
        return None
    adapter = folder / ADAPTER
    files = Files(base, adapter if adapter.is_file() else None, Reference.read(folder), folder)
    return Opened(card.key, Sizes(**card.sizes), files, cache(partial(_found, place, path, folder, card)))


def _held(one: Place | Found) -> BaseConfig | None:
    """How the base was held while the adapter was trained."""
    return one.facts.base if one.facts is not None and not one.full else None


def _found(place: Place, path: Path, folder: Path, card: Card) -> Found:
    facts = place.facts
    source = facts.base.model if facts is not None and place.whole else place.base_config().model
    spec = BaseSpec(source, path, card.fingerprint, Tokens.read(folder), None, tuple(card.stop_ids))
    return Found(facts, spec, _renderer(facts, spec), place.name, place.folder, place.trained)


def _renderer(facts: AdapterFacts | None, spec: BaseSpec) -> Renderer:
    if facts is None:
        return renderer_of(spec, "auto", None)
    return renderer_of(spec, facts.template_name, facts.clock, facts.meant)


def _content(place: Path, endings: tuple[str, ...] = ()) -> str:
    """A hash over a file, or over those of a folder, with one of the ``endings`` if there are any."""
    if place.is_file():
        return file_sha256(place)
    files = sorted(path for path in place.iterdir() if path.suffix != ".md" and path.is_file())
    wanted = [path for path in files if not endings or path.name.endswith(endings)]
    return digest(*((path.name, file_sha256(path)) for path in wanted))


# --- making ---------------------------------------------------------------------------------------------


def _make(found: Found, base: Path, folder: Path) -> None:
    """Open what was trained, as for an export; write its files, and what it says."""
    from sapwood.adapter.pairs import lora_pairs
    from sapwood.export.gguf_adapter import write_gguf_adapter
    from sapwood.gguf.written import refuse_unwritable
    from sapwood.serve.load import load_found

    try:
        refuse_unwritable(found.spec.text)
    except SapwoodError as error:
        raise Unfit(str(error)) from None
    with doing(f"loading {found.name}"):
        trained = load_found(found, exact=True)
        as_held(trained, _held(found))
    adapted = trained.model is not None
    with staged_dir(folder) as stage, doing(f"writing {found.name} for llama.cpp"):
        try:
            if trained.model is not None:
                lora_pairs(trained.model)
                write_gguf_adapter(trained, stage / ADAPTER)
            if not base.is_file():
                write_base(trained, _held(found), base)
        except SapwoodError as error:
            if isinstance(error, StorageError):
                raise
            raise Unfit(
                error.problems[0].what + (f": {error.problems[0].why}" if error.problems[0].why else "")
            ) from None
        _reference(trained, own_file=base == found.spec.path, adapted=adapted).write(stage)
        _describe(found, stage)


def as_held(trained: Loaded, held: BaseConfig | None) -> None:
    """Round the base's weights as training did: a base in bf16 isn't the same model as its file in fp32.
    Sample answers write the same base into the cache, from weights that are held so."""
    if held is None or held.storage not in ("bf16", "fp16"):
        return
    dtype, adapter = torch_dtype(held.storage), set[int]()
    if trained.model is not None:
        adapter = {id(parameter) for parameter in trained.model.parameters.values()}
    for parameter in trained.base.model.parameters():
        if id(parameter) not in adapter and parameter.dtype == torch_dtype("fp32"):
            parameter.data = parameter.data.to(dtype).to(parameter.dtype)


def _describe(found: Found, stage: Path) -> None:
    """What stands beside the files. Raises Unfit if prompts would become other tokens by it."""
    spec = found.spec
    Tokens.write(spec.tokenizer, stage)
    again = _renderer(found.facts, replace(spec, tokenizer=Tokens.read(stage)))
    timeless = not again.tells_time or again.clock == found.renderer.clock
    if timeless and again.fingerprint != found.renderer.fingerprint:
        raise Unfit("its tokenizer encodes otherwise when it is written and read back")
    card = Card(key_of(found), spec.fingerprint, list(spec.stop_ids), asdict(sizes_of(spec.hf_config)))
    (stage / CARD).write_text(json.dumps(asdict(card)), encoding="utf-8")


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
