"""Other clients than OpenAI's own: anthropic, langchain-openai, llm, and what web front ends send."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.endpoint.ask import HELLO, error, post, said
from tests.endpoint.serving import Running

if TYPE_CHECKING:
    import anthropic

TOOL = {
    "name": "weather",
    "description": "of a place",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Paris"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def claude(endpoint: Running) -> anthropic.Anthropic:
    import anthropic  # four seconds, which a process that only collects is spared

    return anthropic.Anthropic(base_url=endpoint.url, api_key="none", max_retries=0)


def test_anthropic_gets_the_same_answer(claude: anthropic.Anthropic, endpoint: Running) -> None:
    done = claude.messages.create(model="first", max_tokens=12, messages=HELLO)  # type: ignore[arg-type]
    assert done.content[0].text == said(endpoint.url, "first") and done.stop_reason == "max_tokens"
    assert done.usage.output_tokens == 12
    counted = claude.messages.count_tokens(model="first", messages=HELLO)  # type: ignore[arg-type]
    assert counted.input_tokens == done.usage.input_tokens


def test_anthropic_streams_and_puts_it_together(claude: anthropic.Anthropic, endpoint: Running) -> None:
    with claude.messages.stream(
        model="second", max_tokens=12, messages=HELLO, system="Be brief.", stop_sequences=["zzz"]
    ) as stream:  # type: ignore[arg-type]
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.content[0].text == text and final.usage.output_tokens == 12
    system = [{"role": "system", "content": "Be brief."}]
    body = {"model": "second", "messages": [*system, *HELLO], "max_tokens": 12}
    told = post(endpoint.url, "/v1/chat/completions", **body).json()
    assert text == told["choices"][0]["message"]["content"]


def test_anthropic_calls_a_tool_and_goes_on(claude: anthropic.Anthropic) -> None:
    asked: Any = {"model": "first", "max_tokens": 60, "tools": [TOOL]}
    done = claude.messages.create(messages=HELLO, tool_choice={"type": "any"}, **asked)
    call = done.content[0]
    assert done.stop_reason == "tool_use" and call.input["city"] in ("Rome", "Paris")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    turns = [
        *HELLO,
        {"role": "assistant", "content": [call.model_dump()]},
        {"role": "user", "content": [result]},
    ]
    again = claude.messages.create(messages=turns, **asked)
    assert again.usage.input_tokens > done.usage.input_tokens
    with claude.messages.stream(
        messages=HELLO, tool_choice={"type": "tool", "name": "weather"}, **asked
    ) as s:
        assert s.get_final_message().content[0].input["city"] in ("Rome", "Paris")


def test_anthropic_hears_of_a_wrong_name_in_its_own_form(claude: anthropic.Anthropic) -> None:
    import anthropic

    with pytest.raises(anthropic.NotFoundError, match="first, second"):
        claude.messages.create(model="nope", max_tokens=4, messages=HELLO)  # type: ignore[arg-type]


def test_langchain_asks_streams_and_takes_structured_answers(endpoint: Running) -> None:
    from langchain_openai import ChatOpenAI
    from pydantic import BaseModel

    class Tree(BaseModel):
        evergreen: bool

    model = ChatOpenAI(base_url=f"{endpoint.url}/v1", api_key="none", model="first", max_tokens=60)
    whole = model.invoke("Hello")
    assert "".join(str(piece.content) for piece in model.stream("Hello")) == whole.content
    assert whole.usage_metadata is not None and whole.usage_metadata["output_tokens"] > 0
    for way in ("json_schema", "function_calling"):
        told = model.with_structured_output(Tree, method=way).invoke("Is a pine evergreen?")
        assert isinstance(told, Tree), way


def test_llm_on_the_command_line(endpoint: Running, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    (models,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    models = models.replace("my-run", "second").replace("http://127.0.0.1:8000", endpoint.url)
    (tmp_path / "extra-openai-models.yaml").write_text(models)
    done = subprocess.run(
        [sys.executable, "-m", "llm", "-m", "mine", "-o", "max_tokens", "12", "--key", "none", "Hello"],
        capture_output=True, text=True, timeout=120, env={"LLM_USER_PATH": str(tmp_path), "PATH": "/usr/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.removesuffix("\n") == said(endpoint.url, "second")


def test_what_open_webui_sends(endpoint: Running) -> None:
    """Its proxy passes these on as they are: the list of models first, then a stream with a session's ids."""
    listed = httpx.get(f"{endpoint.url}/v1/models", headers={"Authorization": "Bearer x"}).json()
    assert [model["id"] for model in listed["data"]][1:] == ["first", "second"]
    body = {
        "stream": True, "model": "first", "stream_options": {"include_usage": True}, "max_tokens": 8,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        "session_id": "x", "chat_id": "y", "id": "z", "features": {}, "variables": {}, "background_tasks": {},
    }  # fmt: skip
    with httpx.stream("POST", f"{endpoint.url}/v1/chat/completions", json=body, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]" and "usage" in json.loads(lines[-2][6:])


def test_what_librechat_sends(endpoint: Running) -> None:
    """It asks for a title beside the answer, and takes streams that end with usage."""
    title = {
        "model": "first", "temperature": 0.2, "presence_penalty": 0, "frequency_penalty": 0, "max_tokens": 16,
        "messages": [{"role": "system", "content": "Write a title."}, *HELLO], "user": "662b1b", "stop": [],
    }  # fmt: skip
    assert post(endpoint.url, "/v1/chat/completions", **title).status_code == 200


def test_what_lm_eval_asks_before_it_trusts_the_tokenizer(endpoint: Running) -> None:
    told = httpx.get(f"{endpoint.url}/tokenizer_info").json()
    assert told["eos_token"] == "<|im_end|>"
    tokens = post(endpoint.url, "/tokenize", prompt="test", add_special_tokens=False).json()["tokens"]
    assert tokens and all(isinstance(id, int) for id in tokens)


def test_a_path_that_isnt_there_is_an_error_object_too(endpoint: Running) -> None:
    response = post(endpoint.url, "/v1/embeddings", model="first", input="x")
    assert response.status_code == 404 and "/v1/embeddings" in error(response)["message"]
    assert httpx.get(f"{endpoint.url}/v1/chat/completions").status_code == 405


@pytest.mark.parametrize("name", ["serve.md", "serve.zh-CN.md"])
def test_the_snippets_of_the_page_run(name: str, endpoint: Running) -> None:
    page = (Path(__file__).parents[2] / "docs" / name).read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(snippets) == 4
    for snippet in snippets[:3]:
        names: dict[str, Any] = {}
        exec(snippet.replace("http://127.0.0.1:8000", endpoint.url).replace("my-run", "first"), names)
        assert names["answer"]


def test_the_engine_alone_answers_from_python(adapters: Path, cache: Path, endpoint: Running) -> None:
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[3], names)
    ids = post(endpoint.url, "/tokenize", model="first", messages=HELLO).json()["tokens"]
    told = asyncio.run(names["answer"](str(adapters / "first"), ids))
    assert told.startswith(said(endpoint.url, "first", max_tokens=6))
