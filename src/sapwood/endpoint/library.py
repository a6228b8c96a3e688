"""What is served: models by name. A model is proven before it gets a name; the others have a reason
instead."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from sapwood.endpoint.build import Opened, Unfit, by_torch, kept, key_of, made
from sapwood.endpoint.proof import Verdict, hold
from sapwood.endpoint.room import room_for
from sapwood.endpoint.wanted import Wanted, expanded, short_name
from sapwood.engine.llama import Llama
from sapwood.engine.process import Setup, Started, require_llama_cpp
from sapwood.engine.wire import Refused
from sapwood.errors import ExportError, ModelError, Problem, SapwoodError
from sapwood.machine.doing import doing
from sapwood.serve.found import Found, Place, find_place

if TYPE_CHECKING:
    from sapwood.endpoint.torch_engine import Torch

log = logging.getLogger("sapwood")

Engine: TypeAlias = "Llama | Torch"


@dataclass(frozen=True, slots=True)
class Served:
    """A model that has a name.

    Attributes:
        adapter: the file that ``engine`` knows it by; None for the base.
        found: its renderer, system prompt and facts. parent: the base's name, None for the base itself.
        verdict: how near the engine is to what was trained; None if torch computes, which also trained.
        vocabulary: how many tokens there are.
    """

    name: str
    found: Found
    engine: Engine
    adapter: Path | None
    parent: str | None
    verdict: Verdict | None
    vocabulary: int
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def names(self) -> set[str]:
        """What it answers to: its name, and the id of its run."""
        return {self.name, self.found.name}


@dataclass(frozen=True, slots=True)
class Limits:
    """slots: answers at once, context: tokens of one prompt and its answer; both are found if None.
    most_waiting: callers in the queue. patience: seconds that each may wait."""

    slots: int | None = None
    context: int | None = None
    most_waiting: int = 256
    patience: float = 60.0


class Library:
    """Everything that is served, and what could not be."""

    def __init__(
        self,
        runs: Path,
        limits: Limits,
        base: str | None = None,
        meanwhile: Callable[[Found], Any] = lambda _: None,
        spare: Started | None = None,
    ) -> None:
        """``meanwhile``: called for each model in a thread, while llama.cpp starts and is asked.
        ``spare``: a process for llama.cpp that was started already."""
        self.refused: dict[str, str] = {}
        self.notes: list[str] = []
        self._runs = runs
        self._limits = limits
        self._base = base
        self._meanwhile = meanwhile
        self._spare = spare
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
        """Open everything that is named. Raises ModelError with all reasons if nothing can be served."""
        require_llama_cpp("it answers the requests")
        opened: dict[str, Opened] = {}
        for one in expanded(wanted, self._runs):
            try:
                place = await asyncio.to_thread(find_place, one.target, self._runs, self._base_for(one))
                name = self._free_name(one, place, opened.keys())
                opened[name] = await self._open(name, place)
            except SapwoodError as error:
                self._refuse(one.name or one.target, str(error))
        preparing = asyncio.create_task(asyncio.to_thread(self._prepare, list(opened.values())))
        await self._start_llama(list(opened.values()))
        if self._spare is not None:
            self._spare.drop()
        verdicts = {name: await self._proven(name, one) for name, one in opened.items()}
        await preparing
        for name, one in opened.items():
            await self._admit(name, one, verdicts[name])
        await self._admit_base([one.find() for name, one in opened.items() if name in self._models])
        if not self._models:
            raise ModelError([Problem("can't be served", name, why) for name, why in self.refused.items()])

    async def load(self, name: str, target: str) -> Served:
        """Serve one more. Raises SapwoodError or Refused with the reason why not."""
        async with self._changing:
            if any(name in served.names for served in self._models.values()):
                raise Refused(400, f"a model is called {name!r} already", "model_exists")
            if not Path(target).is_dir():  # a name could be a hub's: no client may cause a download
                raise Refused(400, f"{target} is no folder of this machine", "invalid_adapter")
            place = await asyncio.to_thread(find_place, target, self._runs, self._base)
            opened = await self._open(name, place)
            files = opened.files
            if files is not None and files.adapter is None:
                raise Refused(400, f"{target} is no adapter", "invalid_adapter")
            if files is not None and files.adapter is not None:
                if self._llama is None:
                    raise Refused(400, "no base is served by llama.cpp here", "invalid_adapter")
                await self._llama.change([*self._loaded(), files.adapter])
            self.refused.pop(name, None)
            await self._admit(name, opened, await self._proven(name, opened))
            if name not in self._models:
                raise Refused(400, f"{name} is not served: {self.refused[name]}", "adapter_refused")
            return self._models[name]

    async def unload(self, name: str) -> None:
        """Serve a model no longer. Answers that it is writing are finished."""
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
        if self._spare is not None:
            self._spare.drop()
        for engine in self.engines:
            await engine.stop()
        if self._llama is not None:
            await self._llama.stop()

    # --- inside -------------------------------------------------------------------------------------------

    async def _open(self, name: str, place: Place) -> Opened:
        """The model's files, out of the cache or made anew. Raises SapwoodError if an adapter is damaged, or
        isn't for the base that is served."""
        opened = await asyncio.to_thread(kept, place)
        if opened is None:
            opened = await self._made(name, place)
        self._refuse_strange(name, opened.key, place)
        self._key = opened.key
        return opened

    async def _made(self, name: str, place: Place) -> Opened:
        from sapwood.serve.load import found_at

        found = await asyncio.to_thread(found_at, place)
        self._refuse_strange(name, await asyncio.to_thread(key_of, found), place)
        try:
            return await asyncio.to_thread(made, place, found)
        except Unfit as error:
            self.notes.append(f"{name} is served by torch, slower, because llama.cpp can't load it: {error}")
            return await asyncio.to_thread(by_torch, found)

    def _refuse_strange(self, name: str, key: str, place: Place) -> None:
        if self._key in (None, key):
            return
        base = self.models[0].found.spec.source if self._models else "the first one's"
        raise ModelError(
            f"{name} was trained on another base, or on this base in another storage",
            str(place.folder or place.name),
            f"one endpoint serves one base ({base})",
            "serve it by a second `sapwood serve` on another port",
        )

    async def _start_llama(self, opened: Sequence[Opened]) -> None:
        """Start llama.cpp with all adapters. If that fails, leave out the adapters that llama.cpp refuses."""
        files = [one.files for one in opened if one.files is not None]
        if not files:
            return
        adapters = dict.fromkeys(one.adapter for one in files if one.adapter is not None)
        room = room_for(opened[0].sizes, self._limits.context, self._limits.slots)
        setup = Setup(files[0].base, tuple(adapters), *room)
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

    def _prepare(self, opened: Sequence[Opened]) -> None:
        """Prepare what is needed later, while llama.cpp reads its files."""
        for one in opened:
            with contextlib.suppress(SapwoodError):  # said when it is asked for
                self._meanwhile(one.find())

    async def _started(self, setup: Setup) -> Llama:
        spare, self._spare = self._spare, None
        llama = Llama(setup, self._limits.most_waiting, self._limits.patience, spare)
        try:
            await llama.start()
        except ExportError:
            await llama.stop()
            raise
        return llama

    async def _admit(self, name: str, opened: Opened, verdict: Verdict | None) -> None:
        """Give a model its name, unless it was refused."""
        files = opened.files
        if files is None:
            await self._admit_torch(name, opened)
            return
        if verdict is None or self._llama is None:
            return
        try:
            found = await asyncio.to_thread(opened.find)
        except SapwoodError as error:
            self._refuse(name, str(error))
            return
        size = opened.sizes.vocabulary
        self._models[name] = Served(name, found, self._llama, files.adapter, _parent(found), verdict, size)

    async def _proven(self, name: str, opened: Opened) -> Verdict | None:
        """How near the engine is to what was trained. None: the model is refused, or llama.cpp doesn't
        compute it."""
        files, engine = opened.files, self._llama
        if files is None or engine is None:
            return None
        if files.adapter is not None and files.adapter not in engine.setup.adapters:
            self._refuse(name, "llama.cpp refuses its file")
            return None
        try:
            with doing(f"proving {name}"):
                verdict = await hold(engine, files)
        except Refused as error:  # the adapter has tokens that the base's file doesn't have
            self._refuse(name, error.message)
            return None
        if verdict.fault:
            self._refuse(name, verdict.fault)
            return None
        return verdict

    async def _admit_torch(self, name: str, opened: Opened) -> None:
        from sapwood.endpoint.torch_engine import Torch
        from sapwood.serve.load import load_found

        found = opened.find()
        try:
            loaded = await asyncio.to_thread(load_found, found)
        except SapwoodError as error:
            self._refuse(name, str(error))
            return
        engine = Torch(loaded, self._limits.most_waiting, self._limits.patience)
        size = opened.sizes.vocabulary
        self._models[name] = Served(name, found, engine, None, _parent(found), None, size)

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
        first = parents[0]
        self._models[name] = Served(name, bare, self._llama, None, None, first.verdict, first.vocabulary)

    def _loaded(self) -> list[Path]:
        """The adapters that have a name, always in the same order."""
        mine = [served for served in self._models.values() if served.engine is self._llama]
        return list(dict.fromkeys(served.adapter for served in mine if served.adapter is not None))

    def _refuse(self, name: str, why: str) -> None:
        log.warning("%s is not served: %s", name, why)
        self.refused[name] = why

    def _base_for(self, wanted: Wanted) -> str | None:
        return self._base if self._base != wanted.target else None

    def _free_name(self, wanted: Wanted, place: Place, taken: Collection[str]) -> str:
        name = wanted.name or short_name(place)
        return place.name if name in taken and wanted.name is None else name


def _parent(found: Found) -> str | None:
    return None if found.bare or found.full else found.spec.source
