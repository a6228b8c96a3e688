"""A server of the page as a person starts it, and runs for it to show."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sapwood.config.file import dump_config, parse_config
from sapwood.run.store import open_run
from sapwood.types import Evaluated, Finished, RowId, Sample, Stepped

SRC = Path(__file__).parents[2] / "src"
PATIENCE = 60.0

# A trainer in small: it holds a run, records a step every tenth of a second, and never ends by itself.
HOLDER = """
import sys, time
from pathlib import Path
from tests.page.shared import stepped, evaluated
from sapwood.config.file import dump_config, parse_config
from sapwood.run.store import open_run
tree = {"data": {"train": ["rows.jsonl"]}, "name": sys.argv[2]}
facts = {"base": "builtin:smollm2", "total_steps": 100000}
config = dump_config(parse_config(tree))
with open_run(Path(sys.argv[1]), name=sys.argv[2], config_yaml=config, facts=facts) as run:
    run.record(evaluated(0, 3.0))
    print(run.path, flush=True)
    step = 0
    while True:
        step += 1
        run.record(stepped(step, 2.0 + 1.0 / step))
        time.sleep(float(sys.argv[3]))
"""


@dataclass(slots=True)
class Server:
    """A running `sapwood ui`."""

    process: subprocess.Popen[str]
    address: str
    token: str
    runs: Path
    home: Path
    port: int
    options: tuple[str, ...]
    said: Path

    def url(self, path: str) -> str:
        return f"{self.address}{path}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()


def environment(home: Path) -> dict[str, str]:
    paths = [str(SRC), str(SRC.parent)]
    if "SLIPCOVER_COVERAGE_DIR" in os.environ:  # while the suite is measured, so is the server
        paths.append(str(Path(__file__).parents[1] / "covered"))
    inherited = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}  # NiceGUI looks for it
    caches = {"HF_HUB_CACHE": str(home / "hf"), "MODELSCOPE_CACHE": str(home / "ms")}
    return {
        **inherited,
        **caches,
        "PYTHONPATH": os.pathsep.join(paths),
        "XDG_STATE_HOME": str(home / "state"),
    }


def serve(home: Path, runs: Path, port: int = 0, *options: str) -> Server:
    """Start a server and wait until it says its address. ``port`` 0 is a free one."""
    words = ["ui", "--runs", str(runs), "--folder", str(home), "--no-browser", *options]
    port = port or free_port()
    said = home / f"said-{port}.txt"  # a file, since a pipe that nobody reads stops who writes
    with said.open("a") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "sapwood", *words, "--port", str(port)],
            stdout=subprocess.PIPE, stderr=errors, text=True, cwd=home, env=environment(home),
        )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    if "http" not in line:
        raise AssertionError(f"no server: {line}{said.read_text()}")
    address, _, token = line.split()[-1].partition("/?token=")
    return Server(process, address, token, runs, home, port, options, said)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def hold_run(
    home: Path, runs: Path, name: str = "held", every: float = 0.1
) -> tuple[subprocess.Popen[str], Path]:
    """A process that trains nothing and records a step every ``every`` seconds, and its run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(runs), name, str(every)],
        stdout=subprocess.PIPE, text=True, env=environment(home),
    )  # fmt: skip
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def stepped(step: int, loss: float = 2.5) -> Stepped:
    return Stepped(step, loss, 400, 620, 1e-4 / step, 0.8, 2.0, 1_800_000_000, step / 40, 8)


def evaluated(step: int, loss: float, *samples: Sample) -> Evaluated:
    return Evaluated(step, loss, 500, 3.0, samples)


def sample(answer: str, prompt: str = "What grows?", *, stopped: bool = True) -> Sample:
    return Sample(RowId("rows.jsonl", 3, 4), prompt, answer, "An apple tree.", 42, stopped)


def made_run(runs: Path, name: str, steps: int = 40, status: str = "finished", **config: object) -> Path:
    """A run on disk with a falling loss and answers at three evaluations."""
    tree = {"data": {"train": ["rows.jsonl"]}, "name": name, **config}
    facts = {"base": "builtin:smollm2", "total_steps": steps, "memory": {"peak": 2.1e9}}
    with open_run(runs, name=name, config_yaml=dump_config(parse_config(tree)), facts=facts) as run:
        for step in range(steps + 1):
            if step:
                run.record(stepped(step, 1.2 + 2.0 / (1 + step / 5)))
            if step in (0, steps // 2, steps):
                said = "I am a model." if step == 0 else f"Ah, neighbour: an apple tree. ({step})"
                run.record(evaluated(step, 3.0 - 1.5 * step / steps, sample(said, stopped=step > 0)))
        run.record(Finished(steps, "done", 99.0))
        run.set_status(status, total_steps=steps)  # type: ignore[arg-type]
    return run.path


def eventually(true: Callable[[], object], seconds: float = PATIENCE) -> float:
    """Wait until ``true`` is; how long that took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, "it never became true"
        time.sleep(0.1)
    return time.monotonic() - began


def write_rows(file: Path, rows: list[dict[str, str]]) -> Path:
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return file
