from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sapwood.base.hubs import revision_of
from sapwood.base.sources import list_models, model_info, resolve
from sapwood.errors import ModelError
from tests.base.tiny import tiny_llama
from tests.gguf.tiny_gguf import tiny_gguf

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAPWOOD_CACHE", str(tmp_path / "cache"))


def test_a_folder_and_a_file_resolve_to_themselves(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path)
    assert resolve(str(folder)) == folder
    path, _ = tiny_gguf("llama", tmp_path / "sha256-abc")  # Ollama's blobs have no suffix
    assert resolve(str(path)) == path


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("builtin:smolm", "did you mean builtin:smollm2"),
        ("builtin:zzz", "known: builtin:smollm2, builtin:gemma3-270m"),
        ("smollm2", "did you mean builtin:smollm2"),
        ("s3:org/name", "unknown source 's3:'"),
        ("hf:a b", "not a model id"),
        ("hf:../x/y", "not a model id"),
        ("org-x/model-y", "did you mean hf:org-x/model-y"),
        ("/nowhere/at/all", "no such folder or file"),
    ],
)
def test_what_is_not_there_names_what_was_meant(model: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve(model)


def test_a_neighbour_is_suggested_and_other_files_refused(tmp_path: Path) -> None:
    (tmp_path / "oak.gguf").write_bytes(b"not one")
    with pytest.raises(ModelError, match=r"did you mean .*oak.gguf"):
        resolve(str(tmp_path / "oka.gguf"))
    with pytest.raises(ModelError, match="isn't GGUF"):
        resolve(str(tmp_path / "oak.gguf"))


def test_builtins_are_listed_and_say_whether_they_are_here() -> None:
    models = {info.name: info for info in list_models()}
    assert models["builtin:smollm2"].size == 98_362_432
    assert not models["builtin:smollm2"].pulled
    assert models["builtin:gemma3-270m"].terms
    assert model_info("builtin:smollm2") == {
        "model": "builtin:smollm2",
        "title": "SmolLM2-135M-Instruct (Q4_1)",
        "licence": "Apache-2.0",
        "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "pulled": False,
        "bytes": 98_362_432,
    }


def test_facts_of_a_folder_and_of_a_file_agree(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path)
    path, _ = tiny_gguf("llama", tmp_path / "m.gguf")
    for facts in (model_info(str(folder)), model_info(str(path))):
        assert facts["architecture"] == "llama"
        assert (facts["layers"], facts["hidden"], facts["vocabulary"], facts["context"]) == (2, 64, 600, 4096)
        assert facts["chat_template"] is True
        assert facts["parameters"] == 600 * 64 + 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128 + 2 * 64) + 64
    (folder / "chat_template.jinja").unlink()
    assert model_info(str(folder))["chat_template"] is False


def test_facts_of_the_real_model(smollm2_spec: Any) -> None:
    facts = model_info(str(smollm2_spec.path))
    assert facts["parameters"] == 134_515_008
    assert facts["stored"] == {"F32": 61, "Q4_1": 210, "Q8_0": 1}


# --- the hub ----------------------------------------------------------------------------------------------


LARGE = bytes(range(250)) * 48_000


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A small hub on this machine that serves one repository (as org/cut, it breaks off in the middle of the
    weights), and the paths that were asked of it, with the bytes from which on."""
    folder = tiny_llama(tmp_path)
    for name in ("pytorch_model.bin", "modeling_oak.py", "adapter_config.json", "README.md"):
        (folder / name).write_text("no")
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(body=True)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def answer(self, body: bool) -> None:
            asked.append(f"{self.path} {self.headers.get('Range', '')}".strip())
            path = self.path.split("?")[0].replace("org/cut", "org/oak")
            if "/revision/nope" in path:
                self.refuse(404, "RevisionNotFound")
            elif "/gated/" in path:
                self.refuse(403, "GatedRepo")
            elif path.startswith("/api/models/org/oak/"):
                files = sorted(file.name for file in folder.iterdir())
                tree = [
                    {"type": "file", "path": name, "size": (folder / name).stat().st_size, "oid": name}
                    for name in files
                ]
                info = {"id": "org/oak", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
                self.send(json.dumps(tree if "/tree/" in path else info).encode(), body, "application/json")
            elif path.startswith(f"/org/oak/resolve/{COMMIT}/"):
                cut = "org/cut" in self.path and path.endswith("model.safetensors")
                content = LARGE if cut else (folder / path.rsplit("/", 1)[1]).read_bytes()
                self.send(content, body, "application/octet-stream")
            else:
                self.refuse(404, "RepoNotFound")

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def send(self, content: bytes, body: bool, kind: str) -> None:
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body and content is LARGE and not start:
                self.wfile.write(content[:11_000_000])
                self.close_connection = True
            elif body:
                self.wfile.write(content[start:])

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


RESOLVE = (
    "import sys\nfrom sapwood.errors import ModelError\nfrom sapwood.base.sources import resolve\n"
    "try: print(resolve(sys.argv[1]))\nexcept ModelError as error: print('ERROR', error)"
)
TOLD = (
    "import sys\nfrom sapwood.base.hubs import fetch\nfrom sapwood.machine.doing import told_to\n"
    "with told_to(print): print(fetch(sys.argv[1]))"
)


def resolve_in_a_process(model: str, home: Path, code: str = RESOLVE, **env: str) -> str:
    """The hub client reads its settings when it is imported, so each case gets a process of its own."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    inherited |= {"HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1", **env}
    done = subprocess.run(
        [sys.executable, "-c", code, model], env=inherited, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_hub_gives_safetensors_and_json_only_and_then_works_offline(
    hub: tuple[str, list[str]], tmp_path: Path
) -> None:
    endpoint, asked = hub
    home = tmp_path / "hub"
    path = Path(resolve_in_a_process("hf:org/oak", home, HF_ENDPOINT=endpoint))
    assert revision_of(path) == COMMIT
    assert {file.name for file in path.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert not [url for url in asked if url.endswith((".bin", ".py"))]
    asked.clear()
    offline = resolve_in_a_process("hf:org/oak", home, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="1")
    assert offline == str(path)
    assert asked == []


def test_a_download_that_is_cut_goes_on_where_it_stopped(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    """From the last piece of 10 MiB that was whole: so the client counts."""
    endpoint, asked = hub
    *told, place = resolve_in_a_process("hf:org/cut", tmp_path / "hub", TOLD, HF_ENDPOINT=endpoint).split(
        "\n"
    )
    assert told[0] == "fetching org/cut"
    assert [text for text in told if text.startswith("fetching org/cut ") and text.endswith("MB")]
    path = Path(place)
    assert (path / "model.safetensors").read_bytes() == LARGE
    assert [one for one in asked if one.endswith("model.safetensors bytes=10485760-")]


def test_hub_failures_say_what_to_do(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    endpoint, _ = hub
    said = resolve_in_a_process("hf:org/elm", tmp_path, HF_ENDPOINT=endpoint)
    assert said.startswith(f"ERROR no such model on the hub · hf:org/elm from {endpoint}")
    assert "no such revision" in resolve_in_a_process("hf:org/oak@nope", tmp_path, HF_ENDPOINT=endpoint)
    assert "set HF_TOKEN" in resolve_in_a_process("hf:org/gated", tmp_path, HF_ENDPOINT=endpoint)
    said = resolve_in_a_process("hf:org/elm", tmp_path, HF_HUB_OFFLINE="1")
    assert "isn't in the local cache" in said
    assert "HF_HUB_OFFLINE is set" in said
    said = resolve_in_a_process("hf:org/elm", tmp_path, HF_ENDPOINT="http://127.0.0.1:1")
    assert "couldn't be downloaded · hf:org/elm from http://127.0.0.1:1" in said
    assert "HF_ENDPOINT to a mirror" in said
