"""``hf:``: files of a hub's dataset, from a server on this machine that answers as the hub does."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sapwood.data.files.hub import training_files
from sapwood.errors import DataError

FILES = {
    "data/train-0.jsonl": b'{"instruction": "q0", "output": "2024-01-05"}\n',
    "data/train-1.jsonl": b'{"instruction": "q1", "output": "a1"}\n',
    "data/test-0.jsonl": b'{"instruction": "q2", "output": "a2"}\n',
    "README.md": b"---\nconfigs:\n- config_name: evil\n  data_files: ../../etc/passwd\n---\n",
    "loader.py": b"raise SystemExit('a script of the dataset was run')\n",
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
READ = """
import json, sys
from sapwood.data.files.sources import read_rows
from sapwood.errors import DataError
try:
    print(json.dumps([[str(row.id), row.value] for row in read_rows(sys.argv[1:])]))
except DataError as error:
    print(json.dumps(str(error)))
"""


class Hub(BaseHTTPRequestHandler):
    """The four answers that a client needs to list and to fetch."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        asked = json.loads(self.rfile.read(size) or b"{}").get("paths", [])
        self.send([entry for entry in entries() if entry["path"] in asked])

    def answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/datasets/org/name/resolve/"):
            content = FILES.get(path.split("/", 6)[6].replace("%2F", "/"))
            self.send(content, body) if content is not None else self.send(None)
        elif path.startswith("/api/datasets/org/name/tree/"):
            folder = path.split("/", 7)[7] if path.count("/") > 6 else ""
            self.send([e for e in entries() if not folder or e["path"].startswith(f"{folder}/")])
        elif path.startswith("/api/datasets/org/name"):
            siblings = [{"rfilename": name} for name in FILES]
            self.send({"id": "org/name", "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        else:
            self.send(None)

    def send(self, value: object, body: bool = True) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(404 if value is None else 200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        if value is None:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


def entries() -> list[dict[str, object]]:
    files: list[dict[str, object]] = [
        {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        for name, content in FILES.items()
    ]
    return [*files, {"type": "directory", "path": "data", "size": 0, "oid": "d" * 40}]


@pytest.fixture(scope="module")
def hub() -> Generator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def read(hub: str, home: Path, *paths: str, code: str = READ) -> object:
    env = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "http_proxy", "HTTP_PROXY"):
        env.pop(name, None)
    command = [sys.executable, "-c", code, *paths]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_files_are_listed_fetched_and_read_as_they_are(hub: str, tmp_path: Path) -> None:
    found = read(hub, tmp_path, "hf:org/name/data/train-*.jsonl")
    assert found == [
        ["hf:org/name/data/train-0.jsonl:1", {"instruction": "q0", "output": "2024-01-05"}],
        ["hf:org/name/data/train-1.jsonl:1", {"instruction": "q1", "output": "a1"}],
    ]


def test_without_a_file_the_training_files_are_read(hub: str, tmp_path: Path) -> None:
    found = read(hub, tmp_path, "hf:org/name")
    assert isinstance(found, list)
    names = [name for name, _ in found]
    assert names == ["hf:org/name/data/train-0.jsonl:1", "hf:org/name/data/train-1.jsonl:1"]


HELD = """
import json, sys
from sapwood.config.sections import DataConfig
from sapwood.data.formats import ReadReport, read_conversations
from sapwood.data.held_out import held_out_files
found = [held_out_files(DataConfig(train=(sys.argv[1],), **more)) for more in ({}, {"eval": 0.1})]
report = ReadReport()
found.append([str(one.row) for one in read_conversations(DataConfig(train=(sys.argv[1],)), found[0])])
found.append(list(read_conversations(DataConfig(train=(sys.argv[1],)), report=report)) and report.notes())
print(json.dumps(found))
"""


def test_another_split_of_the_dataset_is_held_out_if_the_user_names_none(hub: str, tmp_path: Path) -> None:
    held, named, rows, notes = read(hub, tmp_path, "hf:org/name", code=HELD)  # type: ignore[misc]
    assert held == ["hf:org/name/data/test-0.jsonl"]
    assert named == []
    assert rows == ["hf:org/name/data/test-0.jsonl:1"]
    assert "'data/test-0.jsonl' is another split, and not learnt" in notes[0]
    assert read(hub, tmp_path, "hf:org/name/data/train-0.jsonl", code=HELD)[0] == []  # type: ignore[index]


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["rows.json"], {"rows.json"}),
        (["data/a-0.parquet", "data/a-1.parquet"], {"data/a-0.parquet", "data/a-1.parquet"}),
        (["train.csv", "validation.csv", "test.csv"], {"train.csv"}),
        (["data/train-00000-of-00001-9ad8.parquet"], {"data/train-00000-of-00001-9ad8.parquet"}),
        (["x/training.jsonl", "x/eval_train.jsonl", "trained.jsonl"], {"x/training.jsonl"}),
    ],
)
def test_the_files_to_train_on_where_they_are_clear(names: list[str], chosen: set[str]) -> None:
    assert training_files(names, "org/name", "hf:org/name") == chosen


@pytest.mark.parametrize(
    "names", [["a.json", "b.csv"], ["en/train.json", "de/train.json"], ["test.json"], ["a.json", "dev.json"]]
)
def test_what_is_not_clear_is_listed(names: list[str]) -> None:
    with pytest.raises(DataError, match="it is not clear which file to train on") as caught:
        training_files(names, "org/name@v1", "hf:org/name@v1")
    assert all(f"hf:org/name@v1/{name}" in caught.value.problems[0].mend for name in names)


def test_a_dataset_without_data_says_so() -> None:
    with pytest.raises(DataError, match="holds no data file"):
        training_files([], "org/name", "hf:org/name")


def test_a_dataset_that_is_not_there_is_said(hub: str, tmp_path: Path) -> None:
    found = str(read(hub, tmp_path, "hf:org/none/data/a.jsonl", "hf:org/name/data/none-*.jsonl"))
    assert found.count("the dataset can't be fetched") == 2
    assert "hf:org/none/data/a.jsonl" in found
    assert "hf:org/name/data/none-*.jsonl" in found
