"""How quick the local page is: first paint, an event's way to the screen, a run of 100,000 steps, 100,000
rows, and what it costs a training of ``--model``. ``python bench/page.py [--rows N] [--steps N]``; it needs
Chromium.

What is counted and not timed is held by tests: clicks from an empty folder to a training
(``tests/page/test_live.py``), hostile texts (``test_screens.py``), faults of access (``test_looks.py``).
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, Page

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.base.tiny import tiny_llama
from tests.browser import chromium, page_in
from tests.page.shared import (
    Server,
    environment,
    eventually,
    hold_run,
    made_run,
    serve,
    stepped,
    write_rows,
)  # fmt: skip

from bench import common
from sapwood.config.file import dump_config, parse_config
from sapwood.prepare.study import DATA, save_study, study_config
from sapwood.run.store import EVENTS, event_data, open_run

WATCHED = 20.0  # seconds over which events and cost are watched
STARTS = 3  # of the page; the figure is their median
TURNS, TURN = 33, 7.0  # of a training alone and with the page; seconds of a turn
SETTLED = 1.5  # seconds before each turn, in which a page that was frozen catches up
OPENED = 15.0  # seconds until a page is open beside a training
PAINTED = """() => {
  const first = performance.getEntriesByName('first-contentful-paint')[0];
  return first ? (performance.timeOrigin + first.startTime) / 1000 : null;
}"""
EVEN = {"prompt": "How old is the tree?", "completion": "It is ninety years old, neighbour, and well. " * 12}
FRAMES = """() => new Promise((done) => {
  const began = performance.now(); let frames = 0;
  const count = (now) => { frames++; now - began < 2000 ? requestAnimationFrame(count) : done(frames / 2); };
  requestAnimationFrame(count);
})"""
NOTE = """() => {
  window.seen = [];
  const figure = () => parseInt(document.querySelector('.tiles .progress span').innerText);
  new MutationObserver(() => seen.push([Date.now() / 1000, figure()]))
    .observe(document.querySelector('main'), { subtree: true, childList: true, characterData: true });
}"""


def timed(act: Callable[[], Any]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def long_run(runs: Path, steps: int) -> Path:
    """A run of so many steps, written at once."""
    run = made_run(runs, "long", steps=4)
    events = [(i, event_data(stepped(i, 3 / (1 + i / 9000)))) for i in range(1, steps + 1)]
    lines = [
        json.dumps({"seq": i, "t": 1.0 + i, "step": i, "kind": "stepped", "data": data}) for i, data in events
    ]
    (run / EVENTS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return run


def rows_run(home: Path, runs: Path, count: int) -> Path:
    """A run whose own copy of its data has so many rows, proved."""
    rows = [
        {
            "prompt": f"How old is tree {i}?",
            "completion": f"Tree {i} is {i % 90} years old, neighbour, and well.",
        }
        for i in range(count)
    ]
    write_rows(home / "rows.jsonl", rows)
    tree = {
        "name": "rows", "data": {"train": [str(home / "rows.jsonl")], "eval": 50},
        "base": {"model": str(tiny_llama(home)), "storage": "fp32"},
    }  # fmt: skip
    config = parse_config(tree)
    study = study_config(config)
    with open_run(runs, name="rows", config_yaml=dump_config(config), facts={"base": "tiny"}) as run:
        save_study(run.path / DATA, study)
        run.set_status("finished")
    return run.path


def measure_cost(home: Path, model: str) -> dict[str, float]:
    """What a page that nobody touches costs a training."""
    runs = home / "runs"
    made_run(runs, "first")
    with chromium() as browser, page_in(browser, 1280, 860) as page:
        server = serve(home, runs)
        try:
            page.goto(server.url(f"/?token={server.token}"))
            return slowdown(page, server, home, runs, model)
        finally:
            server.stop()


def measure(home: Path, steps: int, rows: int) -> dict[str, float]:
    runs, found = home / "runs", dict[str, float]()
    made_run(runs, "first")
    long, many = long_run(runs, steps), rows_run(home, runs, rows)
    with chromium() as browser:
        starts = [
            first_look(browser, home, runs) | first_steps(browser, home, long, steps) for _ in range(STARTS)
        ]
        for name in starts[0]:
            found[name] = statistics.median(start[name] for start in starts)
        with page_in(browser, 1280, 860) as page:
            server = serve(home, runs)
            try:
                page.goto(server.url(f"/?token={server.token}"))
                page.goto(server.url(f"/run/{long.name}"))
                found["zoom and pan, frames/s"] = zoomed(page)
                look_at_rows(page, server.url(f"/data?run={many.name}"), found)
                watch(page, server, home, runs, found)
            finally:
                server.stop()
    return found


def first_look(browser: Browser, home: Path, runs: Path) -> dict[str, float]:
    """From the command to what is seen of home, in a browser that has nothing of it in its cache."""
    with page_in(browser, 1280, 860) as page:
        began = time.time()
        server = serve(home, runs)
        said = time.time()
        try:
            page.goto(server.url(f"/?token={server.token}"))
            page.locator(".runs tbody tr").first.wait_for()
            listed = time.time()
            painted = float(page.evaluate(PAINTED))
        finally:
            server.stop()
    return {
        "address said, s": said - began, "first paint, s": painted - began, "runs listed, s": listed - began
    }  # fmt: skip


def first_steps(browser: Browser, home: Path, run: Path, steps: int) -> dict[str, float]:
    """A run of so many steps opened, of which the server has read nothing yet."""

    def opened() -> None:
        page.goto(server.url(f"/run/{run.name}"))
        page.get_by_text(f"{steps}/4").first.wait_for()
        page.locator(".main-chart canvas").wait_for()

    with page_in(browser, 1280, 860) as page:
        server = serve(home, run.parent)
        try:
            page.goto(server.url(f"/machine?token={server.token}"))  # home would read every run
            page.wait_for_timeout(3000)
            return {"steps opened, s": timed(opened)}
        finally:
            server.stop()


def slowdown(page: Page, server: Server, home: Path, runs: Path, model: str) -> dict[str, float]:
    """By how much a step takes longer while its run is watched: one training, alone and watched in turns.

    Every step has the same tokens. While it is alone, server and browser are frozen. A turn's
    figure is the median of its steps; a watched turn is compared with the mean of the two around it, so that
    a machine that becomes slower by and by doesn't count, and the median of those ratios is the answer. The
    processor's time that server and browser take is told beside it, since it varies less.
    """
    rows = write_rows(home / "even.jsonl", [EVEN] * 64)
    words = [
        str(rows), "data.eval=0", f"base.model={model}", "base.storage=fp32", "name=even",
        f"save.dir={runs}", "save.every=100000", "train.max_steps=100000", "train.batch_size=4",
        "train.lr=1e-6", "eval.samples=0",
    ]  # fmt: skip
    watching = psutil.Process().children(recursive=True)  # the server, the browser and its driver
    training = subprocess.Popen(
        [sys.executable, "-m", "sapwood", "train", *words], env=environment(home), cwd=home,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        run = eventually_run(runs, "even")
        page.goto(server.url(f"/run/{run.name}"))
        time.sleep(OPENED)
        turns: list[tuple[float, float]] = []
        used = 0.0
        for turn in range(TURNS):
            for process in watching:
                process.send_signal(signal.SIGCONT if turn % 2 else signal.SIGSTOP)
            time.sleep(SETTLED)
            began, before = time.time(), spent(watching)
            time.sleep(TURN)
            turns.append((began, time.time()))
            used += spent(watching) - before
    finally:
        for process in watching:
            process.send_signal(signal.SIGCONT)
        training.kill()
        training.wait()
    steps = [e for e in map(json.loads, (run / EVENTS).read_text().splitlines()) if e["kind"] == "stepped"]
    medians = [
        statistics.median(
            e["data"]["seconds"] for e in steps if began < e["t"] - e["data"]["seconds"] and e["t"] < ended
        )
        for began, ended in turns
    ]
    ratios = [
        100 * (2 * medians[i] / (medians[i - 1] + medians[i + 1]) - 1) for i in range(1, len(medians) - 1, 2)
    ]
    print("seconds of a step, alone and watched in turns:", " ".join(f"{m:.3f}" for m in medians))
    print("slowdown of each watched turn, %:", " ".join(f"{r:.1f}" for r in ratios))
    share = 100 * used / sum(ended - began for began, ended in turns[1::2]) / (psutil.cpu_count() or 1)
    return {
        "server and browser beside a run, % of the machine": share,
        "slowdown of a training, %": statistics.median(ratios),
    }


def spent(processes: list[psutil.Process]) -> float:
    """Seconds of a processor that those of them took that still live."""
    return sum(sum(process.cpu_times()[:2]) for process in processes if process.is_running())


def eventually_run(runs: Path, name: str, steps: int = 8) -> Path:
    """The run of that name, when it has made its first steps."""

    def going() -> list[Path]:
        found = runs.glob(f"*-{name}-*")
        return [run for run in found if (run / EVENTS).read_bytes().count(b'"stepped"') >= steps]

    eventually(going, 180)
    return going()[0]


def zoomed(page: Page) -> float:
    """Frames a second while somebody turns the wheel over the open run's curves."""
    page.locator(".main-chart canvas").wait_for()
    box = page.locator(".main-chart").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.evaluate(f"window.rate = null; ({FRAMES})().then((rate) => (window.rate = rate))")
    for i in range(60):
        page.mouse.wheel(0, -120 if i < 20 else 40 * (-1) ** i)
        page.wait_for_timeout(25)
    page.wait_for_function("window.rate !== null")
    return float(page.evaluate("window.rate"))


def look_at_rows(page: Page, address: str, found: dict[str, float]) -> None:
    page.goto(address)
    page.locator("tbody tr").first.wait_for(timeout=120_000)  # the helper has started by then
    page.wait_for_timeout(15_000)  # and has read all texts for the search

    def opened() -> None:
        page.goto(address)
        page.locator("tbody tr").first.wait_for()

    found["rows opened, s"] = timed(opened)

    def turned() -> None:
        page.locator(".pages a", has_text="›").first.click()
        page.get_by_text("51 to 100").first.wait_for()

    found["next page, s"] = timed(turned)
    field = page.get_by_label("Search the text")

    def searched() -> None:
        field.fill("tree 777 ")
        page.get_by_text("1 to 1 of 1").first.wait_for()

    found["search, s (0.18 of it waits for the next key)"] = timed(searched)


def watch(page: Page, server: Any, home: Path, runs: Path, found: dict[str, float]) -> None:
    """From the instant in the event's line to the figure on the screen; and what it costs meanwhile."""
    process, run = hold_run(home, runs, "watched", 0.35)
    try:
        page.goto(server.url(f"/run/{run.name}"))
        page.locator(".status.running").first.wait_for()
        page.evaluate(NOTE)
        own = psutil.Process(server.process.pid)
        before = own.cpu_times()
        page.wait_for_timeout(1000 * WATCHED)
        after = own.cpu_times()
    finally:
        process.kill()
        process.wait()
    times = {e["step"]: e["t"] for e in map(json.loads, (run / EVENTS).read_text().splitlines())}
    first: dict[int, float] = {}
    for at, step in page.evaluate("window.seen"):
        first.setdefault(step, at)
    delays = [at - times[step] for step, at in first.items() if step in times]
    found["event to screen, p95, s"] = statistics.quantiles(delays, n=20)[-1]
    used = after.user + after.system - before.user - before.system
    found["server beside a run, % of the machine"] = 100 * used / WATCHED / (psutil.cpu_count() or 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--model", default="builtin:smollm2", help="of the watched run (%(default)s)")
    parser.add_argument("--cost", action="store_true", help="only what it costs a training")
    parser.add_argument("--smoke", action="store_true", help="see that it works; the figures mean nothing")
    parser.add_argument("--out", type=Path, help="JSON file")
    given = parser.parse_args()
    facts = common.machine()
    with tempfile.TemporaryDirectory(prefix="sapwood-page-") as folder:
        homes = [Path(folder) / name for name in ("page", "cost")]
        for home in homes:
            home.mkdir()
        model = str(tiny_llama(homes[1])) if given.smoke else given.model
        found = {} if given.cost else measure(homes[0], given.steps, given.rows)
        found |= measure_cost(homes[1], model)
    print(common.table(("what", "measured"), [(name, f"{value:.2f}") for name, value in found.items()]))
    common.report("page", given, facts, {"figures": found})


if __name__ == "__main__":
    main()
