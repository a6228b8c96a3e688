"""`sapwood chat`: one question, or a conversation in the terminal or through a pipe."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from json import dumps
from typing import Any, TextIO

from sapwood.errors import ConfigError, SapwoodError
from sapwood.serve.session import ChatSession, Voice, compare, drain, require_adapter
from sapwood.serve.settings import Answer, Settings
from sapwood.serve.terminal import read_line, visible
from sapwood.show.manner import colours

__all__ = ["ChatSession", "compare", "run_chat"]

LEAVE = ("bye", "quit", "exit")
HELP = """\
/help          this list
/reset         begin anew; the system prompt stays
/undo          take back the last question and its answer
/system TEXT   set the system prompt and begin anew; without TEXT, none
/compare       show the base's answer before each of the adapter's, on or off
/bye           leave, as /quit, /exit and Ctrl-D do
//text         ask something that begins with a slash
A backslash at the end of a line continues it on the next. Ctrl-C stops an answer."""


def run_chat(
    voice: Voice,
    settings: Settings,
    *,
    system: str | None,
    prompt: str | None,
    compare: bool,
    json: bool,
    stdin: TextIO,
    stdout: TextIO,
) -> int:
    """`sapwood chat`: one answer if ``prompt`` is given, else a conversation until the input ends.

    A person at a terminal sees pieces as they come and a line of figures after each answer; into a pipe go
    the answers alone, or with ``json`` an object a line. Returns the exit code.

    Raises SapwoodError. At a terminal the error is shown instead, and the conversation goes on.
    """
    if compare:
        require_adapter(voice)
    shell = _Shell(ChatSession(voice, settings, system), compare, json, stdin, stdout)
    if prompt is not None:
        shell.answer(prompt, figures=False)
        return 0
    return shell.run()


@dataclass(slots=True)
class _Shell:
    """The conversation in a terminal or through a pipe."""

    session: ChatSession
    compare: bool
    json: bool
    stdin: TextIO
    stdout: TextIO

    @property
    def watched(self) -> bool:
        """Whether a person reads and writes: input and output are a terminal."""
        return self.stdin.isatty() and self.stdout.isatty()

    def run(self) -> int:
        if self.watched:
            self._welcome()
        while True:
            try:
                text = read_line(self.stdin, self.stdout, "› " if self.watched else "")
                if text is None:
                    return 0
                if not self._take(text):
                    return 0
            except KeyboardInterrupt:
                if not self.watched:
                    raise
                self._say("\n")
                self._dim("Ctrl-D or /bye leaves")

    def answer(self, text: str, figures: bool) -> None:
        """Answer one question, in the form that was asked for."""
        session = self.session
        if self.json:
            base = drain(session.say_as_base(text)) if self.compare else None
            self._print_json(text, base, drain(session.say(text)))
            return
        if self.compare:
            self._title(f"base {session.voice.source}")
            self._figures(self._show(session.say_as_base(text)), figures)
            self._title(f"adapter {session.voice.name}")
        self._figures(self._show(session.say(text)), figures)

    def _take(self, text: str) -> bool:
        """Obey a command or answer a question; False to leave."""
        if not text.strip():
            return True
        try:
            if text.startswith("/") and not text.startswith("//"):
                return self._command(text)
            self._answer_or_stop(text.removeprefix("/") if text.startswith("//") else text)
        except SapwoodError as error:
            if not self.watched:
                raise
            self._say(f"{visible(str(error))}\n")
        return True

    def _answer_or_stop(self, text: str) -> None:
        try:
            self.answer(text, figures=self.watched)
        except KeyboardInterrupt:
            if not self.watched:
                raise
            self._say("\n")
            self._dim("stopped by you; what was written stays in the conversation")

    def _command(self, text: str) -> bool:
        name, _, rest = text[1:].partition(" ")
        if name in LEAVE:
            return False
        known: Mapping[str, Callable[[str], str]] = {
            "help": lambda _: HELP,
            "reset": self._reset,
            "undo": lambda _: "took the last turn back" if self.session.undo() else "nothing to take back",
            "system": self._set_system,
            "compare": self._toggle_compare,
        }
        obey = known.get(name)
        reply = obey(rest.strip()) if obey else f"no command is called /{visible(name)}; /help lists them"
        if self.watched:
            self._dim(reply)
        elif obey is None:
            raise ConfigError(reply, "chat", mend="a question that begins with a slash is written //")
        return True

    def _reset(self, _: str) -> str:
        self.session.reset()
        return "a new conversation"

    def _set_system(self, text: str) -> str:
        self.session.system = text
        self.session.reset()
        return f"a new conversation, system prompt: {visible(text) or 'none'}"

    def _toggle_compare(self, _: str) -> str:
        require_adapter(self.session.voice)
        self.compare = not self.compare
        return f"compare is {'on' if self.compare else 'off'}"

    def _show(self, answering: Generator[str, None, Answer]) -> Answer:
        answer = drain(answering, lambda piece: self._say(visible(piece) if self.stdout.isatty() else piece))
        self._say("\n")
        return answer

    def _print_json(self, prompt: str, base: Answer | None, tuned: Answer) -> None:
        facts: dict[str, Any] = {"target": self.session.voice.name, "prompt": prompt}
        facts |= _facts(tuned) if base is None else {"base": _facts(base), "adapter": _facts(tuned)}
        self._say(dumps(facts, ensure_ascii=False) + "\n")

    def _figures(self, answer: Answer, wanted: bool) -> None:
        if wanted:
            end = "stopped by itself" if answer.stopped else f"cut at {answer.num_tokens} tokens"
            self._dim(f"{answer.num_tokens} tokens · {_rate(answer):.1f} tokens/s · {end}")

    def _welcome(self) -> None:
        voice = self.session.voice
        self._dim(f"{visible(voice.name)} · {visible(voice.source)} · answers by {voice.kind}")
        if self.session.system:
            self._dim(f"system: {visible(self.session.system)}")
        self._dim("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves")

    def _title(self, text: str) -> None:
        self._say(f"{visible(text)}:\n")

    def _dim(self, text: str) -> None:
        self._say(f"\x1b[2m{text}\x1b[0m\n" if colours(self.stdout) else f"{text}\n")

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()


def _facts(answer: Answer) -> dict[str, Any]:
    return {
        "answer": answer.text,
        "tokens": answer.num_tokens,
        "prompt_tokens": answer.prompt_tokens,
        "stopped": answer.stopped,
        "seconds": round(answer.seconds, 3),
        "tokens_per_second": round(_rate(answer), 1),
    }


def _rate(answer: Answer) -> float:
    return answer.num_tokens / answer.seconds if answer.seconds > 0 else 0.0
