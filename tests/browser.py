"""A real Chromium for the tests that look at pages; they skip, with the reason, if none is installed."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (  # the page under test is all that it may ask for
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)


@contextmanager
def browser_page(width: int, height: int, *, dark: bool = False) -> Generator[Page]:
    """A page of ``width`` x ``height`` CSS pixels whose errors and requests to other hosts fail the test."""
    with chromium() as browser, page_in(browser, width, height, dark=dark) as page:
        yield page


@contextmanager
def chromium() -> Generator[Browser]:
    """A browser; the test is skipped where none is installed."""
    from playwright.sync_api import sync_playwright

    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser is installed: none of {', '.join(NAMES)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(QUIET))
        yield browser
        browser.close()


@contextmanager
def page_in(browser: Browser, width: int, height: int, *, dark: bool = False, **more: Any) -> Generator[Page]:
    """A page with cookies of its own; ``more`` are settings of Playwright's contexts."""
    faults: list[str] = []
    scheme: Literal["dark", "light"] = "dark" if dark else "light"
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **more)
    page = context.new_page()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda asked: faults.extend(_elsewhere(asked.url)))
    try:
        yield page
    except Exception as error:
        shown = (
            "closed" if page.is_closed() else f"{page.title()}\n{page.locator('body').inner_text()[:2000]}"
        )
        error.add_note(f"faults of the page: {faults}; what it shows: {shown}")
        raise
    finally:
        context.close()
    assert not faults, faults


def _elsewhere(url: str) -> list[str]:
    here = url.startswith(("file:", "data:", "about:", "http://127.0.0.1"))
    return [] if here else [f"the page asks for {url}"]
