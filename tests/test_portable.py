"""Other systems: what only POSIX or Linux has stands in one module, and the verbs work without it.

Nothing here runs on Windows or macOS; `elsewhere/sitecustomize.py` takes away from sapwood what those lack.
"""

from __future__ import annotations

import ast
import json
import os
import pkgutil
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

import sapwood
from sapwood.cli import app
from sapwood.machine.network import answers
from tests.base.tiny import tiny_llama
from tests.elsewhere.sitecustomize import LACKING, MISSING
from tests.test_architecture import imports, modules, name_of, tree_of

ELSEWHERE = Path(__file__).parent / "elsewhere"
AT_HOME = "machine/system"
CAUGHT = ("os.getloadavg", "os.sched_getaffinity", "os.pread", "os.O_NONBLOCK", "signal.SIGHUP", "os.nice")


def only_posix(tree: ast.Module) -> set[str]:
    """``module.name`` for what a source names that other systems lack."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in LACKING.get(node.value.id, ()):
                found.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.ImportFrom) and node.module in LACKING:
            lacking = LACKING[node.module]
            found |= {f"{node.module}.{name.name}" for name in node.names if name.name in lacking}
    return found


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_what_other_systems_lack_stands_in_one_module(path: Path) -> None:
    if name_of(path) == AT_HOME:
        return
    assert not {name.split(".")[0] for name in imports(path)} & MISSING
    assert not only_posix(tree_of(path))
    source = path.read_text(encoding="utf-8")
    assert '"/proc' not in source or "kernel_file" in source


def test_the_search_finds_what_it_looks_for() -> None:
    said = "import os, signal\n" + "\n".join(CAUGHT)
    assert only_posix(ast.parse(said)) == set(CAUGHT)
    assert only_posix(ast.parse("from os import nice, getpid")) == {"os.nice"}


def environment() -> dict[str, str]:
    paths = [str(ELSEWHERE), str(Path(sapwood.__file__).parents[1])]
    inherited = {
        key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"
    }  # NiceGUI asks
    return {**inherited, "PYTHONPATH": os.pathsep.join(paths)}


def run(*arguments: str, cwd: Path | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(),
        timeout=240,
    )


# All in one interpreter: starting one with torch, transformers and PEFT takes longer than the work. First the
# verbs; then, beside an adapter that lies by itself, the others; at last the modules that no verb imported.
VERBS = """
import contextlib, importlib, io, json, shutil, sys, traceback
from pathlib import Path
from sapwood.cli import main
verbs, others, modules = json.loads(sys.argv[1])
told = {}

def typed(name, words, lines):
    out, sys.argv, sys.stdin = io.StringIO(), ["sapwood", *words], io.StringIO(lines)
    with contextlib.redirect_stdout(out):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
    assert code == 0, (words, code, out.getvalue())
    told[name] = out.getvalue()

for name, (words, lines) in verbs.items():
    typed(name, words, lines)
(run,) = Path("runs").glob("*-mine-*")
shutil.copytree(run / "adapter", "plain", ignore=shutil.ignore_patterns("sapwood.json", "MANI*"))
for line in others:
    typed(line, line.split(), "")
failed = {}
for name in modules:
    try:
        importlib.import_module(name)
    except Exception:
        failed[name] = traceback.format_exc()
json.dump({"told": told, "failed": failed}, sys.stdout)
"""


def test_elsewhere_the_calls_are_gone_for_sapwood_and_for_nobody_else() -> None:
    code = (
        "import os, sapwood.machine.system as s\n"
        "assert os.getloadavg and not hasattr(s.os, 'getloadavg') and s.resource is None\n"
        "assert not any(n.name == 'SIGHUP' for n in s.STOP_SIGNALS) and len(s.STOP_SIGNALS) == 2\n"
        "print(s.busy_processes(), s.cores(), s.peak_resident() > 1e6, s.limits('AS'), s.can_confine())"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0.0", str(os.cpu_count()), "True", "(None,", "None)", "False"]


def every_module() -> list[str]:
    """Without the trackers whose libraries aren't installed."""
    names = [found.name for found in pkgutil.walk_packages(sapwood.__path__, "sapwood.")]
    absent = {f"sapwood.trackers.{n}" for n in ("swanlab", "tensorboard", "wandb", "trackio", "mlflow")}
    absent = {name for name in absent if find_spec(name.rsplit(".", 1)[1]) is None}
    return [name for name in names if name not in absent | {"sapwood.__main__"}]


OTHERS = (
    "doctor --json", "model list", "model info tiny-llama", "init other.yaml --data rows.jsonl",
    "import trainer.yaml --no-check", "eval mine --answers 1 --max-new-tokens 4", "report mine",
    "track mine --to tensorboard", "combine mine mine --out both", "push mine me/oak --dry-run",
    "adopt plain --base tiny-llama", "demo --help", "help train",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The folder, what each verb printed there, and the modules that can't be imported there, with why."""

    home: Path
    told: dict[str, str]
    failed: dict[str, str]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    folder = tmp_path_factory.mktemp("elsewhere")
    tiny_llama(folder)
    rows = [{"instruction": f"Tree {i}?", "output": f"Water tree {i} well."} for i in range(12)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "my.yaml").write_text(
        "name: mine\n"
        "base: {model: tiny-llama, storage: fp32}\n"
        "data: {train: rows.jsonl, eval: 2}\n"
        "lora: {rank: 2}\n"
        "train: {batch_size: 5, max_steps: 3, lr: 1e-2}\n"
        "eval: {samples: 1, max_new_tokens: 4}\n"
        "track: {to: [tensorboard]}\n"
    )
    (folder / "trainer.yaml").write_text(
        "base_model: tiny-llama\nadapter: lora\ndatasets: [{path: rows.jsonl, type: alpaca}]\n"
    )
    chat = ("chat", "mine", "--max-new-tokens", "4")
    calls: dict[str, tuple[tuple[str, ...], str]] = {
        "train": (("train", "my.yaml"), ""),
        "check": (("check", "my.yaml"), ""),
        "show": (("show", "my.yaml"), ""),
        "runs": (("runs",), ""),
        "verify": (("verify", "mine"), ""),
        "resume": (("resume", "mine"), ""),
        "chat once": ((*chat, "-p", "Tree 3?"), ""),
        "chat": (chat, "Tree 1?\n/quit\n"),
        "merged": (("export", "mine", "--to", "merged"), ""),
        "gguf-adapter": (("export", "mine", "--to", "gguf-adapter"), ""),
    }
    modules = every_module()
    assert len(modules) > 150
    done = run("-c", VERBS, json.dumps([calls, OTHERS, modules]), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return Elsewhere(folder, **json.loads(done.stdout.splitlines()[-1]))


def test_elsewhere_every_module_can_be_imported(elsewhere: Elsewhere) -> None:
    assert not elsewhere.failed


def test_elsewhere_check_train_and_show_work(elsewhere: Elsewhere) -> None:
    told = elsewhere.told
    assert "proof" in told["check"]
    assert "⟦Wat" in told["show"]
    assert "step 3/3" in told["train"]


def test_elsewhere_a_tracker_follows_the_training(elsewhere: Elsewhere) -> None:
    home = elsewhere.home
    (run_folder,) = (home / "runs").glob("*-mine-*")
    assert list((run_folder / "tensorboard").iterdir())
    assert "stopped" not in (run_folder / "events.jsonl").read_text()


def test_elsewhere_a_run_is_listed_verified_and_resumed(elsewhere: Elsewhere) -> None:
    told = elsewhere.told
    assert "finished" in told["runs"]
    assert "DAMAGED" not in told["verify"]
    assert "finished" in told["resume"]


def test_elsewhere_chat_answers(elsewhere: Elsewhere) -> None:
    assert elsewhere.told["chat once"].strip()
    assert elsewhere.told["chat"]


@pytest.mark.parametrize("form", ["merged", "gguf-adapter"])
def test_elsewhere_export_writes_and_checks(elsewhere: Elsewhere, form: str) -> None:
    assert "check" in elsewhere.told[form]


def test_elsewhere_the_other_verbs_work(elsewhere: Elsewhere) -> None:
    assert set(OTHERS) <= set(elsewhere.told)


@pytest.mark.parametrize(
    ("verb", "ready"), [("serve mine --port 0", "serving"), ("ui --no-browser", "sapwood ui")]
)
def test_elsewhere_a_server_comes_up_and_ends(verb: str, ready: str, elsewhere: Elsewhere) -> None:
    home = elsewhere.home
    command = [sys.executable, "-m", "sapwood", *verb.split()]
    with subprocess.Popen(command, cwd=home, env=environment(), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        said = next((line for line in server.stdout if line.startswith(ready)), "")
        address = re.search(r"http://[^/ ]+", said)
        assert address is not None and answers(address[0])
        server.terminate()
        server.wait(30)


def test_every_verb_is_tried_elsewhere() -> None:
    tried = {line.split()[0] for line in (*OTHERS, "serve", "ui", "data convert")}
    tried |= {"train", "check", "show", "runs", "verify", "resume", "chat", "export"}
    assert tried == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_elsewhere_a_pickle_is_refused_with_the_reason(elsewhere: Elsewhere) -> None:
    home = elsewhere.home
    (home / "frame.pkl").write_bytes(b"\x80\x04N.")
    done = run("-m", "sapwood", "data", "convert", "frame.pkl", cwd=home)
    assert (done.returncode, "Traceback" in done.stderr) == (3, False)
    assert "can't confine the process" in done.stderr
