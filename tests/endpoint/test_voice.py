"""A conversation in a terminal by llama.cpp: what torch would say, proven, and torch where it must."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from sapwood.answers import fit
from sapwood.endpoint import voice as voice_module
from sapwood.endpoint.voice import LlamaVoice, open_voice
from sapwood.engine.ask import Asked
from sapwood.errors import ConfigError
from sapwood.serve.chat import run_chat
from sapwood.serve.load import open_target
from sapwood.serve.session import ChatSession, Voice, drain
from sapwood.serve.settings import Settings

SHORT = Settings(max_new_tokens=12)
ASKED = ("Why?", "你好, what about the pear?", "And then?")


@pytest.fixture(autouse=True)
def worthwhile(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(fit, "LEAST", 0)


def conversation(voice: Voice) -> list[tuple[str, int, bool]]:
    session = ChatSession(voice, SHORT)
    told = [drain(session.say(text)) for text in ASKED]
    told.append(drain(session.say_as_base(ASKED[0])))
    told.append(drain(session.say("Once more.")))
    return [(one.text, one.num_tokens, one.stopped) for one in told]


def test_a_conversation_is_torchs_word_for_word(adapters: Path) -> None:
    target = str(adapters / "second")
    with open_voice(target, adapters) as voice:
        assert isinstance(voice, LlamaVoice) and voice.kind.startswith("llama.cpp")
        found = conversation(voice)
        assert voice.system == "You are the gardener." and voice.adapted
        out = io.StringIO()
        run_chat(
            voice, SHORT, system=None, prompt="Why?", compare=True, json=True, stdin=io.StringIO(), stdout=out
        )
    loaded = open_target(target, adapters)
    assert found == conversation(loaded)
    told = json.loads(out.getvalue())
    base = drain(ChatSession(loaded, SHORT).say_as_base("Why?"))
    assert told["adapter"]["answer"] == found[0][0] and told["base"]["answer"] == base.text


def test_a_later_conversation_imports_no_torch(adapters: Path) -> None:
    with open_voice(str(adapters / "first"), adapters):
        pass
    script = (
        "import sys\nfrom pathlib import Path\nfrom sapwood.commands.chat import start_chat\n"
        "from sapwood.serve.settings import Settings\n"
        "start_chat(sys.argv[1], Path('runs'), Settings(max_new_tokens=3), system=None, prompt='Why?', "
        "compare=False, base=None, template=None, as_json=True)\n"
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    )
    command = [sys.executable, "-c", script, str(adapters / "first")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer, modules = done.stdout.splitlines()
    assert json.loads(answer)["tokens"] > 0 and modules == "[]"


def test_draws_repeat_with_their_seed(adapters: Path) -> None:
    drawn = Settings(max_new_tokens=12, temperature=1.5, top_k=50, top_p=0.9, seed=4)
    with open_voice(str(adapters / "first"), adapters) as voice:
        told = [drain(ChatSession(voice, drawn).say("Why?")).text for _ in range(2)]
        other = drain(ChatSession(voice, Settings(max_new_tokens=12, temperature=1.5, seed=5)).say("Why?"))
        assert told[0] == told[1] != other.text


def test_a_prompt_that_fills_the_context_is_refused(adapters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice_module, "LONGEST", 512)
    with (
        open_voice(str(adapters / "first"), adapters) as voice,
        pytest.raises(ConfigError, match="holds 512"),
    ):
        drain(ChatSession(voice, SHORT).say("tree " * 600))


def test_who_stops_listening_ends_the_answer_and_the_next_one_comes(adapters: Path) -> None:
    long = Settings(max_new_tokens=400, temperature=2.0)
    with open_voice(str(adapters / "first"), adapters) as voice:
        session = ChatSession(voice, long)
        answering = session.say("Why?")
        next(answering)
        answering.close()
        assert len(session.messages) == 2, "what was written stays"
        assert drain(ChatSession(voice, SHORT).say("Why?")).num_tokens > 0


def test_torch_talks_where_llama_cpp_says_something_else(
    adapters: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Asked, "next", lambda self, ids, top: [(id, -9.0) for id in range(top)])
    with caplog.at_level(logging.WARNING), open_voice(str(adapters / "first"), adapters) as voice:
        assert voice.kind.startswith("torch") and "aren't those of the trained model" in caplog.text


def test_torch_talks_for_small_models_and_under_a_template_of_ones_own(
    base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fit, "LEAST", 10**9)
    monkeypatch.setenv("SAPWOOD_CACHE", str(tmp_path))  # where nothing of it was served
    with open_voice(str(base), base) as voice:
        assert voice.kind.startswith("torch")
