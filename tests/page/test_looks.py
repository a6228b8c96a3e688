"""Each screen in a real browser: languages, lights, a desk's and a phone's width, and what axe-core says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.page.conftest import Looking
from tests.page.shared import Server

if TYPE_CHECKING:
    from playwright.sync_api import Page

SCREENS = {
    "home": ("/", "Runs", "训练"),
    "new": ("/new", "New run", "新建训练"),
    "data": ("/data?run={run}", "Data", "数据"),
    "compare": ("/compare?runs={first},{second}", "Compare", "对比"),
    "chat": ("/chat?with={first}", "Chat", "对话"),
    "ship": ("/ship?run={run}", "Ship", "导出"),
    "machine": ("/machine", "Machine", "本机"),
    "run": ("/run/{run}", "trees", "trees"),
    "answers": ("/run/{run}?tab=answers", "trees", "trees"),
    "proof": ("/run/{run}?tab=proof", "trees", "trees"),
    "config": ("/run/{run}?tab=config", "trees", "trees"),
    "log": ("/run/{run}?tab=log", "trees", "trees"),
}
LOOKS = {  # width, height, dark, Chinese
    "desk-light-en": (1280, 860, False, False),
    "desk-dark-zh": (1280, 860, True, True),
    "phone-dark-en": (390, 844, True, False),
    "phone-light-zh": (390, 844, False, True),
}
SERIOUS = {"serious", "critical"}


@pytest.fixture(scope="module", params=LOOKS)
def look(looking: Looking, request: pytest.FixtureRequest, server: Server) -> Iterator[tuple[Page, str]]:
    width, height, dark, zh = LOOKS[request.param]
    with looking(server, width, height, dark=dark, zh=zh) as page:
        yield page, request.param


def address(server: Server, screen: str, runs: Path) -> str:
    names = {name: next(runs.glob(f"*-{name}-*")).name for name in ("trees", "first", "second")}
    return server.url(SCREENS[screen][0].format(run=names["trees"], **names))


@pytest.mark.parametrize("screen", SCREENS)
def test_a_screen_is_there_in_each_language_light_and_width_without_a_serious_fault_of_access(
    look: tuple[Page, str], server: Server, runs: Path, screen: str
) -> None:
    page, name = look
    page.goto(address(server, screen, runs))
    page.locator("h1").wait_for()
    zh, dark = name.endswith("zh"), "dark" in name
    assert page.locator("h1").inner_text() == SCREENS[screen][2 if zh else 1]
    assert page.locator("html").get_attribute("lang") == ("zh-CN" if zh else "en")
    assert page.locator("html").get_attribute("data-dark") == str(int(dark))
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{wide} pixels too wide"
    assert page.locator('nav a[aria-current="page"]').first.is_visible()
    if screen in ("home", "run", "data", "new", "proof", "chat"):
        assert not faults_of_access(page)


def faults_of_access(page: Page) -> list[str]:
    """What axe-core finds serious, in a sentence each."""
    axe: Any = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core isn't installed")
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['target']} {node['failureSummary']}"
        for one in found
        if one["impact"] in SERIOUS
        for node in one["nodes"]
    ]
