"""A conversation with a model. `Renderer.prompt_ids`, which training was proved with, says what is sent."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from sapwood.errors import ConfigError
from sapwood.serve.generate import Answer, Settings, Watch, context_length, stream
from sapwood.serve.load import Loaded
from sapwood.types import Message


class ChatSession:
    """A conversation and its history.

    Args:
        system: the system prompt; None takes the one that the adapter was trained with, "" none at all.

    Attributes:
        messages: what was said so far, the system prompt first. An answer that was stopped half-way is kept
            as far as it was written.
        last: the last answer that came to its end.
        watch: sees the scores behind each token, where somebody wants to.
    """

    def __init__(self, loaded: Loaded, settings: Settings, system: str | None = None) -> None:
        self.loaded = loaded
        self.settings = settings
        self.system = loaded.system if system is None else system
        self.messages: list[Message] = []
        self.last: Answer | None = None
        self.watch: Watch | None = None
        self._asked = 0
        self.reset()

    def say(self, text: str) -> Generator[str, None, Answer]:
        """Yield the answer piece by piece and return it; question and answer join the history.

        Raises ConfigError where the conversation fills the model's context: nothing is dropped silently.
        """
        question = Message("user", text)
        prompt = self._prompt(question)
        self._asked += 1
        # each answer draws anew, and the session as a whole repeats
        settings = replace(self.settings, seed=(self.settings.seed + self._asked - 1) % 2**64)
        written: list[str] = []
        try:
            self.last = yield from _noted(self._stream(prompt, settings), written)
        except BaseException:  # stopped by a person, or failed: what was seen is what was said
            if written:
                self._remember(question, "".join(written))
            raise
        self._remember(question, self.last.text)
        return self.last

    def say_as_base(self, text: str) -> Generator[str, None, Answer]:
        """What the base alone would answer here; the history stays as it is."""
        prompt = self._prompt(Message("user", text))
        return (yield from self._stream(prompt, self.settings, base=True))

    def reset(self) -> None:
        """Forget everything but the system prompt."""
        self.messages = [Message("system", self.system)] if self.system else []

    def undo(self) -> bool:
        """Take back the last question and its answer; False where there is none."""
        asked = [i for i, message in enumerate(self.messages) if message.role == "user"]
        if asked:
            del self.messages[asked[-1] :]
        return bool(asked)

    def _remember(self, question: Message, answer: str) -> None:
        self.messages += [question, Message("assistant", answer)]

    def _prompt(self, question: Message) -> list[int]:
        ids = self.loaded.renderer.prompt_ids([*self.messages, question])
        limit = context_length(self.loaded.network)
        if limit is not None and len(ids) >= limit:
            raise ConfigError(
                f"the conversation has {len(ids):,} tokens",
                "chat",
                f"the model holds {limit:,}, answer included; nothing was dropped",
                "/undo takes back a turn, /reset begins anew",
            )
        return ids

    def _stream(
        self, prompt: list[int], settings: Settings, *, base: bool = False
    ) -> Generator[str, None, Answer]:
        loaded = self.loaded
        with loaded.without_adapter() if base else nullcontext():
            stop_ids = loaded.renderer.stop_ids
            return (
                yield from stream(loaded.network, loaded.tokenizer, prompt, stop_ids, settings, self.watch)
            )


def compare(
    loaded: Loaded, text: str, settings: Settings, system: str | None = None
) -> tuple[Answer, Answer]:
    """The base's answer and the adapter's to the same prompt. Raises ConfigError without an adapter."""
    require_adapter(loaded)
    session = ChatSession(loaded, settings, system)
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
        answering.close()  # at once, also where ``show`` was interrupted


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


def require_adapter(loaded: Loaded) -> None:
    if loaded.model is None:
        raise ConfigError(
            "nothing to compare with",
            loaded.name,
            "a base model alone has no adapter",
            "name a run or an adapter",
        )
