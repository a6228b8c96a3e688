"""A conversation: its history, its commands, through a pipe and in a real terminal."""

from __future__ import annotations

import codecs
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sapwood.errors import ConfigError
from sapwood.serve.chat import ChatSession, compare, run_chat
from sapwood.serve.generate import Settings, answer_batch, stream
from sapwood.serve.load import Loaded, open_target
from sapwood.serve.session import drain
from sapwood.serve.terminal import visible
from sapwood.types import Message
from tests.base.tiny import tiny_llama
from tests.serve.tiny_chat import SYSTEM, tiny_chat

SHORT = Settings(max_new_tokens=6)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return tiny_chat(tmp_path_factory.mktemp("chat"))


def said(session: ChatSession, text: str) -> str:
    return drain(session.say(text)).text


def piped(loaded: Loaded, text: str, settings: Settings = SHORT, **changes: Any) -> str:
    """What `run_chat` writes into a pipe for these lines."""
    out = io.StringIO()
    given: dict[str, Any] = {"system": None, "prompt": None, "compare": False, "json": False} | changes
    assert run_chat(loaded, settings, **given, stdin=io.StringIO(text), stdout=out) == 0
    return out.getvalue()


# --- the session ------------------------------------------------------------------------------------------


def test_the_history_is_rendered_as_training_rendered_it(loaded: Loaded) -> None:
    session = ChatSession(loaded, SHORT)
    first, second = said(session, "Why?"), said(session, "And then?")
    assert session.messages == [
        Message("system", SYSTEM),
        Message("user", "Why?"),
        Message("assistant", first),
        Message("user", "And then?"),
        Message("assistant", second),
    ]
    prompt = loaded.renderer.prompt_ids(session.messages[:4])
    wanted = answer_batch(loaded.network, loaded.tokenizer, [prompt], loaded.renderer.stop_ids, SHORT)[0]
    assert session.last is not None and session.last.ids == wanted.ids
    assert session.last.prompt_tokens == len(prompt)


def test_system_prompts_given_replace_the_adapters(loaded: Loaded) -> None:
    assert ChatSession(loaded, SHORT, "Be brief.").messages == [Message("system", "Be brief.")]
    assert ChatSession(loaded, SHORT, "").messages == []


def test_undo_and_reset(loaded: Loaded) -> None:
    session = ChatSession(loaded, SHORT)
    before = said(session, "Why?")
    said(session, "And then?")
    assert session.undo() and [m.content for m in session.messages] == [SYSTEM, "Why?", before]
    assert session.undo() and not session.undo()
    said(session, "Why?")
    session.reset()
    assert session.messages == [Message("system", SYSTEM)]


def test_an_answer_left_half_way_is_kept_as_far_as_it_came(loaded: Loaded) -> None:
    session = ChatSession(loaded, Settings(max_new_tokens=50))
    answering = session.say("Why?")
    heard = next(answering) + next(answering)
    answering.close()
    assert session.messages[1:] == [Message("user", "Why?"), Message("assistant", heard)]
    assert session.last is None


def test_a_conversation_that_fills_the_context_is_an_error_and_nothing_is_dropped(tmp_path: Path) -> None:
    session = ChatSession(tiny_chat(tmp_path, max_position_embeddings=80), Settings(max_new_tokens=20))
    with pytest.raises(ConfigError, match=r"the model holds 80.*nothing was dropped.*/reset"):
        for _ in range(9):
            before = list(session.messages)
            said(session, "Why are the leaves of my pear turning yellow?")
    assert session.messages == before


def test_drawn_answers_differ_from_turn_to_turn_and_repeat_with_the_seed(loaded: Loaded) -> None:
    settings = Settings(max_new_tokens=12, temperature=1.0, seed=4)
    heard: list[list[str]] = []
    for _ in range(2):
        session = ChatSession(loaded, settings)
        heard.append([])
        for _ in range(2):
            heard[-1].append(said(session, "Why?"))
            session.undo()
    assert heard[0] == heard[1] and heard[0][0] != heard[0][1]


def test_compare_gives_the_base_and_the_adapter(loaded: Loaded) -> None:
    base, tuned = compare(loaded, "Why?", SHORT)
    prompt = loaded.renderer.prompt_ids([Message("system", SYSTEM), Message("user", "Why?")])
    assert tuned.ids == drain(stream(loaded.network, loaded.tokenizer, prompt, (2,), SHORT)).ids
    with loaded.without_adapter():
        assert base.ids == drain(stream(loaded.network, loaded.tokenizer, prompt, (2,), SHORT)).ids
    assert base.ids != tuned.ids


def test_a_bare_base_has_nothing_to_compare_with(tmp_path: Path) -> None:
    base = open_target(str(tiny_llama(tmp_path)), tmp_path)
    with pytest.raises(ConfigError, match="no adapter"):
        compare(base, "Why?", SHORT)
    with pytest.raises(ConfigError, match="no adapter"):
        piped(base, "", compare=True)
    with pytest.raises(ConfigError, match="no adapter"):
        piped(base, "/compare\n")


# --- one shot and pipes -----------------------------------------------------------------------------------


def test_one_question_prints_the_answer_only(loaded: Loaded) -> None:
    wanted = said(ChatSession(loaded, SHORT), "Why?")
    assert piped(loaded, "not read\n", prompt="Why?") == wanted + "\n"


def test_one_question_with_facts(loaded: Loaded) -> None:
    facts = json.loads(piped(loaded, "", prompt="Why?", json=True))
    assert facts["answer"] == said(ChatSession(loaded, SHORT), "Why?")
    assert facts["target"] == "tiny" and facts["prompt"] == "Why?"
    assert facts["tokens"] == 6 and facts["stopped"] is False and facts["prompt_tokens"] > 6
    assert facts["seconds"] > 0 and facts["tokens_per_second"] > 0


def test_one_question_compared(loaded: Loaded) -> None:
    base, tuned = compare(loaded, "Why?", SHORT)
    shown = piped(loaded, "", prompt="Why?", compare=True)
    assert shown == f"base {loaded.base.spec.source}:\n{base.text}\nadapter tiny:\n{tuned.text}\n"
    facts = json.loads(piped(loaded, "", prompt="Why?", compare=True, json=True))
    assert facts["base"]["answer"] == base.text and facts["adapter"]["answer"] == tuned.text


def test_each_line_of_a_pipe_is_a_turn(loaded: Loaded) -> None:
    session = ChatSession(loaded, SHORT)
    wanted = [said(session, "Why?"), said(session, "And\nthen?"), said(session, "/ is a slash")]
    assert piped(loaded, "Why?\r\n\n  \nAnd\\\nthen?\n// is a slash") == "".join(f"{w}\n" for w in wanted)
    assert piped(loaded, "cut off\\") == said(ChatSession(loaded, SHORT), "cut off") + "\n"


def test_json_through_a_pipe_is_a_line_for_each_turn(loaded: Loaded) -> None:
    turns = [json.loads(line) for line in piped(loaded, "Why?\nWhen?\n", json=True).splitlines()]
    assert [turn["prompt"] for turn in turns] == ["Why?", "When?"]
    assert turns[1]["prompt_tokens"] > turns[0]["prompt_tokens"]


def test_commands_work_through_a_pipe_and_print_nothing(loaded: Loaded) -> None:
    first = said(ChatSession(loaded, SHORT), "Why?")
    other = said(ChatSession(loaded, SHORT, "Be brief."), "Why?")
    lines = "Why?\n/undo\nWhy?\n/reset\nWhy?\n/help\n/system Be brief.\nWhy?\n/quit\nWhy?\n"
    assert piped(loaded, lines) == f"{first}\n" * 3 + f"{other}\n"
    base, tuned = compare(loaded, "Why?", SHORT)
    assert piped(loaded, "/compare\nWhy?\n/compare\n/reset\nWhy?\n").splitlines()[1:] == [
        base.text,
        "adapter tiny:",
        tuned.text,
        tuned.text,
    ]


@pytest.mark.parametrize("word", ["/quit", "/bye", "/exit"])
def test_one_leaves_by_any_of_the_usual_words(word: str, loaded: Loaded) -> None:
    first = said(ChatSession(loaded, SHORT), "Why?")
    assert piped(loaded, f"Why?\n{word}\nWhy?\n") == f"{first}\n"


def test_an_unknown_command_in_a_pipe_is_an_error(loaded: Loaded) -> None:
    with pytest.raises(ConfigError, match=r"/rset; /help"):
        piped(loaded, "/rset\n")


def test_an_interrupt_ends_a_pipe(loaded: Loaded) -> None:
    class Interrupted(io.StringIO):
        def readline(self, *_: Any) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_chat(
            loaded, SHORT, system=None, prompt=None, compare=False, json=False,
            stdin=Interrupted(), stdout=io.StringIO(),
        )  # fmt: skip


def test_the_real_smollm2_knows_the_capital_and_stops_by_itself(smollm2_spec: Any, tmp_path: Path) -> None:
    chat = open_target(smollm2_spec.source, tmp_path)
    facts = json.loads(piped(chat, "", Settings(), prompt="What is the capital of France?", json=True))
    assert "Paris" in facts["answer"] and facts["stopped"] is True
    assert facts["tokens"] < 40 and "<|im_end|>" not in facts["answer"]


# --- a person at both ends --------------------------------------------------------------------------------


class Screen(io.StringIO):
    """Typed lines, and what is shown: a file that calls itself a terminal."""

    def isatty(self) -> bool:
        return True

    def readline(self, *_: Any) -> str:
        line = super().readline()
        if line == "^C\n":
            raise KeyboardInterrupt
        return line


def watched(loaded: Loaded, typed: str, settings: Settings = SHORT) -> str:
    out = Screen()
    given: dict[str, Any] = {"system": None, "prompt": None, "compare": False, "json": False}
    assert run_chat(loaded, settings, **given, stdin=Screen(typed), stdout=out) == 0
    return out.getvalue()


def test_a_person_sees_who_answers_the_figures_and_the_commands(loaded: Loaded) -> None:
    shown = watched(loaded, "/help\nWhy?\n/reset\n^C\n/compare\n/system\n")
    assert (
        f"tiny · {loaded.base.spec.source} · answers by torch, in fp32" in shown
        and f"system: {SYSTEM}" in shown
    )
    assert "begins with a slash" in shown and "a new conversation" in shown and "compare is on" in shown
    assert "cut at 6 tokens" in shown and "/bye leaves" in shown and "system prompt: none" in shown


def test_colours_are_left_out_on_request(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in watched(loaded, "/help\n")


def test_an_error_is_shown_and_the_conversation_goes_on(tmp_path: Path) -> None:
    chat = tiny_chat(tmp_path, max_position_embeddings=60)
    shown = watched(chat, "tree " * 40 + "\n/rset\nWhy?\n")
    assert "nothing was dropped" in shown and "/help lists them" in shown and "6 tokens · " in shown


def test_control_characters_in_an_answer_do_not_reach_the_terminal(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    escape = loaded.tokenizer.encode("\x1b[31m")[0]
    monkeypatch.setattr("sapwood.serve.choose.Chooser.choose", lambda *_: [escape])
    monkeypatch.setenv("NO_COLOR", "1")
    shown = watched(loaded, "Why?\n")
    assert "\\x1b" * 6 in shown and "\x1b" not in shown
    assert "\x1b" * 6 in piped(loaded, "Why?\n"), "a pipe gets what the model wrote"


def test_an_interrupt_stops_the_answer_only(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    from sapwood.serve.choose import Chooser

    choose, calls = Chooser.choose, []

    def interrupted(*given: Any) -> list[int]:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return choose(*given)

    monkeypatch.setattr(Chooser, "choose", interrupted)
    shown = watched(loaded, "Why?\nWhen?\n")
    assert "stopped by you" in shown and "cut at 6 tokens" in shown.partition("stopped by you")[2]


# --- a real terminal --------------------------------------------------------------------------------------

PROGRAM = """
import signal
import sys
from pathlib import Path
from sapwood.serve.chat import run_chat
from sapwood.serve.generate import Settings
from sapwood.serve.load import open_target
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores Ctrl-C
loaded = open_target(sys.argv[1], Path("."))
sys.exit(run_chat(loaded, Settings(max_new_tokens=int(sys.argv[2])), system=None, prompt=None, compare=False,
                  json=False, stdin=sys.stdin, stdout=sys.stdout))
"""


@dataclass(slots=True)
class Terminal:
    """`run_chat` in a pseudo-terminal of its own."""

    process: subprocess.Popen[bytes]
    handle: int
    shown: str = ""
    decoder: Any = field(default_factory=codecs.getincrementaldecoder("utf-8"))

    def type(self, text: str, after: str = "› ") -> None:
        """Type when the prompt is there: before it, the terminal would take keys in another mode."""
        self.until(after)
        os.write(self.handle, text.encode())

    def until(self, text: str, seconds: float = 90) -> str:
        """Read on until ``text`` has come; returns what came, ``text`` included."""
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < deadline, f"{text!r} didn't come, only {self.shown!r}"
            if select.select([self.handle], [], [], 0.1)[0]:
                self.shown += self.decoder.decode(os.read(self.handle, 4096))
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def interrupt(self, reply: str) -> None:
        """Ctrl-C until ``reply`` comes: one that falls between two system calls of readline is only noted."""
        for _ in range(20):
            self.process.send_signal(signal.SIGINT)
            try:
                self.until(reply, seconds=5)
            except AssertionError:
                continue
            return
        raise AssertionError(f"{reply!r} didn't come, only {self.shown!r}")


@contextmanager
def terminal(target: Path, max_new_tokens: int) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    command = [sys.executable, "-c", PROGRAM, str(target), str(max_new_tokens)]
    source = str(Path(__file__).parents[2] / "src")
    environment = os.environ | {"PYTHONPATH": source, "TERM": "xterm", "NO_COLOR": "", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_the_terminal_streams_stops_and_leaves(loaded: Loaded) -> None:
    assert loaded.model is not None
    adapter = Path(loaded.base.spec.path).parent / "adapter"
    with terminal(adapter, 3000) as screen:
        assert f"system: {SYSTEM}" in screen.until("Ctrl-D leaves")
        first = next(iter(ChatSession(loaded, SHORT).say("Why?")))
        screen.type("Why?\r")
        screen.until(first.strip())  # the answer has begun
        screen.interrupt("stopped by you")
        screen.type("/undo\r")
        screen.until("took the last turn back")
        screen.type("/undo\r")
        screen.until("nothing to take back")
        screen.type("/rset\r")
        screen.until("/help lists them")
        screen.type("/system\r")
        screen.until("system prompt: none")
        screen.until("› ")
        screen.interrupt("/bye leaves")
        screen.type("\x04")
        assert screen.process.wait(60) == 0


def test_the_terminal_shows_figures_and_errors_and_goes_on(tmp_path: Path) -> None:
    chat = tiny_chat(tmp_path, max_position_embeddings=60)
    adapter = Path(chat.base.spec.path).parent / "adapter"
    wanted = said(ChatSession(chat, SHORT), "Why?\nWhen?")
    with terminal(adapter, 6) as screen:
        screen.type("Why?\\\r")
        screen.type("When?\r", after="… ")
        shown = screen.until("cut at 6 tokens\x1b[0m")
        assert "\x1b[2m6 tokens · " in shown and " tokens/s · " in shown
        assert visible(wanted).replace("\n", "\r\n") in shown
        screen.type("tree " * 40 + "\r")
        screen.until("nothing was dropped")
        screen.type("/quit\r")
        assert screen.process.wait(60) == 0
