"""A conversation with a model. `Renderer.prompt_ids`, which training was proved with, says what is sent."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from sapwood.errors import ConfigError
from sapwood.serve.settings import Answer, Settings
from sapwood.template.render import Renderer
from sapwood.types import Message

if TYPE_CHECKING:
    from sapwood.serve.generate import Watch


class Voice(Protocol):
    """A model that answers, by torch (`load.Loaded`) or by llama.cpp.

    Attributes:
        name, system, renderer: as in `load.Loaded`. source: the base, as the user wrote it.
        kind: the program that computes, and the form of its weights. context: tokens of a prompt and its
        answer, if there is a limit. adapted: there is an adapter, so that the base can answer too.
    """

    @property
    def name(self) -> str: ...
    @property
    def system(self) -> str | None: ...
    @property
    def renderer(self) -> Renderer: ...
    @property
    def source(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def context(self) -> int | None: ...
    @property
    def adapted(self) -> bool: ...
    def answer(
        self, prompt: Sequence[int], settings: Settings, *, base: bool = False, watch: Watch | None = None
    ) -> Generator[str, None, Answer]:
        """Yield the answer piece by piece, and return it. ``base``: by the base alone. ``watch``: as in
        `generate.stream`."""
        ...


class ChatSession:
    """A conversation and its history.

    Args:
        system: the system prompt; None takes the one that the adapter was trained with, "" none at all.

    Attributes:
        messages: what was said so far, the system prompt first. An answer that was stopped half-way is kept
            as far as it was written.
        last: the last answer that came to its end.
        watch: sees the scores behind each token, if somebody wants to.
    """

    def __init__(self, voice: Voice, settings: Settings, system: str | None = None) -> None:
        self.voice = voice
        self.settings = settings
        self.system = voice.system if system is None else system
        self.messages: list[Message] = []
        self.last: Answer | None = None
        self.watch: Watch | None = None
        self._asked = 0
        self.reset()

    def say(self, text: str) -> Generator[str, None, Answer]:
        """Yield the answer piece by piece and return it; question and answer join the history.

        Raises ConfigError if the conversation fills the model's context: nothing is dropped silently.
        """
        question = Message("user", text)
        prompt = self._prompt(question)
        self._asked += 1
        # each answer draws other numbers, and the session as a whole can be repeated
        settings = replace(self.settings, seed=(self.settings.seed + self._asked - 1) % 2**64)
        written: list[str] = []
        try:
            self.last = yield from _noted(self.voice.answer(prompt, settings, watch=self.watch), written)
        except BaseException:  # stopped by a person, or failed: what was shown stays in the history
            if written:
                self._remember(question, "".join(written))
            raise
        self._remember(question, self.last.text)
        return self.last

    def say_as_base(self, text: str) -> Generator[str, None, Answer]:
        """What the base alone would answer here; the history stays as it is."""
        prompt = self._prompt(Message("user", text))
        return (yield from self.voice.answer(prompt, self.settings, base=True, watch=self.watch))

    def reset(self) -> None:
        """Forget everything but the system prompt."""
        self.messages = [Message("system", self.system)] if self.system else []

    def undo(self) -> bool:
        """Take back the last question and its answer; False if there is none."""
        asked = [i for i, message in enumerate(self.messages) if message.role == "user"]
        if asked:
            del self.messages[asked[-1] :]
        return bool(asked)

    def _remember(self, question: Message, answer: str) -> None:
        self.messages += [question, Message("assistant", answer)]

    def _prompt(self, question: Message) -> list[int]:
        ids = self.voice.renderer.prompt_ids([*self.messages, question])
        limit = self.voice.context
        if limit is not None and len(ids) >= limit:
            raise ConfigError(
                f"the conversation has {len(ids):,} tokens",
                "chat",
                f"the model holds {limit:,}, answer included; nothing was dropped",
                "/undo takes back a turn, /reset begins anew",
            )
        return ids


def compare(voice: Voice, text: str, settings: Settings, system: str | None = None) -> tuple[Answer, Answer]:
    """The base's answer and the adapter's to the same prompt. Raises ConfigError without an adapter."""
    require_adapter(voice)
    session = ChatSession(voice, settings, system)
    return drain(session.say_as_base(text)), drain(session.say(text))


def drain(answering: Generator[str, None, Answer], show: Callable[[str], Any] | None = None) -> Answer:
    """Run an answer to its end, passing each piece to ``show``."""
    try:
        while True:
            piece = next(answering)
            if show is not None:
                show(piece)
    except StopIteration as end:
        return end.value
    finally:
        answering.close()  # at once, also if ``show`` was interrupted


def _noted(answering: Generator[str, None, Answer], pieces: list[str]) -> Generator[str, None, Answer]:
    """The same pieces, each also put on ``pieces``."""
    try:
        while True:
            pieces.append(next(answering))
            yield pieces[-1]
    except StopIteration as end:
        return end.value
    finally:
        answering.close()


def require_adapter(voice: Voice) -> None:
    if not voice.adapted:
        raise ConfigError(
            "nothing to compare with",
            voice.name,
            "a base model alone has no adapter",
            "name a run or an adapter",
        )
