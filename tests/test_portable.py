"""Other systems: what only POSIX or Linux has stands in one module, and the verbs work without it.

Nothing here runs on Windows or macOS; `elsewhere/sitecustomize.py` takes away from sapwood what those lack.
"""

from __future__ import annotations

import ast
import json
import os
import pkgutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import sapwood
from tests.base.tiny import tiny_llama
from tests.elsewhere.sitecustomize import LACKING, MISSING
from tests.test_architecture import imports, modules, name_of

ELSEWHERE = Path(__file__).parent / "elsewhere"
AT_HOME = "machine/system"
CAUGHT = ("os.getloadavg", "os.sched_getaffinity", "os.pread", "os.O_NONBLOCK", "signal.SIGHUP", "os.nice")


def only_posix(source: str) -> set[str]:
    """``module.name`` for what a source names that other systems lack."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
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
    assert not only_posix(path.read_text(encoding="utf-8"))
    assert '"/proc' not in path.read_text(encoding="utf-8") or "kernel_file" in path.read_text("utf-8")


def test_the_search_finds_what_it_looks_for() -> None:
    said = "import os, signal\n" + "\n".join(CAUGHT)
    assert only_posix(said) == set(CAUGHT)
    assert only_posix("from os import nice, getpid") == {"os.nice"}


def run(*arguments: str, cwd: Path | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    paths = [str(ELSEWHERE), str(Path(sapwood.__file__).parents[1])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=cwd,
        env=env,
        timeout=240,
    )


# All verbs in one interpreter: starting one with torch, transformers and PEFT takes longer than the work.
VERBS = """
import contextlib, io, json, sys
from sapwood.cli import main
told = []
for words, typed in json.loads(sys.argv[1]):
    out, sys.argv, sys.stdin = io.StringIO(), ["sapwood", *words], io.StringIO(typed)
    with contextlib.redirect_stdout(out):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
    assert code == 0, (words, code, out.getvalue())
    told.append(out.getvalue())
json.dump(told, sys.stdout)
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


def test_elsewhere_every_module_can_be_imported() -> None:
    names = [found.name for found in pkgutil.walk_packages(sapwood.__path__, "sapwood.")]
    absent = {f"sapwood.trackers.{n}" for n in ("swanlab", "tensorboard", "wandb", "trackio", "mlflow")}
    absent = {name for name in absent if find_spec(name.rsplit(".", 1)[1]) is None}
    wanted = [name for name in names if name not in absent | {"sapwood.__main__"}]
    assert len(wanted) > 150
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    done = run("-c", code, *wanted)
    assert done.returncode == 0, done.stderr


Told = dict[str, str]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Told]:
    """The folder, and what each verb printed there."""
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
    done = run("-c", VERBS, json.dumps(list(calls.values())), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return folder, dict(zip(calls, json.loads(done.stdout.splitlines()[-1]), strict=True))


def test_elsewhere_check_train_and_show_work(elsewhere: tuple[Path, Told]) -> None:
    told = elsewhere[1]
    assert "proof" in told["check"]
    assert "⟦Wat" in told["show"]
    assert "step 3/3" in told["train"]


def test_elsewhere_a_tracker_follows_the_training(elsewhere: tuple[Path, Told]) -> None:
    home, _ = elsewhere
    (run_folder,) = (home / "runs").glob("*-mine-*")
    assert list((run_folder / "tensorboard").iterdir())
    assert "stopped" not in (run_folder / "events.jsonl").read_text()


def test_elsewhere_a_run_is_listed_verified_and_resumed(elsewhere: tuple[Path, Told]) -> None:
    told = elsewhere[1]
    assert "finished" in told["runs"]
    assert "DAMAGED" not in told["verify"]
    assert "finished" in told["resume"]


def test_elsewhere_chat_answers(elsewhere: tuple[Path, Told]) -> None:
    assert elsewhere[1]["chat once"].strip()
    assert elsewhere[1]["chat"]


@pytest.mark.parametrize("form", ["merged", "gguf-adapter"])
def test_elsewhere_export_writes_and_checks(elsewhere: tuple[Path, Told], form: str) -> None:
    assert "check" in elsewhere[1][form]


def test_elsewhere_a_pickle_is_refused_with_the_reason(elsewhere: tuple[Path, Told]) -> None:
    home, _ = elsewhere
    (home / "frame.pkl").write_bytes(b"\x80\x04N.")
    done = run("-m", "sapwood", "data", "convert", "frame.pkl", cwd=home)
    assert (done.returncode, "Traceback" in done.stderr) == (3, False)
    assert "no way to take a process's rights" in done.stderr
