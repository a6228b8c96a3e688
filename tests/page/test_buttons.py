"""Buttons that start a command: each is pressed in a browser, and what it made is seen there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sapwood.run.query import summarise
from sapwood.types import CHECK
from tests.page.conftest import Looking
from tests.page.shared import Server

LONG = 150_000  # milliseconds: each of them is a process that imports torch


def test_an_export_a_measurement_and_a_dry_push_are_pressed_and_their_results_are_shown(
    looking: Looking, server: Server, trained: Path
) -> None:
    pytest.importorskip("xllamacpp", reason="the export's check asks llama.cpp")
    with looking(server) as page:
        other = page.context.new_page()
        page.goto(server.url(f"/ship?run={trained.name}"))
        page.get_by_text("Nothing exported yet").wait_for()
        page.get_by_role("button", name="Export and check").click()
        other.goto(server.url(f"/compare?runs={trained.name}"))
        other.get_by_text("Not measured yet").wait_for()
        other.get_by_role("button", name=re.compile("^Measure ")).click()
        page.locator(".card .gauge").wait_for(timeout=LONG)
        assert page.locator("section.card .status.finished").inner_text() == "checked"
        assert ".gguf" in page.locator(".code pre").first.inner_text()
        assert list((trained / "exports").glob(f"*/{CHECK}"))
        page.get_by_label("ORG/NAME").fill("ours/trees")
        page.get_by_role("button", name="Dry run").click()
        page.get_by_role("heading", name="What would go to ours/trees").wait_for(timeout=LONG)
        assert f"sapwood push {trained.name} ours/trees" in page.locator(".code pre").last.inner_text()
        row = other.locator(".table tr", has_text="loss").filter(has_text="[")
        row.wait_for(timeout=LONG)
        assert re.search(r"[+-]\d\.\d+\s+\[[+-]\d\.\d+, [+-]\d\.\d+\]", row.inner_text())


def test_a_refused_press_says_why_and_changes_nothing(looking: Looking, server: Server, runs: Path) -> None:
    stopped = next(runs.glob("*-stopped-*"))
    with looking(server) as page:
        page.goto(server.url(f"/ship?run={stopped.name}"))
        page.get_by_label("ORG/NAME").fill("ours/trees")
        page.get_by_role("button", name="Dry run").click()
        page.get_by_text("the run has no finished adapter").wait_for()
    assert summarise(stopped).status == "stopped"
