"""Runs that go on, hang, die; a server that is killed; two tabs; a training from the first click on."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Generator
from pathlib import Path
from subprocess import Popen

import pytest

from sapwood.run.query import read_events, summarise
from tests.page.conftest import Looking
from tests.page.shared import Server, eventually, hold_run, serve

Held = tuple["Popen[str]", Path]


@pytest.fixture
def held(home: Path, runs: Path) -> Generator[Held]:
    """A run that another process records a step of every tenth of a second."""
    process, run = hold_run(home, runs)
    yield process, run
    if process.poll() is None:
        os.kill(process.pid, signal.SIGCONT)
        process.kill()
    process.wait()


def test_points_appear_while_the_run_goes_on_and_a_killed_one_shows_as_died_within_ten_seconds(
    looking: Looking, server: Server, held: Held
) -> None:
    process, run = held
    with looking(server) as page:
        page.goto(server.url(f"/run/{run.name}"))
        page.locator(".head .status.running").wait_for()
        step = page.locator(".tiles .progress span")
        first = int(step.inner_text().partition("/")[0])
        eventually(lambda: int(step.inner_text().partition("/")[0]) > first + 5, 15)
        process.kill()
        process.wait()
        killed = time.monotonic()
        page.locator(".head .status.died").wait_for(timeout=10_000)
        assert time.monotonic() - killed < 10
        assert "kill -9" in page.locator(".notice").first.inner_text()
        page.goto(server.url("/"))
        page.locator("tr", has_text="held").locator(".status.died").first.wait_for(timeout=10_000)


def test_curves_of_a_run_that_goes_on_cost_little_until_they_are_pointed_at(
    looking: Looking, server: Server, held: Held
) -> None:
    """As in a report, and by ECharts as soon as somebody wants to zoom or to read a figure."""
    process, run = held
    with looking(server) as page:
        page.goto(server.url(f"/run/{run.name}"))
        still, moving = page.locator(".main-chart .plot"), page.locator(".main-chart canvas")
        still.wait_for()
        assert moving.count() == 0
        assert page.locator(".small-chart .plot polyline.line").count() >= 4
        curve = page.locator(".main-chart polyline.smooth")
        first = curve.get_attribute("points")
        eventually(lambda: curve.get_attribute("points") != first, 15)
        room = page.locator(".main-chart:visible").bounding_box()
        still.hover()
        moving.wait_for()
        assert not still.is_visible() and page.locator(".small-chart canvas").count() == 4
        assert page.locator(".main-chart:visible").bounding_box() == room
        page.locator("h1").hover()
        still.wait_for()
        assert not moving.is_visible()
        process.kill()
        process.wait()
        moving.wait_for(timeout=15_000)
        assert not still.is_visible()


def test_a_run_whose_process_is_frozen_shows_as_hung_and_goes_on_when_it_is_woken(
    looking: Looking, server: Server, held: Held
) -> None:
    process, run = held
    with looking(server) as page:
        page.goto(server.url(f"/run/{run.name}"))
        page.locator(".head .status.running").wait_for()
        os.kill(process.pid, signal.SIGSTOP)
        page.locator(".head .status.hung").wait_for(timeout=10_000)
        assert "SIGSTOP" in page.locator(".notice").first.inner_text()
        page.get_by_role("button", name="Let it go on").click()
        page.locator(".head .status.running").wait_for(timeout=10_000)


def test_a_server_that_is_killed_touches_no_run_and_an_open_page_goes_on_with_the_next_one(
    looking: Looking, home: Path, runs: Path, held: Held
) -> None:
    process, run = held
    server = serve(home, runs)
    try:
        with looking(server) as page:
            other = page.context.new_page()
            page.goto(server.url(f"/run/{run.name}"))
            other.goto(server.url("/"))
            page.locator(".head .status.running").wait_for()
            other.locator("tr", has_text="held").locator(".status.running").first.wait_for()
            server.kill()
            before = len(read_events(run)[0])
            server = serve(home, runs, server.port)  # the same key: it is this user's
            for tab in (page, other):
                tab.reload()
                tab.locator(".status.running").first.wait_for()
            assert process.poll() is None and len(read_events(run)[0]) > before
            step = page.locator(".tiles .progress span")
            now = int(step.inner_text().partition("/")[0])
            eventually(lambda: int(step.inner_text().partition("/")[0]) > now, 15)
    finally:
        server.stop()


def test_from_an_empty_folder_a_dropped_file_becomes_a_run_in_six_clicks_that_is_stopped_and_resumed(
    looking: Looking, home: Path, tmp_path: Path
) -> None:
    """With a tiny base, which is named by typing; the built-in one needs no typing at all."""
    runs = home / "empty"
    server = serve(home, runs)
    clicks = 0
    try:
        with looking(server) as page:
            page.get_by_text("No runs yet").wait_for()
            page.locator("a.strong").first.click()
            clicks += 1
            with page.expect_file_chooser() as chosen:
                page.get_by_role("button", name="Choose a file").click()
            clicks += 2  # the button, and the file in the browser's own dialog
            chosen.value.set_files(home / "rows.jsonl")
            page.get_by_text("Rows are read as").wait_for(timeout=60_000)
            base = page.get_by_label("base.model")
            base.fill(str(home / "tiny-llama"))
            base.press("Enter")
            page.get_by_label("train.epochs").fill("2")
            page.get_by_text("Every row is proved").wait_for(timeout=120_000)
            page.get_by_role("button", name="Start", exact=True).click()
            clicks += 1
            page.wait_for_url(re.compile("/run/"), timeout=120_000)
            assert clicks <= 6
            page.get_by_role("button", name="Save and stop").click()
            page.locator(".head .status.stopped").wait_for(timeout=60_000)
            run = next(path for path in runs.iterdir() if (path / "run.json").is_file())
            stopped = summarise(run)
            assert stopped.status == "stopped" and stopped.step < (stopped.total_steps or 0)
            page.get_by_role("button", name="Resume").click()
            page.locator(".head .status.finished").wait_for(timeout=120_000)
            done = summarise(run)
            assert done.status == "finished" and done.step == done.total_steps == stopped.total_steps
            assert page.locator(".tiles .progress span").inner_text() == f"{done.step}/{done.step}"
            page.locator("nav.tabs a", has_text="Log").click()
            page.get_by_text("proof").first.wait_for()
            assert "checks passed" in page.locator("pre.log").inner_text()
    finally:
        server.stop()


def test_faults_of_the_rows_are_named_with_their_lines_while_one_types(
    looking: Looking, server: Server, home: Path
) -> None:
    bad = home / "bad.jsonl"
    bad.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "only <b>asked</b>"}\n', encoding="utf-8")
    with looking(server) as page:
        page.goto(server.url("/new"))
        page.get_by_label("or a path").fill("bad.jsonl")
        problems = page.locator(".problems").first
        problems.wait_for(timeout=60_000)
        page.locator(".problems code", has_text="bad.jsonl:2").first.wait_for()
        page.get_by_text("The line").first.click()
        assert "only <b>asked</b>" in page.locator(".problems pre").first.inner_text()
        assert page.get_by_role("button", name="Start", exact=True).is_disabled()
        page.get_by_label("or a path").fill("/etc/passwd")
        page.get_by_text("outside the folders").first.wait_for()


def test_a_tutorial_is_a_start_and_its_faults_are_named(looking: Looking, server: Server, home: Path) -> None:
    (home / "train.py").write_text(
        "from transformers import AutoModelForCausalLM, TrainingArguments, Trainer\n"
        "from peft import LoraConfig\n"
        "model = AutoModelForCausalLM.from_pretrained('Qwen/Qwen2.5-0.5B')\n"
        "config = LoraConfig(r=4, lora_alpha=8, target_modules=['nothing'])\n"
        "args = TrainingArguments(output_dir='out', learning_rate=3e-4, num_train_epochs=2)\n"
        "Trainer(model=model, args=args).train()\n",
        encoding="utf-8",
    )
    with looking(server) as page:
        page.goto(server.url("/new"))
        field = page.get_by_label("Start from a file")
        field.fill("train.py")
        field.press("Enter")
        page.get_by_text("settings taken over").wait_for(timeout=60_000)
        assert page.get_by_label("train.lr").input_value() == "0.0003"
        assert page.get_by_label("lora.rank").input_value() == "4"
        assert "hf:Qwen/Qwen2.5-0.5B" in page.locator(".code pre").first.inner_text()
