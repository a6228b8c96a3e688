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
TURNS, TURN = 8, 16.0  # of a training with the page and without; seconds of a turn
SETTLED = 8.0  # seconds before each turn: beside a training, a page takes some to open
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
            return {"slowdown of a training, %": slowdown(page, server, home, runs, model)}
        finally:
            server.stop()


def measure(home: Path, steps: int, rows: int) -> dict[str, float]:
    runs, found = home / "runs", dict[str, float]()
    made_run(runs, "first")
    long, many = long_run(runs, steps), rows_run(home, runs, rows)
    with chromium() as browser:
        starts = [first_look(browser, home, runs) for _ in range(STARTS)]
        for name in starts[0]:
            found[name] = statistics.median(start[name] for start in starts)
        with page_in(browser, 1280, 860) as page:
            server = serve(home, runs)
            try:
                page.goto(server.url(f"/?token={server.token}"))
                look_at_steps(page, server.url(f"/run/{long.name}"), steps, found)
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


def slowdown(page: Page, server: Server, home: Path, runs: Path, model: str) -> float:
    """By how much a step takes longer while its run is watched: one training, watched and alone in turns.

    Every step has the same tokens. While it is alone, the server is frozen and the page is empty.
    """
    rows = write_rows(home / "even.jsonl", [EVEN] * 64)
    words = [
        str(rows), "data.eval=0", f"base.model={model}", "base.storage=fp32", "name=even",
        f"save.dir={runs}", "save.every=100000", "train.max_steps=100000", "train.batch_size=4",
        "train.lr=1e-6", "eval.samples=0",
    ]  # fmt: skip
    training = subprocess.Popen(
        [sys.executable, "-m", "sapwood", "train", *words], env=environment(home), cwd=home,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        run = eventually_run(runs, "even")
        turns: list[tuple[bool, float, float]] = []
        for turn in range(TURNS):
            watched = turn % 2 == 0
            server.process.send_signal(signal.SIGCONT if watched else signal.SIGSTOP)
            page.goto(server.url(f"/run/{run.name}") if watched else "about:blank")
            time.sleep(SETTLED)
            began = time.time()
            time.sleep(TURN)
            turns.append((watched, began, time.time()))
    finally:
        server.process.send_signal(signal.SIGCONT)
        training.kill()
        training.wait()
    steps = [e for e in map(json.loads, (run / EVENTS).read_text().splitlines()) if e["kind"] == "stepped"]
    taken: dict[bool, list[float]] = {True: [], False: []}
    for watched, began, ended in turns:
        taken[watched] += [
            e["data"]["seconds"] for e in steps if began < e["t"] - e["data"]["seconds"] and e["t"] < ended
        ]
    print(f"steps: {len(taken[True])} watched, {len(taken[False])} alone")
    return 100 * (statistics.median(taken[True]) / statistics.median(taken[False]) - 1)


def eventually_run(runs: Path, name: str, steps: int = 8) -> Path:
    """The run of that name, when it has made its first steps."""

    def going() -> list[Path]:
        found = runs.glob(f"*-{name}-*")
        return [run for run in found if (run / EVENTS).read_bytes().count(b'"stepped"') >= steps]

    eventually(going, 180)
    return going()[0]


def look_at_steps(page: Page, address: str, steps: int, found: dict[str, float]) -> None:
    def opened() -> None:
        page.goto(address)
        page.get_by_text(f"{steps}/4").first.wait_for()
        page.locator(".main-chart canvas").wait_for()

    found["steps opened, s"] = timed(opened)
    box = page.locator(".main-chart").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.evaluate(f"window.rate = null; ({FRAMES})().then((rate) => (window.rate = rate))")
    for i in range(60):
        page.mouse.wheel(0, -120 if i < 20 else 40 * (-1) ** i)
        page.wait_for_timeout(25)
    page.wait_for_function("window.rate !== null")
    found["zoom and pan, frames/s"] = float(page.evaluate("window.rate"))


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
