"""Many answers of a loaded model, with its adapter and without.

    with speaking(loaded, held, prompts, settings) as speaker:
        tuned, base = speaker.answers("the adapter"), speaker.answers("the base", base=True)

llama.cpp lives as long as the block, so that nothing of it computes beside a training's steps.
"""

from __future__ import annotations

import http.client
import logging
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from sapwood.answers.files import base_file, base_key, sound, write_base
from sapwood.answers.fit import why_not_adapter, why_not_many
from sapwood.answers.sizes import sizes_of
from sapwood.config.sections import BaseConfig
from sapwood.engine.ask import Asked, running
from sapwood.engine.process import Setup
from sapwood.errors import ExportError, SapwoodError
from sapwood.machine.doing import doing
from sapwood.machine.system import cores
from sapwood.serve.generate import answer_batch, context_of
from sapwood.serve.load import Loaded
from sapwood.serve.settings import Answer, Settings, room_of
from sapwood.serve.text import TextStream

SLOTS = 16  # answers at once
HELD = 16_384  # tokens of all slots together
TORCH = "torch"

log = logging.getLogger("sapwood")
Tell = Callable[[int], object]


def llama_name() -> str:
    """What a run records of who answered."""
    return f"llama.cpp {version('xllamacpp')}"


@dataclass(slots=True)
class Speaker:
    """Answers the same prompts as often as it is asked. ``kind``: the program that answers."""

    kind: str
    loaded: Loaded
    prompts: Sequence[Sequence[int]]
    settings: Settings
    llama: Asked | None = None

    def answers(self, whose: str, *, base: bool = False) -> list[Answer]:
        """``whose``: for a person who waits. base: by the base alone. Errors as `generate.answer_batch`."""
        with doing(f"{len(self.prompts)} answers of {whose} by {self.kind}") as far:
            if self.llama is not None:
                try:
                    return self._by_llama(self.llama, base, lambda done: far(f"{done}/{len(self.prompts)}"))
                except (OSError, http.client.HTTPException, RuntimeError) as error:
                    _given_up(error)
                    self.llama, self.kind = None, TORCH
            return self._by_torch(base, lambda done: far(f"{done}/{len(self.prompts)}"))

    def _by_llama(self, llama: Asked, base: bool, far: Tell) -> list[Answer]:
        began = time.perf_counter()
        told = llama.answers(self.prompts, self.settings.max_new_tokens, base=base, far=far)
        seconds = time.perf_counter() - began
        pairs = zip(self.prompts, told, strict=True)
        return [_answer(self.loaded, prompt, ids, seconds) for prompt, ids in pairs]

    def _by_torch(self, base: bool, far: Tell) -> list[Answer]:
        loaded = self.loaded
        stops = loaded.renderer.stop_ids
        with loaded.without_adapter() if base else ExitStack():
            return answer_batch(loaded.network, loaded.tokenizer, self.prompts, stops, self.settings, far=far)


@contextmanager
def speaking(
    loaded: Loaded,
    held: BaseConfig | None,
    prompts: Sequence[Sequence[int]],
    settings: Settings,
    *,
    threads: int | None = None,
    by: str | None = None,
) -> Generator[Speaker]:
    """Greedy answers to ``prompts``, by llama.cpp if it can hold the model, else by torch.

    Args:
        held: how the base's weights are held, with no ``auto`` left; None if nobody knows.
        by: who answers, if that is settled: a run says it once, so that resuming changes nothing.

    Raises ConfigError if a prompt fills the model's context.
    """
    context = context_of(loaded.network)
    for prompt in prompts:
        room_of(len(prompt), context, settings)
    speaker = Speaker(TORCH, loaded, prompts, settings)
    with ExitStack() as stack:
        why = _why_torch(loaded, held, by) if prompts else TORCH
        if not why and held is not None:
            try:
                setup = _setup(loaded, held, prompts, settings, threads or cores(), stack)
                with doing("starting llama.cpp"):
                    speaker.llama = stack.enter_context(running(setup))
                speaker.kind = "llama.cpp"
            except (SapwoodError, OSError) as error:
                _given_up(error)
        elif why:
            log.debug("torch answers: %s", why)
        yield speaker


def _why_torch(loaded: Loaded, held: BaseConfig | None, by: str | None) -> str:
    if by is not None and not by.startswith("llama.cpp"):
        return by
    own = why_not_adapter(loaded.model)
    return own or (why_not_many(loaded.base.spec, held, loaded.base.device) if by is None else "")


def _setup(
    loaded: Loaded,
    held: BaseConfig,
    prompts: Sequence[Sequence[int]],
    settings: Settings,
    threads: int,
    stack: ExitStack,
) -> Setup:
    """The files, and room for the longest prompt with its answer in each slot."""
    from sapwood.export.gguf_adapter import write_gguf_adapter

    spec = loaded.base.spec
    base = base_file(spec.path, held, base_key(spec, held))
    if base != spec.path and not sound(base):
        with doing("writing the base for llama.cpp"):
            write_base(loaded, held, base)
    adapters: tuple[Path, ...] = ()
    if loaded.model is not None:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sapwood-answers-"))
        adapters = (Path(folder) / "adapter.gguf",)
        write_gguf_adapter(loaded, adapters[0])
    longest = max(map(len, prompts)) + settings.max_new_tokens
    context = min(longest, sizes_of(spec.hf_config).longest)
    # decided by the prompts alone: a resumed run must divide them in the same way
    slots = max(1, min(SLOTS, len(prompts), HELD // context))
    return Setup(base, adapters, context, slots, threads)


def _answer(loaded: Loaded, prompt: Sequence[int], told: Sequence[int], seconds: float) -> Answer:
    stops = frozenset(loaded.renderer.stop_ids)
    end = next((i for i, id in enumerate(told) if id in stops), len(told))
    writer = TextStream(loaded.tokenizer)
    for id in told[:end]:
        writer.push(id)
    stopped = end < len(told)
    writer.flush(cut=not stopped)
    return Answer(writer.text, end, stopped, len(prompt), seconds, tuple(told[:end]))


def _given_up(error: Exception) -> None:
    why = error.problems[0].why if isinstance(error, ExportError) else str(error)
    log.warning("llama.cpp can't answer (%s); torch does, slower", why)
