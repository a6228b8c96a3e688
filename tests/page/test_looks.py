"""Each screen in a real browser: languages, lights, a desk's and a phone's width, and what axe-core says."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from sapwood.page.work.jobs import Jobs
from tests.page.conftest import Looking
from tests.page.shared import Server, eventually

if TYPE_CHECKING:
    from playwright.sync_api import Page

SCREENS = {  # address, the title in both languages, what shows that the screen is filled
    "home": ("/", "Runs", "训练", ".runs tbody tr"),
    "new": ("/new", "New run", "新建训练", ".fold"),
    "data": ("/data?run={run}&row=5", "Data", "数据", "article.card .tokens"),
    "rows": ("/data", "Data", "数据", "tbody tr"),
    "compare": ("/compare?runs={first},{second}", "Compare", "对比", ".panes .said"),
    "chat": ("/chat?with={first}", "Chat", "对话", ".ask"),
    "ship": ("/ship?run={run}", "Ship", "导出", ".card .toolbar"),
    "machine": ("/machine", "Machine", "本机", ".checks kbd"),
    "job": ("/job/{job}", "listed", "listed", "pre.log"),
    "run": ("/run/{run}", "trees", "trees", ".main-chart canvas"),
    "stopped": ("/run/{stopped}", "stopped", "stopped", ".actions .btn.strong"),
    "answers": ("/run/{run}?tab=answers", "trees", "trees", ".said"),
    "proof": ("/run/{run}?tab=proof", "trees", "trees", ".checks"),
    "config": ("/run/{run}?tab=config", "trees", "trees", ".settings"),
    "log": ("/run/{run}?tab=log", "trees", "trees", ".main h2"),
}
WIDTHS = {"desk": (1280, 860), "phone": (390, 844)}
SERIOUS = {"serious", "critical"}


class Look(NamedTuple):
    """Who looks, and with what."""

    width: str
    dark: bool
    zh: bool


# A screen is seen in both languages, in both lights and at both widths, by two people; SAPWOOD_LOOKS=all is
# everybody. Screens take turns in who the two are.
TURNS = (
    (Look("desk", False, False), Look("phone", True, True)),
    (Look("phone", False, False), Look("desk", True, True)),
)
EVERYBODY = tuple(Look(width, dark, zh) for width in WIDTHS for dark in (False, True) for zh in (False, True))


def looks() -> list[tuple[Look, str]]:
    """Who looks at what, person by person, so that one page of the browser shows many screens."""
    pairs = [
        (look, screen)
        for i, screen in enumerate(SCREENS)
        for look in (EVERYBODY if os.environ.get("SAPWOOD_LOOKS") == "all" else TURNS[i % 2])
    ]
    return sorted(pairs, key=lambda pair: pair[0])


@pytest.fixture(scope="module")
def names(runs: Path) -> dict[str, str]:
    """Of the runs, and of a job that has ended."""
    found = {name: next(runs.glob(f"*-{name}-*")).name for name in ("trees", "first", "second", "stopped")}
    jobs = Jobs(runs)
    job = jobs.start("model", ("list",), "listed")
    eventually(lambda: jobs.read(job.path).state == "done")
    return {**found, "run": found["trees"], "job": job.id}


@pytest.fixture(scope="module")
def pages(looking: Looking, server: Server) -> Generator[dict[Look, Page]]:
    """One page for each person, opened when it is first needed."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        class Pages(dict["Look", "Page"]):
            def __missing__(self, look: Look) -> Page:
                made = looking(server, *WIDTHS[look.width], dark=look.dark, zh=look.zh)
                self[look] = stack.enter_context(made)
                return self[look]

        yield Pages()


@pytest.mark.parametrize(
    ("look", "screen"),
    looks(),
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)),
)
def test_a_screen_is_there_in_each_language_light_and_width_without_a_serious_fault_of_access(
    pages: dict[Look, Page], names: dict[str, str], server: Server, look: Look, screen: str
) -> None:
    page, (address, en, zh, filled) = pages[look], SCREENS[screen]
    page.goto(server.url(address.format(**names)))
    page.locator(filled).first.wait_for(state="attached")
    assert page.locator("h1").inner_text() == (zh if look.zh else en)
    assert page.locator("html").get_attribute("lang") == ("zh-CN" if look.zh else "en")
    assert page.locator("html").get_attribute("data-dark") == str(int(look.dark))
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{wide} pixels too wide"
    assert page.locator('nav a[aria-current="page"]').first.is_visible()
    assert not faults_of_access(page)


def faults_of_access(page: Page) -> list[str]:
    """What axe-core finds serious, in a sentence each."""
    axe: Any = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core isn't installed")
    found = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{one['id']}: {node['target']} {node['failureSummary']}"
        for one in found
        if one["impact"] in SERIOUS
        for node in one["nodes"]
    ]
