"""Runs of two, three and four processes: the same numbers as one; killed, stopped, hung, and resumed."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest
import torch

from sapwood.config.file import dump_config
from sapwood.run.query import list_runs, read_events
from sapwood.train import loop
from sapwood.train.optim import TrainState
from tests.base.tiny import tiny_llama
from tests.crash.work import folder_hash, only_run, tiny_config
from tests.several import Group, command, start

STEPS = 20
TOLERANCE = 1e-5
ALL = "SAPWOOD_CRASH_ALL" in os.environ  # `make crash`


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    train = {"max_steps": STEPS, "batch_size": 6, "lr": 1e-3}
    sections = {"pack": {"length": 64}, "eval": {"every": 10}, "save": {"every": 4}}
    (folder / "config.yaml").write_text(dump_config(tiny_config(folder, train=train, **sections)))
    return folder


def begin(home: Path, runs: Path, size: int, *overrides: str, **variables: str) -> Group:
    arguments = ("train", str(home / "config.yaml"), f"save.dir={runs}", *overrides)
    return start(command, size, runs, *arguments, settings=[variables] * size)


def go_on(runs: Path, size: int) -> Group:
    return start(command, size, runs, "resume", str(only_run(runs)))


def losses(runs: Path) -> list[float]:
    events = read_events(only_run(runs))[0]
    return [e["data"]["loss"] for e in events if e["kind"] in ("stepped", "evaluated")]


def notes(runs: Path) -> list[str]:
    return [e["data"]["text"] for e in read_events(only_run(runs))[0] if e["kind"] == "note"]


def adapter(runs: Path) -> str:
    return folder_hash(only_run(runs) / "adapter")


@pytest.fixture(scope="module")
def whole(home: Path) -> Generator[dict[str, Path]]:
    """Undisturbed runs: of 1, 2, 3 and (`make crash`) 4 processes, and of 2 with the base in parts."""
    found: dict[str, Path] = {}
    for name, size in (("1", 1), ("2", 2), ("3", 3), ("2 parts", 2), *[("4", 4)] * ALL):
        runs = home / f"whole-{name[:3].strip()}-{len(found)}"
        group = begin(home, runs, size, f"train.shard={'base' if 'parts' in name else 'none'}")
        assert group.wait() == [0] * size, [path.read_text() for path in group.outputs]
        found[name] = runs
    yield found


def test_the_losses_of_20_steps_are_those_of_one_process(whole: dict[str, Path]) -> None:
    alone = losses(whole["1"])
    assert len(alone) == STEPS + 3
    for name, runs in whole.items():
        differences = [abs(a - b) for a, b in zip(alone, losses(runs), strict=True)]
        assert max(differences) <= TOLERANCE, (name, max(differences))


def test_a_base_in_parts_gives_the_bits_of_a_whole_one(whole: dict[str, Path]) -> None:
    assert adapter(whole["2 parts"]) == adapter(whole["2"])


def test_000_11_only_the_first_process_writes_and_speaks(whole: dict[str, Path]) -> None:
    outputs = sorted(whole["3"].glob("output-*"))
    texts = [path.read_text() for path in outputs]
    assert "done at step 20/20" in texts[0]
    assert not any("step" in text for text in texts[1:]), texts[1:]
    assert len(list_runs(whole["3"])) == 1
    assert not list(only_run(whole["3"]).glob("**/.tmp-*"))


KILLED = [(2, 1), (3, 0)] + [(2, 0), (3, 1), (3, 2)] * ALL


def at_step(runs: Path, step: int, timeout: float = 60) -> None:
    """Wait until that step is recorded."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        for found in list_runs(runs):
            if found.step >= step:
                return
        time.sleep(0.002)
    raise TimeoutError(f"no step {step} in {runs}")


@pytest.mark.parametrize(("size", "victim"), KILLED)
def test_a_killed_process_ends_the_run_and_resume_gives_the_same_bytes(
    size: int, victim: int, home: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    group = begin(home, tmp_path, size)
    at_step(tmp_path, 3)
    group.kill(victim, signal.SIGKILL)
    codes = group.wait()
    assert codes[victim] == -signal.SIGKILL
    assert [code for rank, code in enumerate(codes) if rank != victim] == [75] * (size - 1)
    (line,) = group.said()
    assert "another process of this run ended" in line and "resume" in line
    (run,) = list_runs(tmp_path)
    assert run.status in ("failed", "crashed")
    if victim:
        assert f"stopped after step {run.step}, saved" in line, "the first one saves what it has"
    again = go_on(tmp_path, size)
    assert again.wait() == [0] * size, [path.read_text() for path in again.outputs]
    assert adapter(tmp_path) == adapter(whole[str(size)])
    assert not notes(tmp_path)


@pytest.mark.parametrize("asked", [1] + [0] * ALL)
def test_a_signal_to_one_process_stops_all_at_the_same_step(
    asked: int, home: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    group = begin(home, tmp_path, 2)
    at_step(tmp_path, 2)
    group.kill(asked, signal.SIGTERM)
    assert group.wait() == [75, 75]
    (line,) = group.said()
    (run,) = list_runs(tmp_path)
    assert run.status == "stopped" and 2 <= run.step < STEPS
    assert f"stopped after step {run.step}, saved" in line
    assert (run.path / "checkpoints" / f"step-{run.step:06d}").is_dir(), "no step is lost"
    assert go_on(tmp_path, 2).wait() == [0, 0]
    assert adapter(tmp_path) == adapter(whole["2"])


def test_another_number_of_processes_is_said(home: Path, whole: dict[str, Path], tmp_path: Path) -> None:
    group = begin(home, tmp_path, 3)
    at_step(tmp_path, 2)
    group.kill(0, signal.SIGTERM)
    assert group.wait() == [75] * 3
    again = go_on(tmp_path, 2)
    assert again.wait() == [0, 0]
    assert any("processes: 3 then, 2 now" in text for text in notes(tmp_path))
    assert any("the last bits may differ" in line for line in again.outputs[0].read_text().splitlines())
    assert max(abs(a - b) for a, b in zip(losses(whole["1"]), losses(tmp_path), strict=True)) <= TOLERANCE


def test_a_finished_run_has_nothing_to_do(home: Path, whole: dict[str, Path]) -> None:
    before = folder_hash(only_run(whole["2"]))
    assert go_on(whole["2"], 2).wait() == [0, 0]
    after = adapter(whole["2"])
    assert after and before


def test_a_hung_process_is_noticed_and_all_end(home: Path, tmp_path: Path) -> None:
    group = begin(home, tmp_path, 3, "train.max_steps=3000", HASTE="1")
    at_step(tmp_path, 2)
    group.kill(1, signal.SIGSTOP)
    until = time.monotonic() + 30
    others = (group.processes[0], group.processes[2])
    while time.monotonic() < until and any(process.is_alive() for process in others):
        time.sleep(0.1)
    assert [process.exitcode for process in others] == [75, 75]
    group.kill(1, signal.SIGKILL)
    group.wait()
    (line,) = group.said()
    assert "process 1 has given no sign of life" in line


def test_a_fault_of_the_config_is_said_once(home: Path, tmp_path: Path) -> None:
    group = begin(home, tmp_path, 2, "train.lr=-1")
    codes = group.wait()
    assert codes[0] == 2 and codes[1] not in (0, None)
    (line,) = group.said()
    assert "train.lr" in line


def with_a_bad_gradient(*arguments: str) -> None:
    """The command line, where the second process finds a gradient of the third step that is no number."""
    whole = loop.gradients

    def spoilt(state: TrainState) -> list[torch.Tensor]:
        found = whole(state)
        if state.step == 2 and os.environ["RANK"] == "1":
            found[0].view(-1)[0] = math.nan
        return found

    loop.gradients = spoilt
    command(*arguments)


def test_numbers_that_are_no_numbers_end_all_alike(home: Path, tmp_path: Path) -> None:
    arguments = ("train", str(home / "config.yaml"), f"save.dir={tmp_path}", "save.every=2")
    group = start(with_a_bad_gradient, 2, tmp_path, *arguments)
    assert group.wait() == [6, 6], [path.read_text() for path in group.outputs]
    what, last = group.said()
    assert "gradient norm nan at step 3" in what
    assert "last good checkpoint: step-000002" in last, "the first one tells"


def test_another_base_under_the_same_name_is_refused(home: Path, tmp_path: Path) -> None:
    hosts = [tmp_path / "a", tmp_path / "b"]
    for seed, host in enumerate(hosts):
        host.mkdir()
        tiny_llama(host, seed=seed)
    settings = [{"CWD": str(host)} for host in hosts]
    arguments = ("train", str(home / "config.yaml"), "save.dir=runs", "base.model=tiny-llama")
    group = start(command, 2, tmp_path, *arguments, settings=settings)
    codes = group.wait()
    assert codes[1] == 4 and codes[0] not in (0, None)
    assert any("the processes have different base models" in line for line in group.said())


# --- two hosts --------------------------------------------------------------------------------------------


@pytest.fixture
def hosts() -> Generator[list[dict[str, str]]]:
    """Two network namespaces with a cable between them, each a host of its own as far as a network tells."""
    if shutil.which("ip") is None:
        pytest.skip("no `ip` here (Debian: iproute2)")
    names = [f"sapwood-{os.getpid()}-{side}" for side in "ab"]
    links = [f"sw{os.getpid() % 100_000}{side}" for side in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip(
            "link",
            "add",
            links[0],
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "name",
            links[1],
            "netns",
            names[1],
        )
        for number, (name, link) in enumerate(zip(names, links, strict=True)):
            ip("-n", name, "addr", "add", f"10.77.0.{number + 1}/24", "dev", link)
            ip("-n", name, "link", "set", link, "up")
            ip("-n", name, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        clean(names)
        pytest.skip(f"network namespaces aren't allowed here: {error.stderr.strip()}")
    yield [
        {
            "NETNS": name, "GLOO_SOCKET_IFNAME": link, "MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29517",
            "TORCHELASTIC_USE_AGENT_STORE": "False", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
        }
        for name, link in zip(names, links, strict=True)
    ]  # fmt: skip
    clean(names)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def clean(names: list[str]) -> None:
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def test_two_hosts_that_share_no_folder(
    hosts: list[dict[str, str]], home: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    """The second host has the model; it has neither the data nor the run."""
    model = Path(tiny_config(home).base.model)
    for name, host in zip("ab", hosts, strict=True):
        (tmp_path / name).mkdir()
        host["CWD"] = str(tmp_path / name)
        shutil.copytree(model, tmp_path / name / "model")
    shutil.copy(home / "rows.jsonl", tmp_path / "a")
    overrides = ("save.dir=runs", "base.model=model", "data.train=rows.jsonl", "name=hosts")
    group = start(command, 2, tmp_path, "train", str(home / "config.yaml"), *overrides, settings=hosts)
    assert group.wait() == [0, 0], [path.read_text() for path in group.outputs]
    assert losses(tmp_path / "a" / "runs") == losses(whole["2"])
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["model"]


# --- the launchers themselves -----------------------------------------------------------------------------

LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--nproc-per-node", "2"],
    "accelerate": ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_launchers_themselves(launcher: str, home: Path, whole: dict[str, Path], tmp_path: Path) -> None:
    """From cold. The bits are those of the forked runs: it is the same program."""
    if not ALL:
        pytest.skip("half a minute of imports: `make crash` has it")
    arguments = [*LAUNCHERS[launcher], "-m", "sapwood", "train", str(home / "config.yaml")]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments, f"save.dir={tmp_path}"], capture_output=True, text=True, env=variables
    )
    assert done.returncode == 0, done.stderr
    assert adapter(tmp_path) == adapter(whole["2"])
