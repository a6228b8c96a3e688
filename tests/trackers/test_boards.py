"""Each tracker's board as the run's last lines name it: started, and its curve held against events.jsonl."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

import nbformat
import pytest
from nbclient import NotebookClient

from sapwood.errors import ConfigError
from sapwood.machine.network import answers
from sapwood.run.query import boards, read_events, summarise
from sapwood.show.board import Board
from sapwood.show.tables import summary
from tests.run.conftest import Make

MLFLOW = os.environ.get("SAPWOOD_TEST_MLFLOW")  # the program of a whole mlflow in an environment of its own
PROJECT = "orchard"
CURVE = "train/loss"
Points = list[tuple[int, float]]


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def served(see: str, port: int, *extra: str) -> Iterator[str]:
    """The command of a run's last lines, with a free port; its address."""
    words = shlex.split(see.partition("  (")[0])
    settings = {w.split("=", 1)[0]: w.split("=", 1)[1] for w in words if re.match(r"[A-Z_]+=", w)}
    command = [w for w in words if not re.match(r"[A-Z_]+=", w)]
    program = Path(sys.executable).with_name(command[0])
    if command[0] == "mlflow" and MLFLOW is not None:
        program = Path(MLFLOW)
    environment = {**os.environ, **settings, "GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "0"}
    process = subprocess.Popen(
        [str(program), *command[1:], *extra],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def ask(address: str, body: Any = None, patience: float = 60) -> Any:
    """The JSON (or the text) at an address, once the server has come up."""
    until = time.monotonic() + patience
    while True:
        try:
            data = None if body is None else json.dumps(body).encode()
            request = Request(address, data, {"Content-Type": "application/json"})
            with urlopen(request, timeout=10) as answer:
                text = answer.read().decode()
                return json.loads(text) if "json" in answer.headers["Content-Type"] else text
        except (HTTPError, URLError, ConnectionError, TimeoutError):
            if time.monotonic() > until:
                raise
            time.sleep(0.3)


def swanlab_points(see: str, run: Path, port: int) -> Points:
    with served(see, port, "-p", str(port)) as at:
        return swanlab_page(at, run)


def swanlab_page(at: str, run: Path) -> Points:
    assert "<html" in ask(at)
    (experiment,) = ask(f"{at}/api/v1/project")["data"]["experiments"]
    found = ask(f"{at}/api/v1/experiment/{experiment['id']}/tag/{quote(CURVE, safe='')}")["data"]["list"]
    return [(int(point["index"]), float(point["data"])) for point in found]


def tensorboard_points(see: str, run: Path, port: int) -> Points:
    with served(see, port, "--port", str(port)) as at:
        return tensorboard_page(at, run)


def tensorboard_page(at: str, run: Path) -> Points:
    assert "<html" in ask(at)
    where = f"{at}/data/plugin/scalars/scalars?tag={quote(CURVE, safe='')}&run={run.name}/tensorboard"
    return [(int(step), float(value)) for _, step, value in ask(where)]


def trackio_points(see: str, run: Path, port: int) -> Points:
    with served(see, port) as at:
        assert "<html" in ask(at)
        body = {"project": PROJECT, "run": run.name}
        found = ask(f"{at}/api/get_logs", body)["data"]
    return [(int(row["step"]), float(row[CURVE])) for row in found if CURVE in row]


def mlflow_points(see: str, run: Path, port: int) -> Points:
    if find_spec("flask") is None and MLFLOW is None:
        assert "the board is in the whole of mlflow" in see
        pytest.skip("mlflow-skinny has no board; the whole of mlflow isn't installed")
    with served(see, port, "--port", str(port), "--workers", "1") as at:
        assert "<html" in ask(at, patience=200)
        api = f"{at}/ajax-api/2.0/mlflow"
        every = ask(f"{api}/experiments/search", {"max_results": 10})["experiments"]
        (found,) = [experiment for experiment in every if experiment["name"] == PROJECT]
        (one,) = ask(f"{api}/runs/search", {"experiment_ids": [found["experiment_id"]]})["runs"]
        id = one["info"]["run_id"]
        history = ask(f"{api}/metrics/get-history?run_id={id}&metric_key={quote(CURVE, safe='')}")
    return [(int(point["step"]), float(point["value"])) for point in history["metrics"]]


def wandb_points(see: str, run: Path, port: int) -> Points:
    """W&B's web board needs an account; ``wandb leet`` draws the curves in a terminal, and lists them."""
    pexpect = pytest.importorskip("pexpect")
    program, *arguments = shlex.split(see)
    command = str(Path(sys.executable).with_name(program))
    (folder,) = Path(arguments[-1]).glob("offline-run-*")
    shown = pexpect.spawn(command, ["leet", "run", str(folder)], dimensions=(50, 160), timeout=30)
    shown.expect("train/loss")
    shown.sendline("q")
    with suppress(pexpect.TIMEOUT):
        shown.expect(pexpect.EOF, timeout=10)
    with suppress(ProcessLookupError):
        os.killpg(shown.pid, signal.SIGKILL)  # the program that it started, too
    shown.close(force=True)
    listed = subprocess.run(
        [command, "leet", "inspect", str(folder), "--json"], capture_output=True, text=True, timeout=60
    )
    assert listed.returncode == 0, listed.stderr
    points: Points = []
    for line in listed.stdout.splitlines():
        history = json.loads(line).get("history", {})
        if CURVE in history.get("item", {}):
            points.append((int(history["step"]["num"]), float(history["item"][CURVE])))
    return points


ASK: dict[str, Callable[[str, Path, int], Points]] = {
    "swanlab": swanlab_points,
    "tensorboard": tensorboard_points,
    "trackio": trackio_points,
    "mlflow": mlflow_points,
    "wandb": wandb_points,
}


@pytest.mark.parametrize("tracker", ASK)
def test_the_board_that_is_named_shows_the_curve(
    tracker: str, make_run: Make, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec(tracker) is None or (tracker == "swanlab" and find_spec("swanboard") is None):
        pytest.skip(f"{tracker}, or its board, isn't installed")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    run = make_run()
    told = subprocess.run(
        [sys.executable, "-m", "sapwood", "track", str(run), "--to", tracker, "--project", PROJECT],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    see = boards(run)[tracker]
    assert see in told.stdout
    summary_text = tmp_path / "summary.txt"
    with summary_text.open("w") as out:
        summary(out, summarise(run))
    assert see in summary_text.read_text(), "the run's last lines name it"
    assert_curve(ASK[tracker](see, run, port), run)


def assert_curve(found: Points, run: Path) -> None:
    """The board shows the points that stand in events.jsonl."""
    events, _ = read_events(run)
    truth = [(e["step"], e["data"]["loss"]) for e in events if e["kind"] == "stepped"]
    assert [step for step, _ in sorted(found)] == [step for step, _ in truth]
    assert [value for _, value in sorted(found)] == pytest.approx([value for _, value in truth], rel=1e-6)


CELL = """
from sapwood.show.board import Board
board = Board({run!r}, {tracker!r})
board
"""


@pytest.mark.parametrize(("tracker", "page"), [("swanlab", swanlab_page), ("tensorboard", tensorboard_page)])
def test_a_cell_of_a_notebook_shows_the_board_with_the_curve(
    tracker: str, page: Callable[[str, Path], Points], make_run: Make, tmp_path: Path
) -> None:
    pytest.importorskip("swanboard" if tracker == "swanlab" else tracker)
    run = make_run()
    told = subprocess.run(
        [sys.executable, "-m", "sapwood", "track", str(run), "--to", tracker],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    cell = nbformat.v4.new_code_cell(CELL.format(run=str(run), tracker=tracker))
    client = NotebookClient(nbformat.v4.new_notebook(cells=[cell]), timeout=120)
    with client.setup_kernel(cwd=str(tmp_path)):
        client.execute_cell(cell, 0)
        shown = cell.outputs[-1].data["text/html"]
        address = re.fullmatch(
            r'<iframe src="(http://127.0.0.1:\d+)" width="100%" height="720"></iframe>', shown
        )
        assert address is not None
        assert_curve(page(address[1], run), run)
    until = time.monotonic() + 20
    while answers(address[1]) and time.monotonic() < until:
        time.sleep(0.2)
    assert not answers(address[1]), "it ends with the notebook"


def test_a_board_that_nobody_was_told_of_is_refused_and_one_that_is_closed_is_gone(make_run: Make) -> None:
    pytest.importorskip("tensorboard")
    run = make_run()
    with pytest.raises(ConfigError, match="no board to show"):
        Board(str(run))
    told = subprocess.run(
        [sys.executable, "-m", "sapwood", "track", str(run), "--to", "tensorboard"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    board = Board(str(run))
    assert "<html" in ask(board.address)
    board.close()
    assert not answers(board.address)


def test_every_tracker_has_a_board_here() -> None:
    from typing import get_args

    from sapwood.config.kinds import TrackerName

    assert set(ASK) == set(get_args(TrackerName))
