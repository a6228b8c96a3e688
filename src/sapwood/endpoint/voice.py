"""Talking to a model by llama.cpp, in one's own terminal: the files that are served, and the same proof."""

from __future__ import annotations

import http.client
import logging
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from sapwood.config.sections import BaseConfig
from sapwood.endpoint.build import Opened, Unfit, kept, made
from sapwood.endpoint.proof import fault_at_first
from sapwood.endpoint.room import SHARE
from sapwood.engine.ask import Asked, running
from sapwood.engine.process import Setup, Started
from sapwood.engine.wire import Ask
from sapwood.errors import ExportError
from sapwood.machine.device import CPU, maybe_gpu
from sapwood.machine.doing import doing
from sapwood.machine.memory import available_memory
from sapwood.serve.found import Found, Place, find_place
from sapwood.serve.session import Voice
from sapwood.serve.settings import Answer, Settings, room_of
from sapwood.template.render import Renderer

if TYPE_CHECKING:
    from sapwood.serve.generate import Watch

LONGEST = 16_384  # tokens that a conversation may have here; less if the model or memory holds less
log = logging.getLogger("sapwood")


@dataclass(frozen=True, slots=True)
class LlamaVoice:
    """llama.cpp as a `session.Voice`."""

    found: Found
    context: int
    adapted: bool
    kind: str
    _asked: Asked

    @property
    def name(self) -> str:
        return self.found.name

    @property
    def system(self) -> str | None:
        return self.found.system

    @property
    def renderer(self) -> Renderer:
        return self.found.renderer

    @property
    def source(self) -> str:
        return self.found.spec.source

    def answer(
        self, prompt: Sequence[int], settings: Settings, *, base: bool = False, watch: Watch | None = None
    ) -> Generator[str, None, Answer]:
        """``watch`` sees nothing: llama.cpp keeps its scores. Raises ConfigError if the prompt fills the
        context, ExportError if llama.cpp ends."""
        began = time.perf_counter()
        ask = Ask(
            prompt,
            room_of(len(prompt), self.context, settings),
            frozenset(self.renderer.stop_ids),
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            seed=settings.seed,
            repetition_penalty=settings.repetition_penalty,
        )
        texts, ids, end = list[str](), list[int](), None
        try:
            with closing(self._asked.stream(ask, base=base)) as pieces:
                for piece in pieces:
                    ids += piece.ids
                    end = piece.end
                    if piece.text:
                        texts.append(piece.text)
                        yield piece.text
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            raise ExportError(
                "llama.cpp ended before its answer was complete", self.name, str(error)
            ) from None
        assert end is not None
        said = tuple(id for id in ids if id not in ask.stop_ids)
        seconds = time.perf_counter() - began
        count = end.tokens - (len(said) < len(ids))
        return Answer("".join(texts), count, end.reason == "stop", len(prompt), seconds, said)


@contextmanager
def open_voice(
    target: str, runs: Path, *, base: str | None = None, template: str | None = None
) -> Generator[Voice]:
    """What ``target`` names, answered by llama.cpp if it can hold it, else by torch. Arguments and errors
    as `serve.load.open_target`."""
    with ExitStack() as stack:
        voice: Voice | None = None
        if template is None and find_spec("xllamacpp") is not None and not maybe_gpu():
            voice = _by_llama(target, runs, base, stack)
        yield voice or _by_torch(target, runs, base, template)


def _by_torch(target: str, runs: Path, base: str | None, template: str | None) -> Voice:
    from sapwood.serve.load import open_target

    with doing(f"loading {target}"):
        return open_target(target, runs, base=base, template=template)


def _by_llama(target: str, runs: Path, base: str | None, stack: ExitStack) -> Voice | None:
    """None if torch has to do it."""
    spare = Started.now()  # it imports llama.cpp while its files are found
    stack.callback(spare.drop)
    place = find_place(target, runs, base)
    try:
        opened = kept(place) or _made(place)
        if opened is None or opened.files is None:
            return None
        files, sizes = opened.files, opened.sizes
        room = int(SHARE * available_memory() / sizes.token_bytes)
        context = max(min(sizes.longest, LONGEST, room), min(512, sizes.longest))
        adapters = (files.adapter,) if files.adapter is not None else ()
        with doing("starting llama.cpp"):
            asked = stack.enter_context(running(Setup(files.base, adapters, context), spare))
        found = opened.find()
        with doing(f"proving {found.name}"):
            fault = fault_at_first(asked, files)
    except (ExportError, OSError, http.client.HTTPException, RuntimeError) as error:
        log.warning("llama.cpp can't answer (%s); torch answers, which is slower", error)
        return None
    if fault:
        log.warning("torch answers, because %s", fault)
        return None
    form = f"from {files.base.name}" if files.base == found.spec.path else "in F16"
    return LlamaVoice(found, context, bool(adapters), f"llama.cpp, {form}", asked)


def _made(place: Place) -> Opened | None:
    """Its files, written now. None if torch is as fast, or llama.cpp can't hold it."""
    from sapwood.answers.fit import why_not
    from sapwood.serve.load import found_at

    found = found_at(place)
    if why := why_not(found.spec, found.held or BaseConfig(model=found.spec.source), CPU):
        log.debug("torch answers: %s", why)
        return None
    try:
        return made(place, found)
    except Unfit as error:
        log.warning("torch answers, because llama.cpp can't hold this model: %s", error)
        return None
