"""ModelScope through its real client, against a server on loopback that speaks the hub's file API.

(The Hugging Face side is in `test_sources.py`.)
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from sapwood.base.hubs import fetch, revision_of
from sapwood.errors import ModelError

pytest.importorskip("modelscope_hub")
SECRET = "ms-0123456789abcdef"
FILES = {
    "config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 4000,
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"a pickle",
    "modeling_oak.py": b"raise SystemExit",
    "onnx/model.safetensors": b"of another kind",
}


@dataclass
class HubState:
    """What the server does, and what it was asked."""

    asked: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    cut_after: int | None = None  # bytes of the weights, once
    damaged: bool = False
    endpoint: str = ""


@pytest.fixture
def hub() -> Iterator[HubState]:
    """org/oak is public, org/gated wants the token, org/elm isn't there."""
    state = HubState()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            state.asked.append(self.path)
            state.secrets.append(f"{self.headers.get('Cookie', '')}{self.headers.get('Authorization', '')}")
            if parts.path.startswith("/api/v1/models/org/gated") and SECRET not in state.secrets[-1]:
                said = f"no leave for {state.secrets[-1]}"  # it may say back what it was told
                self.json(403, {"Code": 403, "Success": False, "Message": said})
            elif not parts.path.startswith(("/api/v1/models/org/oak", "/api/v1/models/org/gated")):
                self.json(404, {"Code": 10010205001, "Success": False, "Message": "no such model"})
            elif query.get("Revision", "master") not in ("master", "v1"):
                self.json(404, {"Code": 10010205002, "Success": False, "Message": "no such revision"})
            elif parts.path.endswith("/repo/files"):
                self.json(200, {"Code": 200, "Success": True, "Data": {"Files": listing()}})
            elif parts.path.endswith("/repo") and query.get("FilePath") in FILES:
                self.file(query["FilePath"])
            else:
                self.json(404, {"Code": 404, "Success": False, "Message": "nothing here"})

        def file(self, name: str) -> None:
            content = FILES[name]
            if state.damaged and name == "model.safetensors":
                content = content[:-1] + b"\0"
            wanted = self.headers.get("Range")
            start = 0
            if wanted:
                state.ranges.append(wanted)
                start = int(wanted.removeprefix("bytes=").split("-")[0])
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if state.cut_after is not None and name == "model.safetensors":
                self.wfile.write(content[start : state.cut_after])
                self.wfile.flush()
                self.connection.close()
                state.cut_after = None
                return
            self.wfile.write(content[start:])

        def json(self, status: int, tree: object) -> None:
            body = json.dumps(tree).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.endpoint = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()


def listing() -> list[dict[str, object]]:
    return [
        {"Path": name, "Type": "blob", "Size": len(c), "Sha256": hashlib.sha256(c).hexdigest()}
        for name, c in FILES.items()
    ]


FETCH = (
    "import sys\nfrom sapwood.errors import ModelError\nfrom sapwood.base.hubs import fetch\n"
    "try: print(fetch(sys.argv[1], offline=len(sys.argv) > 2))\nexcept ModelError as e: print('ERROR', e)"
)
TOLD = (
    "import sys\nfrom sapwood.base.hubs import fetch\nfrom sapwood.machine.doing import told_to\n"
    "with told_to(print): fetch(sys.argv[1])"
)


def fetched(hub: HubState, home: Path, model: str = "ms:org/oak", code: str = FETCH, **env: str) -> str:
    """What `fetch` gives in a process of its own: the client reads its settings when it is imported."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MODELSCOPE", "HF_"))}
    inherited |= {"MODELSCOPE_ENDPOINT": hub.endpoint, "MODELSCOPE_CACHE": str(home / "cache")}
    inherited |= {"MODELSCOPE_HOME": str(home / "home"), "NO_PROXY": "127.0.0.1"}
    offline = ["offline"] if env.pop("offline", "") else []
    done = subprocess.run(
        [sys.executable, "-c", code, model, *offline],
        env=inherited | env, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert SECRET not in done.stdout + done.stderr
    return done.stdout.strip()


def test_how_much_has_come_is_told(hub: HubState, tmp_path: Path) -> None:
    said = fetched(hub, tmp_path, code=TOLD).splitlines()
    assert said[0] == "fetching org/oak"
    assert "fetching org/oak 1/1 MB" in said


def test_only_what_a_model_needs_comes_and_then_no_hub_is_asked(hub: HubState, tmp_path: Path) -> None:
    path = Path(fetched(hub, tmp_path, "ms:org/oak@v1"))
    assert revision_of(path) == "v1"
    assert {p.name for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")} == {
        "config.json", "model.safetensors", "tokenizer.json"
    }  # fmt: skip
    assert (path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert not [url for url in hub.asked if ".bin" in url or ".py" in url or "onnx%2F" in url]
    hub.asked.clear()
    assert fetched(hub, tmp_path, "ms:org/oak@v1", offline="yes") == str(path)
    assert fetched(hub, tmp_path, "ms:org/oak@v1", HF_HUB_OFFLINE="1") == str(path)
    said = fetched(hub, tmp_path, "ms:org/elm", HF_HUB_OFFLINE="1")
    assert "isn't in the local cache" in said and "HF_HUB_OFFLINE is set" in said
    assert "base.offline is set" in fetched(hub, tmp_path, "ms:org/elm", offline="yes")
    assert hub.asked == []


def test_a_download_that_is_cut_goes_on_where_it_stopped(hub: HubState, tmp_path: Path) -> None:
    hub.cut_after = 300_000
    path = Path(fetched(hub, tmp_path))
    assert (path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert [r for r in hub.ranges if 0 < int(r.removeprefix("bytes=").split("-")[0]) <= 300_000]


def test_a_file_with_another_hash_is_not_kept(hub: HubState, tmp_path: Path) -> None:
    hub.damaged = True
    said = fetched(hub, tmp_path)
    assert said.startswith(f"ERROR the download is not what the hub names · ms:org/oak from {hub.endpoint}")
    assert not list((tmp_path / "cache").rglob("model.safetensors"))


def test_the_token_comes_from_the_environment_and_goes_nowhere_else(hub: HubState, tmp_path: Path) -> None:
    said = fetched(hub, tmp_path, "ms:org/gated")
    assert "doesn't let you read the model" in said and "set MODELSCOPE_API_TOKEN" in said
    assert not any(hub.secrets)
    wrong = SECRET[:-1]
    assert wrong not in fetched(hub, tmp_path, "ms:org/gated", MODELSCOPE_API_TOKEN=wrong)
    path = Path(fetched(hub, tmp_path, "ms:org/gated", MODELSCOPE_API_TOKEN=SECRET))
    assert (path / "config.json").is_file()
    kept = [file for file in tmp_path.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
    assert not kept


def test_what_is_not_there_and_what_cannot_be_reached(hub: HubState, tmp_path: Path) -> None:
    for model in ("ms:org/elm", "ms:org/oak@nope"):
        said = fetched(hub, tmp_path, model)
        assert said.startswith(f"ERROR no such model or revision on the hub · {model} from {hub.endpoint}")
    hub.endpoint = "http://127.0.0.1:1"
    said = fetched(hub, tmp_path, "ms:org/elm")
    assert "couldn't be downloaded · ms:org/elm from http://127.0.0.1:1" in said
    assert "MODELSCOPE_ENDPOINT to a mirror" in said


@pytest.mark.parametrize("model", ["ms:", "ms:a/b/c", "ms:../x", "hf:a/b@../../x", "ms:a b", "ms:/x"])
def test_a_name_that_is_none_is_refused_before_anyone_is_asked(model: str) -> None:
    with pytest.raises(ModelError, match="not a model id"):
        fetch(model)
