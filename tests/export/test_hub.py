"""`sapwood push`: the real client against a server on this machine that answers as the hub does."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sapwood.commands.push import push_run
from sapwood.errors import ConfigError, StorageError
from sapwood.export.hub import hub_name
from sapwood.run.files import staged_dir
from tests.serve.tiny_chat import tiny_adapter

TOKEN = "hf_secret"


class Hub(BaseHTTPRequestHandler):
    """What a client needs to make a repository and commit to it."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        seen: list[Any] = self.server.seen  # type: ignore[attr-defined]
        seen.append((self.path, self.headers.get("Authorization")))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.tell({"error": "Invalid username or password."}, 401)
        host = f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]
        if self.path == "/api/repos/create":
            return self.tell({"url": f"{host}/trees/wren", "name": "trees/wren"})
        if "/preupload/" in self.path:
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for f in json.loads(body)["files"]]  # fmt: skip
            return self.tell({"files": files})
        if "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            for line in lines:
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.files[line["value"]["path"]] = content  # type: ignore[attr-defined]
            return self.tell({"commitUrl": f"{host}/trees/wren/commit/1", "commitOid": "1" * 40})
        return self.tell({}, 200 if "validate" in self.path else 404)

    def tell(self, value: Any, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Generator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen, server.files = [], {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("private-place")
    loose = tiny_adapter(folder)
    facts = json.loads((loose / "sapwood.json").read_text())
    facts |= {"data_sha256": "ab" * 32, "first_loss": 2.5, "lora": {**facts["lora"], "targets": ["q_proj"]}}
    facts["proof"] = {"codes": ["stop", "cut"], "turns": 12, "targets": 99, "tokens": 300, "accepted": {},
                      "stop_text": "<|im_end|>"}  # fmt: skip
    with staged_dir(folder / "sealed") as stage:
        for file in loose.iterdir():
            (stage / file.name).write_bytes(file.read_bytes())
        (stage / "sapwood.json").write_text(json.dumps(facts))
    return folder / "sealed"


def push(adapter: Path, repo: str = "trees/wren", **options: Any) -> None:
    settings: dict[str, Any] = {"dry": False, "private": True, "as_json": True, **options}
    push_run(str(adapter), repo, Path("runs"), **settings)


def test_what_a_dry_run_shows_is_what_goes(
    hub: Any, adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(adapter, dry=True)
    shown = json.loads(capsys.readouterr().out)
    assert not hub.seen and shown["address"] is None
    push(adapter)
    sent = json.loads(capsys.readouterr().out)
    assert sent["files"] == shown["files"] and sent["address"].endswith("/trees/wren")
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in hub.files.items()}
    assert hashes == {f["name"]: f["sha256"] for f in shown["files"]}
    assert hub.files["README.md"].decode() == shown["card"]


def test_nothing_that_goes_names_a_place_of_this_machine(
    hub: Any, adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(adapter)
    assert TOKEN not in capsys.readouterr().out
    for name, content in hub.files.items():
        assert b"private-place" not in content and TOKEN.encode() not in content, name
    assert json.loads(hub.files["adapter_config.json"])["base_model_name_or_path"] == "tiny-llama"


def test_the_card_has_data_proof_and_figures(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    push(adapter, dry=True, as_json=False)
    shown = capsys.readouterr().out
    facts = ("2.5000 before, 1.5000 after", "ab" * 32, "2 checks passed on 12 trained turns", "<|im_end|>")
    for told in (*facts, "library_name: peft", "Nothing was sent (--dry-run)"):
        assert told in shown


def test_the_token_comes_from_the_environment(
    hub: Any, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(StorageError, match="the hub refused the upload") as caught:
        push(adapter)
    assert "hf_wrong" not in str(caught.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match="no token"):
        push(adapter)
    with pytest.raises(ConfigError, match="no repository's name"):
        push(adapter, "../../x")


def test_bases_by_the_name_that_others_know() -> None:
    assert hub_name("builtin:smollm2") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert hub_name("hf:Qwen/Qwen3-0.6B@main") == hub_name("ms:Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert hub_name("/home/me/models/oak.gguf") == "oak.gguf"
