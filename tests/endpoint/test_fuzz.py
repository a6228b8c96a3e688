"""Requests that nobody means. Each has an answer or an error of its own, in time, and memory stays."""

from __future__ import annotations

import json
import os
import random
import time
from typing import Any

import httpx
import psutil
import pytest

from tests.endpoint.ask import said
from tests.endpoint.serving import Running

CASES = int(os.environ.get("SAPWOOD_FUZZ", "300"))
SLOWEST = 5.0  # seconds
GROWTH = 200_000_000  # bytes, of server and engine together; the whole test lives in the same process
PATHS = (
    *["/v1/chat/completions"] * 4, *["/v1/completions"] * 3, *["/v1/messages"] * 2, "/tokenize",
    "/detokenize",
    "/v1/messages/count_tokens", "/v1/load_lora_adapter", "/v1/unload_lora_adapter",
)  # fmt: skip
RIGHT: dict[str, Any] = {
    "model": "first", "messages": [{"role": "user", "content": "Hello"}], "prompt": "Hello", "max_tokens": 3,
    "stream": False, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 1, "stop": ["x"],
    "n": 1, "logprobs": 1, "top_logprobs": 2, "echo": False, "logit_bias": {"5": 1}, "tokens": [1, 2],
    "frequency_penalty": 0.5, "presence_penalty": 0.5, "repetition_penalty": 1.1, "tool_choice": "auto",
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "response_format": {"type": "json_object"}, "system": "s", "stop_sequences": ["y"], "lora_name": "z",
    "lora_path": "nowhere", "stream_options": {"include_usage": True}, "max_completion_tokens": 2,
    "suffix": None,
}  # fmt: skip
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**63, 2**64, -(2**70), 0.5, 1e308, "", "x", "\x00", "�", "\ud83d\ude00",
    "é" * 300,
    "<|im_end|>", [], [[]], [None], [1], [-1], [10**9], ["a", 1], {}, {"a": 1}, {"5": 1e9}, {"x": "y"},
    [{"role": "user"}], [{"role": "assistant", "content": None}], [{"role": "tool", "content": "x"}],
    [{"role": "user", "content": [{"type": "text"}]}], [{"role": "user", "content": [{"type": "text",
    "text": "a"}]}],
    [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
    {"type": "json_schema", "json_schema": {"schema": {"type": "object",
    "properties": {"a": {"type": "x"}}}}},
    {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}, {"type": "json_schema"},
    {"type": "json_schema", "json_schema": {"schema": {"type": "string", "pattern": "a{1000}"}}},
    {"type": "function", "function": {"name": "f"}}, "required", "none", "second", "first/..", "*",
)  # fmt: skip
RAW = (
    b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b"{" * 5000, b"[" * 100_000,
    b'{"model":"first","model":1}',
    b'{"model":"first","messages":NaN}', b'{"a":' * 2000 + b"1" + b"}" * 2000, b"\x00" * 1000,
    b'{"model":"first","prompt":"x","max_tokens":1e400}', b"model=first&prompt=x",
)  # fmt: skip


def body(draw: random.Random) -> bytes:
    if draw.random() < 0.1:
        return draw.choice(RAW)
    told = dict(RIGHT)
    for key in draw.sample(sorted(told), draw.randrange(len(told))):
        del told[key]
    if draw.random() < 0.8:
        told |= {"model": "first", "messages": RIGHT["messages"], "prompt": "Hello", "max_tokens": 2}
    for key in draw.sample(sorted(RIGHT), draw.choice((0, 1, 1, 1, 2, 3))):
        told[key] = draw.choice(ODD)
    if draw.random() < 0.2:
        told["stream"] = True
    if isinstance(told.get("n"), int) and told["n"] > 2:
        told["n"] = 2
    whole = json.dumps(told).encode()
    return whole if draw.random() < 0.95 else whole[: draw.randrange(len(whole))]


def memory(endpoint: Running) -> int:
    engine: Any = endpoint.library.find("first").engine
    return psutil.Process().memory_info().rss + psutil.Process(engine.pid).memory_info().rss


@pytest.mark.timeout(300 + CASES // 5)
def test_no_request_is_a_fault_of_the_server_or_hangs(endpoint: Running) -> None:
    draw = random.Random(int(os.environ.get("SAPWOOD_FUZZ_SEED", "1")))
    before, wrong, statuses = said(endpoint.url, "first"), list[str](), dict[int, int]()
    start = 0
    with httpx.Client(timeout=SLOWEST * 4) as client:
        for i in range(CASES):
            path, content = draw.choice(PATHS), body(draw)
            began = time.monotonic()
            response = client.post(endpoint.url + path, content=content)
            seconds = time.monotonic() - began
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
            bad = response.status_code >= 500 or seconds > SLOWEST or b'"code":"engine' in response.content
            if bad or (response.status_code >= 400 and "error" not in response.json()):
                wrong.append(
                    f"{response.status_code} {seconds:.1f} s {path} {content[:300]!r} {response.text[:200]}"
                )
            if i == min(CASES // 2, 2000):
                start = memory(endpoint)
    assert not wrong, "\n".join(wrong[:10])
    assert statuses[200] > CASES / 10 < statuses[400], statuses
    assert memory(endpoint) - start < GROWTH
    assert said(endpoint.url, "first") == before
    assert all(engine.slots.busy == 0 for engine in endpoint.library.engines)
