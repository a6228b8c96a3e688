"""Who may ask, how much, and for how long."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from sapwood.endpoint.api.guard import Guard, host_of
from sapwood.endpoint.api.rules import Manners, Rules
from sapwood.endpoint.server import Options
from sapwood.errors import ConfigError
from tests.endpoint.ask import HELLO, error, post, said
from tests.endpoint.serving import Running, running


def test_a_page_of_another_name_that_leads_here_is_refused(endpoint: Running) -> None:
    for headers in (
        {"Host": "evil.example"},
        {"Origin": "https://evil.example"},
        {"Host": "127.0.0.1.nip.io"},
    ):
        response = post(endpoint.url, "/v1/models", headers=headers)
        assert response.status_code == 403 and "error" in response.json(), headers
        assert "access-control-allow-origin" not in response.headers
    own = {"Origin": endpoint.url, "Host": endpoint.url.removeprefix("http://")}
    assert httpx.get(f"{endpoint.url}/v1/models", headers=own).status_code == 200


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost:8000", "localhost"),
        ("[::1]:80", "::1"),
        ("A.B.", "a.b"),
        ("", ""),
        ("[bad", ""),
        ("x@y:1", "y"),
    ],
)
def test_a_host_header_is_read(header: str, name: str) -> None:
    assert host_of(header) == name


def test_another_address_than_loopback_demands_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAPWOOD_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="no key"):
        Options(["x"], host="0.0.0.0").rules()
    assert Options(["x"], host="0.0.0.0", key="k").rules() == Rules(None, (), "k")
    monkeypatch.setenv("SAPWOOD_API_KEY", "from the environment")
    assert Options(["x"], host="::").rules().key == "from the environment"
    assert Options(["x"]).rules().hosts == {"localhost", "127.0.0.1", "::1"}


def asked(rules: Rules, path: str = "/v1/models", **headers: str) -> int:
    """The status with which a guard lets a request through or not."""
    from starlette.responses import Response

    statuses: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def work() -> None:
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "path": path, "method": "GET", "headers": raw}
        await Guard(Response("in"), rules)(scope, None, send)

    asyncio.run(work())
    return statuses[0]


def test_the_key_is_taken_in_either_header_and_nothing_else_is() -> None:
    rules = Rules(None, (), "s3cret")
    assert asked(rules, authorization="Bearer s3cret") == asked(rules, x_api_key="s3cret") == 200
    wrong = ({}, {"authorization": "Bearer s3cre"}, {"authorization": "s3cret"}, {"x_api_key": "é"})
    assert {asked(rules, **headers) for headers in wrong} == {401}
    assert asked(rules, "/health") == 200 and asked(rules, "/metrics") == 401


def test_pages_that_were_named_may_ask() -> None:
    rules = Rules({"localhost"}, ("https://ui.example",))
    assert asked(rules, host="localhost", origin="https://ui.example") == 200
    assert asked(rules, host="localhost", origin="https://other.example") == 403
    assert asked(Rules({"localhost"}, ("*",)), host="localhost", origin="null") == 200


@pytest.fixture(scope="module")
def narrow(adapters: Path, cache: Path) -> Any:
    """One answer at once, one waiter, small bodies, little patience."""
    limits = {"slots": 1, "most_waiting": 1, "patience": 0.4}
    manners = Manners(most_bytes=20_000, body_seconds=0.5)
    with running(
        adapters / "first", limits=limits, manners=manners, key="k", origins=["https://ui.example"]
    ) as up:
        yield up


KEY = {"Authorization": "Bearer k"}


def test_a_body_that_is_too_large_is_413(narrow: Running) -> None:
    big = [{"role": "user", "content": "x" * 100_000}]
    response = post(narrow.url, "/v1/chat/completions", headers=KEY, model="first", messages=big)
    assert response.status_code == 413 and error(response)["code"] == "body_too_large"
    response = httpx.post(f"{narrow.url}/v1/chat/completions", content=b"x" * 10_000_000, headers=KEY)
    assert response.status_code == 413


def test_a_client_that_sends_a_byte_a_second_is_let_go(narrow: Running) -> None:
    host, port = narrow.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
        connection.sendall(f"{head}Authorization: Bearer k\r\n\r\n{{".encode())
        began = time.monotonic()
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - began < 10


def test_a_full_queue_is_429_and_a_long_wait_503(narrow: Running) -> None:
    async def ask(client: httpx.AsyncClient) -> httpx.Response:
        body = {"model": "first", "messages": HELLO, "max_tokens": 400, "logit_bias": {"2": -100}}
        return await client.post(f"{narrow.url}/v1/chat/completions", json=body, headers=KEY, timeout=60)

    async def work() -> list[httpx.Response]:
        async with httpx.AsyncClient() as client:
            return await asyncio.gather(*(ask(client) for _ in range(6)))

    found = asyncio.run(work())
    statuses = [response.status_code for response in found]
    assert 200 in statuses and 429 in statuses and set(statuses) <= {200, 429, 503}
    late = [response for response in found if response.status_code != 200]
    assert all(int(response.headers["retry-after"]) >= 1 and error(response) for response in late)


def test_a_named_page_gets_the_headers_that_its_browser_wants(narrow: Running) -> None:
    headers = {"Origin": "https://ui.example", "Access-Control-Request-Method": "POST"}
    response = httpx.options(f"{narrow.url}/v1/chat/completions", headers=headers)
    assert response.headers["access-control-allow-origin"] == "https://ui.example"


def test_a_client_that_leaves_ends_its_answer(endpoint: Running) -> None:
    body = {"model": "first", "messages": HELLO, "max_tokens": 450, "n": 4, "stream": True}
    body |= {"logit_bias": {"0": -100, "2": -100}, "logprobs": True, "top_logprobs": 20}
    slots = endpoint.library.find("first").engine.slots

    def busy_when_left() -> int:
        with httpx.stream("POST", f"{endpoint.url}/v1/chat/completions", json=body, timeout=60) as response:
            next(response.iter_lines())
            return slots.busy

    # on a machine that stands still for a second, an answer is written before its first line is read
    assert any(busy_when_left() for _ in range(5))
    wait_until(lambda: slots.busy == 0)
    with pytest.raises(httpx.ReadTimeout):
        whole = {**body, "stream": False}
        httpx.post(f"{endpoint.url}/v1/chat/completions", json=whole, timeout=httpx.Timeout(5, read=0.05))
    wait_until(lambda: slots.busy == 0)


def test_a_client_that_never_reads_holds_up_nobody(endpoint: Running) -> None:
    host, port = endpoint.url.removeprefix("http://").split(":")
    body = b'{"model":"first","prompt":"Hello","max_tokens":400,"stream":true}'
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    deaf = [socket.create_connection((host, int(port))) for _ in range(8)]
    for connection in deaf:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.sendall(head.encode() + body)
    assert said(endpoint.url, "second")
    for connection in deaf:
        connection.close()


def test_the_figures_tell_what_was_done_and_nothing_of_what_was_asked(endpoint: Running) -> None:
    said(endpoint.url, "first", "a secret question")
    text = httpx.get(f"{endpoint.url}/metrics").text
    assert 'sapwood_completion_tokens_total{model="first"}' in text and "secret" not in text
    assert 'sapwood_requests_total{model="first",path="/v1/chat/completions",status="200"}' in text
    assert httpx.get(f"{endpoint.url}/health").json() == {"status": "ok"}


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(endpoint: Running) -> None:
    port = int(endpoint.url.rpartition(":")[2])
    options = Options(["nothing of that name"], port=0)
    from sapwood.endpoint.server import run_server

    with pytest.raises(ConfigError, match="can't listen"):
        run_server(replace(options, port=port), lambda *_: None)


def wait_until(true: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)
