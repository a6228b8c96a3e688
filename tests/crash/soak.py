"""Kill training runs at random instants, resume them until they are done, and compare the finished adapter
with an undisturbed run's, byte for byte: ``python -m tests.crash.soak --kills 1000``.

The tiny runs are forked from a warm parent, so that nearly all kills land in the run and not in imports;
``--real N`` adds N kills of the built-in model, each process started from cold by the command line.
"""

from __future__ import annotations

import argparse
import filecmp
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from sapwood.run.query import list_runs
from tests.crash.work import folder_hash, only_run, tiny_config, train_or_resume
from tests.forks import exit_code, killed_after

MOST_KILLS_A_RUN = 12
REAL_STEPS = 4


@dataclass(slots=True)
class Tally:
    """runs: finished ones, ``equal`` of them with the undisturbed adapter. kills: by where they struck."""

    runs: int = 0
    equal: int = 0
    kills: Counter[str] = field(default_factory=Counter[str])

    @property
    def total(self) -> int:
        return sum(self.kills.values())

    def __str__(self) -> str:
        where = ", ".join(f"{count} {place}" for place, count in sorted(self.kills.items()))
        return f"{self.total} kills ({where}); {self.equal} of {self.runs} finished adapters are identical"


def soak(kills: int, seed: int, folder: Path, say: Callable[[str], None] = print) -> Tally:
    """Tiny runs, each killed up to a dozen times until ``kills`` processes have died by SIGKILL: at uniformly
    random instants of what an undisturbed run takes, half of them counted from when there is a run, because
    a busy machine spends most of a tiny run on what comes before."""
    rng, tally = random.Random(seed), Tally()
    one = {"threads": 1}  # bits are promised for the same number
    config = tiny_config(folder, made(folder / "undisturbed"), train=one).model_dump(mode="json")
    assert exit_code(train_or_resume, config) == 0  # pays for the warm parent
    expected = folder_hash(only_run(folder / "undisturbed") / "adapter")
    config["save"]["dir"] = str(folder / "timed")
    started = time.monotonic()
    assert exit_code(train_or_resume, config) == 0
    whole = time.monotonic() - started
    after = max(0.1, time.time() - _born(folder / "timed"))
    while tally.total < kills:
        runs = folder / f"runs-{tally.runs}"
        config["save"]["dir"] = str(runs)
        left = min(rng.randint(1, MOST_KILLS_A_RUN), kills - tally.total)
        while left:
            resumed = bool(list_runs(runs))  # such a run measures nothing and has less to do
            late = resumed or rng.random() < 0.5
            seconds = rng.uniform(0, after if late else whole)
            begun = None if resumed or not late else lambda runs=runs: bool(list_runs(runs))
            began = time.monotonic()
            if not killed_after(seconds, train_or_resume, config, begun=begun):
                if late:
                    after = (after + min(seconds, after)) / 2  # the machine is faster now
                else:
                    whole = (whole + (time.monotonic() - began)) / 2
                break
            tally.kills[place_of(runs, resumed)] += 1
            left -= 1
        assert exit_code(train_or_resume, config) == 0, f"{runs} can't be finished"
        tally.runs += 1
        if folder_hash(only_run(runs) / "adapter") == expected:
            tally.equal += 1
            shutil.rmtree(runs)
        else:
            names = differing(only_run(folder / "undisturbed") / "adapter", only_run(runs) / "adapter")
            say(f"{runs} gave another adapter: {', '.join(names)}")
        if tally.runs % 20 == 0:
            say(str(tally))
    return tally


def _born(runs: Path) -> float:
    """When the only run of a folder began, in seconds since 1970."""
    return datetime.fromisoformat(list_runs(runs)[0].created).timestamp()


def place_of(runs: Path, resumed: bool) -> str:
    """Where the last kill struck, as far as the disk tells."""
    found = list_runs(runs)
    if not found:
        return "before there was a run"
    if any(found[0].path.glob("**/.tmp-*")):
        return "inside a save"
    return "in a resumed run" if resumed else "in a first run"


def real_soak(kills: int, seed: int, folder: Path) -> Tally:
    """The same with the built-in model, from cold, through the command line."""
    rng, tally = random.Random(seed), Tally()
    config = folder / "real.yaml"
    config.write_text(
        "data: {train: builtin:nursery, eval: 8}\n"
        f"train: {{max_steps: {REAL_STEPS}, batch_size: 4, threads: 1}}\n"
        "eval: {samples: 1, max_new_tokens: 8}\n"
        "save: {every: 1}\n"
        "base: {storage: fp32}\n"
    )
    started = time.monotonic()
    made(folder / "undisturbed")
    subprocess.run(command(config, folder / "undisturbed"), check=True, stdout=subprocess.DEVNULL)
    whole = time.monotonic() - started
    expected = folder_hash(only_run(folder / "undisturbed") / "adapter")
    while tally.total < kills:
        runs = folder / f"real-{tally.runs}"
        for _ in range(min(rng.randint(1, 5), kills - tally.total)):
            resumed = bool(list_runs(runs))
            process = subprocess.Popen(command(config, runs), stdout=subprocess.DEVNULL)
            try:
                began = time.monotonic()
                process.wait(rng.uniform(0, whole))
                whole = (whole + time.monotonic() - began) / 2  # the machine is faster now
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                tally.kills[place_of(runs, resumed)] += 1
        subprocess.run(command(config, runs), check=True, stdout=subprocess.DEVNULL)
        tally.runs += 1
        tally.equal += folder_hash(only_run(runs) / "adapter") == expected
        for name in differing(only_run(folder / "undisturbed") / "adapter", only_run(runs) / "adapter"):
            print(f"{runs}: {name} differs", flush=True)
        print(tally, flush=True)
    return tally


def differing(left: Path, right: Path) -> list[str]:
    """Files that two adapters don't both have with the same bytes."""
    names = {path.name for folder in (left, right) for path in folder.iterdir()}
    return sorted(names - set(filecmp.cmpfiles(left, right, names, shallow=False)[0]))


def made(folder: Path) -> Path:
    """A new folder. Each soak has one: a run that lies there already would be resumed and not trained."""
    folder.mkdir()
    return folder


def command(config: Path, runs: Path) -> list[str]:
    found = list_runs(runs)
    what = ["resume", str(found[0].path)] if found else ["train", str(config), f"save.dir={runs}"]
    return [sys.executable, "-m", "sapwood", *what]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000, help="of the tiny model")
    parser.add_argument("--real", type=int, default=0, help="kills of the built-in model, from cold")
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sapwood-crash-") as name:
        folder, tallies, started = Path(name), list[Tally](), time.monotonic()
        if chosen.kills:
            own = made(folder / "tiny")
            tallies.append(soak(chosen.kills, chosen.seed, own, lambda line: print(line, flush=True)))
        if chosen.real:
            tallies.append(real_soak(chosen.real, chosen.seed, made(folder / "real")))
        for tally in tallies:
            print(tally)
        print(f"{time.monotonic() - started:.0f} s")
    return 0 if all(tally.equal == tally.runs for tally in tallies) else 1


if __name__ == "__main__":
    sys.exit(main())
