"""What is served: models by name, each proven before it gets one; and why the others have none."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sapwood.adapter.elsewhere.read import is_adapter
from sapwood.endpoint.build import Files, Unfit, base_key, ready_files
from sapwood.endpoint.proof import Verdict, hold
from sapwood.endpoint.room import room_for
from sapwood.endpoint.torch_engine import Torch
from sapwood.engine.llama import Llama
from sapwood.engine.process import Setup, require_llama_cpp
from sapwood.engine.wire import Refused
from sapwood.errors import ConfigError, ExportError, ModelError, Problem, SapwoodError
from sapwood.machine.doing import doing
from sapwood.run.store import RUN
from sapwood.serve.load import MODEL, Found, find_target, load_found

log = logging.getLogger("sapwood")

Engine = Llama | Torch


@dataclass(frozen=True, slots=True)
class Served:
    """A model that has a name.

    Attributes:
        adapter: the file that ``engine`` knows it by; None for the base.
        found: its renderer, system prompt and facts. parent: the base's name, None for the base itself.
        verdict: how near it is to what was trained; None of what runs in torch, which is what was trained.
    """

    name: str
    found: Found
    engine: Engine
    adapter: Path | None
    parent: str | None
    verdict: Verdict | None
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def names(self) -> set[str]:
        """What it answers to: its name, and the id of its run."""
        return {self.name, self.found.name}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person named, perhaps with the name that it is to have."""

    target: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """slots: answers at once, context: tokens of one prompt and its answer; both are found where None.
    most_waiting: callers in the queue. patience: seconds that each may wait."""

    slots: int | None = None
    context: int | None = None
    most_waiting: int = 256
    patience: float = 60.0


class Library:
    """Everything that is served, and what could not be."""

    def __init__(self, runs: Path, limits: Limits, base: str | None = None) -> None:
        self.refused: dict[str, str] = {}
        self.notes: list[str] = []
        self._runs = runs
        self._limits = limits
        self._base = base
        self._key: str | None = None
        self._llama: Llama | None = None
        self._models: dict[str, Served] = {}
        self._changing = asyncio.Lock()

    @property
    def models(self) -> list[Served]:
        """The base first."""
        return sorted(self._models.values(), key=lambda served: served.parent is not None)

    @property
    def engines(self) -> list[Engine]:
        return list({id(served.engine): served.engine for served in self._models.values()}.values())

    def find(self, name: str) -> Served:
        """Raises Refused with every name that there is."""
        for served in self._models.values():
            if name in served.names:
                return served
        names = ", ".join(served.name for served in self.models)
        why = f" ({self.refused[name]})" if name in self.refused else ""
        raise Refused(404, f"no model is called {name!r}{why}; there are: {names}", "model_not_found")

    async def start(self, wanted: Sequence[Wanted]) -> None:
        """Open everything that is named. Raises ModelError with all reasons where nothing can be served."""
        require_llama_cpp("it answers the requests")
        opened: list[tuple[str, Found, Files | None]] = []
        for one in _expanded(wanted, self._runs):
            label = one.name or one.target
            try:
                found = await asyncio.to_thread(find_target, one.target, self._runs, base=self._base_for(one))
                name = self._free_name(one, found, {name for name, _, _ in opened})
                opened.append((name, found, await self._files(name, found)))
            except (SapwoodError, Unfit) as error:
                self._refuse(label, str(error))
        await self._start_llama([(found, files) for _, found, files in opened if files is not None])
        for name, found, files in opened:
            if files is not None and self._llama is None:
                continue  # refused with the reason that the engine gave
            await self._admit(name, found, files)
        await self._admit_base([found for name, found, _ in opened if name in self._models])
        if not self._models:
            raise ModelError([Problem("can't be served", name, why) for name, why in self.refused.items()])

    async def load(self, name: str, target: str) -> Served:
        """Serve one more. Raises SapwoodError or Refused with the reason why not."""
        async with self._changing:
            if any(name in served.names for served in self._models.values()):
                raise Refused(400, f"a model is called {name!r} already", "model_exists")
            if not Path(target).is_dir():  # a name could be a hub's: nobody who asks may make us fetch it
                raise Refused(400, f"{target} is no folder of this machine", "invalid_adapter")
            found = await asyncio.to_thread(find_target, target, self._runs, base=self._base)
            files = await self._files(name, found)
            if files is not None and files.adapter is None:
                raise Refused(400, f"{target} is no adapter", "invalid_adapter")
            if files is not None and files.adapter is not None:
                if self._llama is None:
                    raise Refused(400, "no base is served by llama.cpp here", "invalid_adapter")
                await self._llama.change([*self._loaded(), files.adapter])
            self.refused.pop(name, None)
            await self._admit(name, found, files)
            if name not in self._models:
                raise Refused(400, f"{name} is not served: {self.refused[name]}", "adapter_refused")
            return self._models[name]

    async def unload(self, name: str) -> None:
        """Serve it no longer. Who is being answered by it is let finish."""
        async with self._changing:
            served = self.find(name)
            if served.parent is None:
                raise Refused(400, f"{name} is the base: it stays", "invalid_adapter")
            del self._models[served.name]
            if self._llama is not None and served.engine is self._llama:
                await self._llama.change(self._loaded())
            else:
                await served.engine.stop()

    async def stop(self) -> None:
        for engine in self.engines:
            await engine.stop()
        if self._llama is not None:
            await self._llama.stop()

    # --- inside -------------------------------------------------------------------------------------------

    async def _files(self, name: str, found: Found) -> Files | None:
        """What llama.cpp loads for it; None where torch has to serve it. Raises ModelError for a strange
        base."""
        key = base_key(found)
        if self._key not in (None, key):
            base = self.models[0].found.spec.source if self._models else "the first one's"
            raise ModelError(
                f"{name} was trained on another base, or on the same one held otherwise",
                str(found.folder or found.spec.path),
                f"one endpoint serves one base ({base})",
                "serve it by a second `sapwood serve` on another port",
            )
        try:
            files = await asyncio.to_thread(ready_files, found)
        except Unfit as error:
            self.notes.append(f"{name} is served by torch, slower, because llama.cpp can't load it: {error}")
            files = None
        self._key = key
        return files

    async def _start_llama(self, opened: Sequence[tuple[Found, Files]]) -> None:
        """All adapters at once; where that fails, without those that llama.cpp refuses alone."""
        if not opened:
            return
        adapters = dict.fromkeys(files.adapter for _, files in opened if files.adapter is not None)
        room = room_for(opened[0][0].spec.hf_config, self._limits.context, self._limits.slots)
        setup = Setup(opened[0][1].base, tuple(adapters), *room)
        try:
            with doing("starting llama.cpp"):
                self._llama = await self._started(setup)
            return
        except ExportError as error:
            whole = str(error)
        fit: list[Path] = []
        for adapter in setup.adapters:
            with contextlib.suppress(ExportError):
                alone = await self._started(replace(setup, adapters=(adapter,), slots=1))
                await alone.stop()
                fit.append(adapter)
        try:
            self._llama = await self._started(replace(setup, adapters=tuple(fit)))
        except ExportError:
            self._refuse("the base", whole)

    async def _started(self, setup: Setup) -> Llama:
        llama = Llama(setup, self._limits.most_waiting, self._limits.patience)
        try:
            await llama.start()
        except ExportError:
            await llama.stop()
            raise
        return llama

    async def _admit(self, name: str, found: Found, files: Files | None) -> None:
        """Prove it, and give it its name; or say why not."""
        parent = None if found.bare or found.whole else found.spec.source
        if files is None:
            try:
                loaded = await asyncio.to_thread(load_found, found)
            except SapwoodError as error:
                self._refuse(name, str(error))
                return
            engine = Torch(loaded, self._limits.most_waiting, self._limits.patience)
            self._models[name] = Served(name, found, engine, None, parent, None)
            return
        assert self._llama is not None
        if files.adapter is not None and files.adapter not in self._llama.setup.adapters:
            self._refuse(name, "llama.cpp refuses its file")
            return
        try:
            with doing(f"proving {name}"):
                verdict = await hold(self._llama, files.adapter, files.reference)
        except Refused as error:  # tokens that the base's file hasn't
            self._refuse(name, error.message)
            return
        if verdict.fault:
            self._refuse(name, verdict.fault)
            return
        self._models[name] = Served(name, found, self._llama, files.adapter, parent, verdict)

    async def _admit_base(self, found: Sequence[Found]) -> None:
        """The base beside its adapters, rendered by its own template, or else by the first adapter's."""
        parents = [served for served in self._models.values() if served.parent is not None]
        if not parents or self._llama is None:
            return
        name = str(parents[0].parent)
        try:
            bare = await asyncio.to_thread(found[0].alone)
        except SapwoodError:
            bare = replace(found[0], facts=None, name=name, folder=None, foreign=None)
        self._models[name] = Served(name, bare, self._llama, None, None, parents[0].verdict)

    def _loaded(self) -> list[Path]:
        """The adapters that have a name, in an order that stays."""
        mine = [served for served in self._models.values() if served.engine is self._llama]
        return list(dict.fromkeys(served.adapter for served in mine if served.adapter is not None))

    def _refuse(self, name: str, why: str) -> None:
        log.warning("%s is not served: %s", name, why)
        self.refused[name] = why

    def _base_for(self, wanted: Wanted) -> str | None:
        return self._base if self._base != wanted.target else None

    def _free_name(self, wanted: Wanted, found: Found, taken: set[str]) -> str:
        name = wanted.name or short_name(found)
        return found.name if name in taken and wanted.name is None else name


def short_name(found: Found) -> str:
    """A run's name without the date and the digits of its folder; a folder's last name; a base as named."""
    if found.bare:
        return found.name
    last = Path(found.name).name or found.name
    return re.sub(r"^\d{8}-\d{6}-(.+?)-[0-9a-f]{4}\b", r"\1", last)


def parse_wanted(words: Iterable[str]) -> list[Wanted]:
    """``NAME=TARGET`` or ``TARGET``. Raises ConfigError for a name that is given twice."""
    found: list[Wanted] = []
    for word in words:
        name, sign, target = word.partition("=")
        named = bool(sign) and bool(re.fullmatch(r"[\w.:@-]+", name)) and not Path(word).exists()
        found.append(Wanted(target, name) if named else Wanted(word))
    names = [one.name for one in found if one.name is not None]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"{min(twice)} is given twice", "serve", mend="give each another name")
    return found


def _expanded(wanted: Sequence[Wanted], runs: Path) -> list[Wanted]:
    """A folder of runs or adapters stands for all of them."""
    found: list[Wanted] = []
    for one in wanted:
        path = Path(one.target)
        if one.name is not None or not path.is_dir() or _is_one(path):
            found.append(one)
            continue
        inside = [child for child in sorted(path.iterdir()) if child.is_dir() and _is_one(child)]
        found += [Wanted(str(child)) for child in inside] or [one]
    return found


def _is_one(path: Path) -> bool:
    return (path / RUN).is_file() or (path / MODEL).is_file() or is_adapter(path)


def described(served: Served) -> dict[str, Any]:
    """What ``/v1/models`` tells of it beside OpenAI's own fields."""
    found, facts, verdict = served.found, served.found.facts, served.verdict
    told: dict[str, Any] = {"engine": served.engine.kind, "max_model_len": served.engine.context}
    if facts is not None:
        told["trained"] = {
            "base_fingerprint": facts.base_fingerprint,
            "template_fingerprint": facts.template_fingerprint,
            "data_sha256": facts.data_sha256 or None,
            "method": facts.lora.get("method"),
            "rank": facts.lora.get("rank"),
            "held_out_loss": facts.final_loss,
            "run": found.name,
        }
    if verdict is not None and served.parent is not None:
        told["proof"] = {
            "difference": verdict.difference, "limit": verdict.limit, "positions": verdict.positions,
            "moved_from_base": verdict.moved,
        }  # fmt: skip
    return told
