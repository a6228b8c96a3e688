"""How quick the local page is: first paint, an event's way to the screen, a run of 100,000 steps, 100,000
rows, and what it costs beside a run. ``python bench/page.py [--rows N] [--steps N]``; needs Chromium.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Page

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.base.tiny import tiny_llama
from tests.browser import chromium, page_in
from tests.page.shared import hold_run, made_run, serve, stepped, write_rows

from bench import common
from sapwood.config.file import dump_config, parse_config
from sapwood.prepare.study import DATA, save_study, study_config
from sapwood.run.store import EVENTS, event_data, open_run

WATCHED = 20.0  # seconds over which events and cost are watched
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


def measure(home: Path, steps: int, rows: int) -> dict[str, float]:
    runs, found = home / "runs", dict[str, float]()
    made_run(runs, "first")
    long, many = long_run(runs, steps), rows_run(home, runs, rows)
    with chromium() as browser, page_in(browser, 1280, 860) as page:
        began = time.perf_counter()
        server = serve(home, runs)
        try:
            page.goto(server.url(f"/?token={server.token}"))
            page.locator("h1").wait_for()
            found["first paint, s"] = time.perf_counter() - began
            look_at_steps(page, server.url(f"/run/{long.name}"), steps, found)
            look_at_rows(page, server.url(f"/data?run={many.name}"), found)
            watch(page, server, home, runs, found)
        finally:
            server.stop()
    return found


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
    parser.add_argument("--smoke", action="store_true", help="see that it works; the figures mean nothing")
    parser.add_argument("--out", type=Path, help="JSON file")
    given = parser.parse_args()
    facts = common.machine()
    with tempfile.TemporaryDirectory(prefix="sapwood-page-") as folder:
        found = measure(Path(folder), given.steps, given.rows)
    print(common.table(("what", "measured"), [(name, f"{value:.2f}") for name, value in found.items()]))
    common.report("page", given, facts, {"figures": found})


if __name__ == "__main__":
    main()
